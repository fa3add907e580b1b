"""Inception of the published FID: which files are accepted, and that its features are torch-fidelity's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from fashiondpo.errors import InvalidBundle
from fashiondpo.metrics.inception import InceptionFeatures


def random_state() -> dict[str, Tensor]:
    """Weights of the published layout, random."""
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patched:
        torch.manual_seed(0)
        # without a file the network would be downloaded; its layers are there all the same
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patched.setattr("torch_fidelity.feature_extractor_inceptionv3.torch.load", lambda *_, **__: {})
        return FeatureExtractorInceptionV3("layout", ["2048"], "none").state_dict()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(random_state(), path)
    return path


class TestLoad:
    def test_refuses_torchvisions_network_by_name(self, tmp_path: Path):
        torch.save({"AuxLogits.fc.weight": torch.zeros(2), "fc.weight": torch.zeros(2)}, tmp_path / "w.pth")
        with pytest.raises(InvalidBundle, match="torchvision's Inception v3"):
            InceptionFeatures.load(tmp_path / "w.pth")

    def test_refuses_another_network(self, tmp_path: Path):
        torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "w.pth")
        with pytest.raises(InvalidBundle, match="does not hold Inception v3 of 2015-12-05"):
            InceptionFeatures.load(tmp_path / "w.pth")


@pytest.mark.slow
class TestFeatures:
    def test_are_those_of_torch_fidelity(self, path: Path):
        images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
        features = InceptionFeatures.load(path)
        network = FeatureExtractorInceptionV3("peer", ["2048"], str(path))
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2))[0]
        torch.testing.assert_close(features.images(list(images)), expected, rtol=1e-4, atol=1e-5)
        assert features.images([]).shape == (0, features.dim)
        assert features.feature_id.startswith("inception-v3-")
