"""The features of the published FID: Inception v3 of 2015 at its last pooling, 2048 numbers a picture.

The network is torch-fidelity's, which computes what the paper's TensorFlow graph computes; the weights come from a file,
`weights-inception-2015-12-05-6726825d.pth` of torch-fidelity or `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid.
Inception of torchvision is another network, and its distances are not comparable.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.pixels import square_batch
from fashiondpo.metrics.weight_files import file_id, read_weights
from fashiondpo.outfits.model import Image

LAYER = "2048"
_BATCH = 32
_TORCHVISION_KEY = "AuxLogits.fc.weight"


class InceptionFeatures:
    """Turns pictures into the features of the published FID."""

    dim = 2048

    def __init__(self, network: Any, feature_id: str, device: torch.device | str = "cpu") -> None:
        """Take over torch-fidelity's network; it computes on `device`."""
        self._network, self._feature_id, self._device = network.to(device), feature_id, device

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Load a published file.

        Raises:
            InvalidBundle: if it is unreadable, or of another network.
        """
        state = read_weights(path)
        if _TORCHVISION_KEY in state:
            raise InvalidBundle(
                f"{path} holds torchvision's Inception v3; the FID wants the weights of 2015-12-05, as torch-fidelity and "
                "pytorch-fid publish them"
            )
        # The constructor reads a file with pickle, or downloads one: it gets what was read safely, written anew.
        content = io.BytesIO()
        torch.save(state, content)
        content.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", [LAYER], content)
        except RuntimeError as error:
            raise InvalidBundle(f"{path} does not hold Inception v3 of 2015-12-05: {error}") from error
        return cls(network, f"inception-v3-{file_id(path)}", device)

    @property
    def feature_id(self) -> str:
        """Name and hash of the file."""
        return self._feature_id

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> Tensor:
        """Features of pictures of any size: shape (n, 2048), float32 on the CPU.

        Pictures that are not square are padded with white; the network itself scales to 299 pixels.
        """
        features = [
            self._network(self._pixels(images[start : start + _BATCH]))[0].float().cpu()
            for start in range(0, len(images), _BATCH)
        ]
        return torch.cat(features) if features else torch.empty(0, self.dim)

    def _pixels(self, images: Sequence[Image]) -> Tensor:
        side = max(max(image.shape[:2]) for image in images)
        return (square_batch(images, side, self._device) * 255).round().to(torch.uint8)
