"""LPIPS over a network with random weights of the real layout, against the formula written with plain convolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fashiondpo.errors import InvalidBundle
from fashiondpo.metrics.perceptual import SMALLEST_PX, PerceptualDistance
from fashiondpo.outfits.model import Image
from tests.reference import metric_formulas
from tests.unit.metrics.backbones import random_backbone

CHANNELS = {"alexnet": (64, 192, 384, 256, 256), "squeezenet1_1": (64, 128, 256, 384, 384, 512, 512)}


def random_linear(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        f"lin{number}.model.1.weight": torch.rand((1, channels, 1, 1), generator=generator)
        for number, channels in enumerate(CHANNELS[name])
    }


def whole_alex(backbone: dict[str, Tensor], linear: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the lpips package saves its network: slices, scaling, and the linear layers twice."""
    slice_of = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    layers = {
        f"net.slice{slice_of[int(key.split('.')[1])]}.{key.removeprefix('features.')}": value
        for key, value in backbone.items()
        if key.startswith("features.")
    }
    again = {f"lins.{key[3]}.{key[5:]}": value for key, value in linear.items()}
    scaling = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.ones(1, 3, 1, 1)}
    return scaling | layers | linear | again


def noise(count: int, side: int = SMALLEST_PX, *, seed: int = 0) -> list[Image]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def pixels(images: list[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 * 2 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of both formats, with the same weights."""
    folder = tmp_path_factory.mktemp("lpips")
    backbone = random_backbone("alexnet")
    torch.save(backbone, folder / "alexnet.pth")
    torch.save(whole_alex(backbone, random_linear("alexnet")), folder / "whole.pth")
    torch.save(random_linear("alexnet"), folder / "linear.pth")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> PerceptualDistance:
    return PerceptualDistance.load(folder / "whole.pth")


class TestFormula:
    def test_is_the_published_one(self, whole: PerceptualDistance):
        one, other = noise(3), noise(3, seed=1)
        linear = [weight.flatten() for weight in random_linear("alexnet").values()]
        expected = metric_formulas.alex_lpips(random_backbone("alexnet"), linear, pixels(one), pixels(other))
        torch.testing.assert_close(whole.between(one, other), expected, rtol=1e-4, atol=1e-5)

    def test_takes_the_published_linear_layers_where_the_file_has_none(self, folder: Path):
        one, other = noise(2), noise(2, seed=1)
        found = PerceptualDistance.load(folder / "alexnet.pth")
        import torchmetrics.functional.image as beside

        published = torch.load(
            Path(beside.__file__).parent / "lpips_models/alex.pth", map_location="cpu", weights_only=True
        )
        linear = [published[f"lin{number}.model.1.weight"].flatten() for number in range(5)]
        expected = metric_formulas.alex_lpips(random_backbone("alexnet"), linear, pixels(one), pixels(other))
        torch.testing.assert_close(found.between(one, other), expected, rtol=1e-4, atol=1e-5)
        assert found.name.startswith("lpips-alex-")


class TestDistance:
    def test_of_equal_pictures_is_nothing(self, whole: PerceptualDistance):
        assert whole.between(noise(3), noise(3)).tolist() == [0, 0, 0]

    @given(seed=st.integers(0, 1000))
    @settings(max_examples=5)
    def test_is_the_same_both_ways(self, whole: PerceptualDistance, seed):
        one, other = noise(2, seed=seed), noise(2, seed=seed + 1)
        torch.testing.assert_close(whole.between(one, other), whole.between(other, one))

    def test_grows_with_the_difference(self, whole: PerceptualDistance):
        one, other = noise(1)[0].astype(float), noise(1, seed=1)[0].astype(float)
        mixed = [(one + share * (other - one)).astype(np.uint8) for share in (0.1, 0.4, 1.0)]
        found = whole.between([one.astype(np.uint8)] * 3, mixed).tolist()
        assert found == sorted(found)
        assert found[0] > 0

    def test_does_not_depend_on_the_pairs_beside_it(self, whole: PerceptualDistance):
        one, other = noise(3), noise(3, seed=1)
        alone = torch.cat([whole.between([a], [b]) for a, b in zip(one, other, strict=True)])
        torch.testing.assert_close(whole.between(one, other), alone, rtol=1e-5, atol=1e-6)

    def test_enlarges_small_pictures(self, whole: PerceptualDistance):
        small = noise(2, 32), noise(2, 32, seed=1)
        assert (whole.between(*small) > 0).all()

    def test_of_no_pairs_is_empty(self, whole: PerceptualDistance):
        assert whole.between([], []).shape == (0,)

    def test_refuses_what_are_no_pairs(self, whole: PerceptualDistance):
        with pytest.raises(ValueError, match="expected pairs, got 2 and 1"):
            whole.between(noise(2), noise(1))


class TestLoad:
    def test_knows_squeezenet_by_its_layers(self, tmp_path: Path):
        torch.save(random_backbone("squeezenet1_1"), tmp_path / "squeeze.pth")
        found = PerceptualDistance.load(tmp_path / "squeeze.pth")
        assert found.name.startswith("lpips-squeeze-")
        assert found.between(noise(1), noise(1, seed=1)).item() > 0

    def test_refuses_linear_layers_alone(self, folder: Path):
        with pytest.raises(InvalidBundle, match="the linear layers alone are not enough"):
            PerceptualDistance.load(folder / "linear.pth")

    def test_names_layers_that_are_missing(self, folder: Path, tmp_path: Path):
        state = torch.load(folder / "alexnet.pth", weights_only=True)
        del state["features.6.bias"]
        torch.save(state, tmp_path / "cut.pth")
        with pytest.raises(InvalidBundle, match=r"lacks layers of LPIPS \(alex\): net.slice3.6.bias"):
            PerceptualDistance.load(tmp_path / "cut.pth")

    def test_refuses_layers_of_another_shape(self, folder: Path, tmp_path: Path):
        state = torch.load(folder / "alexnet.pth", weights_only=True)
        state["features.6.bias"] = torch.zeros(3)
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(InvalidBundle, match="does not fit LPIPS"):
            PerceptualDistance.load(tmp_path / "other.pth")
