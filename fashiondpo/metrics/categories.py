"""Who names the category of a picture: the mini family's held-out network, or CLIP with the categories' sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from fashiondpo.diffusion.conditions import category_prompt
from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.held_out import HeldOutNet
from fashiondpo.judges.pixels import square_batch
from fashiondpo.judges.weights import weights_digest
from fashiondpo.outfits.model import Category, Image

ZERO_SHOT_SCALE = 100.0
"""CLIP's own: the largest temperature that its training allows, which every published model has reached."""

_BATCH = 256


@runtime_checkable
class CategoryClassifier(Protocol):
    """Gives every picture a chance for every category."""

    @property
    def name(self) -> str:
        """Network and hash of its weights."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The categories, in the order of the chances."""

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """Chances, shape (n, categories), float64 on the CPU; every row adds up to 1."""


class HeldOutClassifier:
    """The held-out network, which no label comes from: chances of categories, and features of pictures."""

    def __init__(self, network: HeldOutNet, device: torch.device | str = "cpu") -> None:
        """Take over a trained network; it computes on `device`."""
        self._network, self._device = network.to(device).eval().requires_grad_(False), device
        self._name = f"held-out-{weights_digest(network.state_dict())[:12]}"

    @classmethod
    def load(cls, folder: Path, categories: Mapping[int, Category], device: torch.device | str = "cpu") -> Self:
        """Load a held-out judge's folder.

        Raises:
            InvalidBundle: if a part is missing or of another shape, or it knows other categories than 0, 1, … of these.
        """
        network = HeldOutNet.load(folder)
        if set(categories) != set(range(network.config.categories)):
            raise InvalidBundle(
                f"{folder} tells {network.config.categories} categories apart, numbered from 0; the data set has "
                f"{len(categories)}: {sorted(categories)[:8]}"
            )
        return cls(network, device)

    @property
    def name(self) -> str:
        """Network and hash of its weights."""
        return self._name

    feature_id = name

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self._network.head[0].out_features)  # type: ignore[arg-type]

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The categories, in the order of the chances."""
        return tuple(range(self._network.config.categories))

    def images(self, images: Sequence[Image]) -> Tensor:
        """Features of pictures: what the last layer sees, shape (n, dim), not normalised, float32 on the CPU."""
        return self._batched(images, lambda pixels: self._network.head[:2](self._network.body(pixels)), self.dim)

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """Chances of the categories, shape (n, categories), float64 on the CPU."""
        logits = self._batched(images, self._network, len(self.category_ids))
        return logits.double().softmax(1)

    @torch.inference_mode()
    def _batched(self, images: Sequence[Image], compute: _Compute, width: int) -> Tensor:
        side = self._network.config.image_size_px
        batches = [
            compute(square_batch(images[start : start + _BATCH], side, self._device) * 2 - 1).float().cpu()
            for start in range(0, len(images), _BATCH)
        ]
        return torch.cat(batches) if batches else torch.empty(0, width)


class ZeroShotClassifier:
    """CLIP without training: the category whose sentence is nearest."""

    def __init__(self, features: OpenClipFeatures, categories: Mapping[int, Category]) -> None:
        """Embed the sentence of every category.

        Args:
            features: with a tokenizer.
            categories: by id.
        """
        self._features = features
        self._category_ids = tuple(sorted(categories))
        self._sentences = features.texts(
            [category_prompt(categories[category_id]) for category_id in self._category_ids]
        )

    @property
    def name(self) -> str:
        """Network and hash of its weights."""
        return f"zero-shot-{self._features.feature_id}"

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The categories, in the order of the chances."""
        return self._category_ids

    def probabilities(self, images: Sequence[Image]) -> Tensor:
        """Chances of the categories, shape (n, categories), float64 on the CPU."""
        return (ZERO_SHOT_SCALE * self._features.images(images).double() @ self._sentences.double().T).softmax(1)


class _Compute(Protocol):
    def __call__(self, pixels: Tensor, /) -> Tensor: ...
