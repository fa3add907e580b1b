"""Whether adapter weights fit a generator, told from their shapes alone: the model in use need not be touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from torch import nn

from fashiondpo.diffusion.lora import TARGETS, AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import InvalidAdapter


@dataclass(frozen=True)
class AdapterFit:
    """What adapters of a generator look like.

    Attributes:
        features: by name of the UNet's projection, how many features go in and out.
        base_digest: of the bundle.
        max_rank: of the engine's slots.
    """

    features: Mapping[str, tuple[int, int]]
    base_digest: str
    max_rank: int

    @classmethod
    def of(cls, bundle: DiFashion, max_rank: int) -> Self:
        """Adapters for this bundle, whose UNet carries none yet."""
        features = {
            name: (module.in_features, module.out_features)
            for name, module in bundle.unet.named_modules()
            if isinstance(module, nn.Linear)
        }
        return cls(features, bundle.digest, max_rank)

    def check(self, weights: AdapterWeights) -> None:
        """Refuse weights that the engine could not paint with.

        Raises:
            InvalidAdapter: says whether base, targets, rank, names or shapes are to blame.
        """
        weights.check()
        if unknown := sorted(set(weights.targets) - set(TARGETS)):
            raise InvalidAdapter(f"the adapter changes {unknown}, only {', '.join(TARGETS)} may be changed")
        if weights.base_digest != self.base_digest:
            raise InvalidAdapter(
                f"the adapter was trained on base {weights.base_digest[:12]}, this generator is {self.base_digest[:12]}"
            )
        if weights.rank > self.max_rank:
            raise InvalidAdapter(f"the adapter has rank {weights.rank}, this generator takes up to {self.max_rank}")
        expected = self._expected(weights)
        missing = sorted(expected.keys() - weights.tensors.keys())
        strange = sorted(weights.tensors.keys() - expected.keys())
        if missing or strange:
            raise InvalidAdapter(
                f"the adapter does not fit the UNet: {len(missing)} tensors missing {missing[:3]}, "
                f"{len(strange)} unknown {[name[:200] for name in strange[:3]]}"
            )
        for name, shape in expected.items():
            if tuple(weights.tensors[name].shape) != shape:
                found = tuple(weights.tensors[name].shape)
                raise InvalidAdapter(f"{name!r} has shape {found}, the UNet needs {shape}")

    def _expected(self, weights: AdapterWeights) -> Mapping[str, tuple[int, int]]:
        endings = tuple(f".{target}" for target in weights.targets)
        shapes: dict[str, tuple[int, int]] = {}
        for name, (features_in, features_out) in self.features.items():
            if name.endswith(endings):
                shapes[f"{name}.lora_A.weight"] = weights.rank, features_in
                shapes[f"{name}.lora_B.weight"] = features_out, weights.rank
        return shapes
