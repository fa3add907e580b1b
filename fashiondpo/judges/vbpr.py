"""VBPR (arXiv:1510.01784) as an outfit evaluator: how well an item goes with the other items of an outfit.

    score(item, outfit) = <phi(item), phi(mean of outfit)> + w . item + b
    phi = LeakyReLU . i_map2 . LeakyReLU . i_map1

That is the published network. The better variant has a map of its own for the outfit side and averages mapped items
instead of features: score = <phi(item), mean of psi(outfit items)> + w . item + b.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.weights import load_into, read_config, save_module, weights_digest

PUBLISHED_FEATURES = "unsaved-random-layer"
_PUBLISHED_PREFIXES = ("module.", "rec_model.")


@dataclass(frozen=True)
class VBPRConfig:
    """Shape and provenance of a VBPR network.

    Attributes:
        feature_dim, hidden_dim, dim: width of features, of the maps' middle and of the common space.
        shared_map: one map for both sides, as published; False gives the outfit side its own.
        negative_slope: of the LeakyReLU.
        feature_id: the features it was trained on.
        features_are_reproducible: False for the published weights, whose features nobody can compute again.
    """

    feature_dim: int
    hidden_dim: int = 128
    dim: int = 64
    shared_map: bool = False
    negative_slope: float = 0.2
    feature_id: str = ""
    features_are_reproducible: bool = True


class VBPR(nn.Module):
    """Scores items against the rest of an outfit, both given as image features."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: VBPRConfig) -> None:
        """Fresh weights; features are taken as they are until `standardise` says otherwise."""
        super().__init__()
        self.config = config
        self.i_map1 = nn.Linear(config.feature_dim, config.hidden_dim)
        self.i_map2 = nn.Linear(config.hidden_dim, config.dim)
        self.visual_bias = nn.Linear(config.feature_dim, 1)
        if not config.shared_map:
            self.o_map1 = nn.Linear(config.feature_dim, config.hidden_dim)
            self.o_map2 = nn.Linear(config.hidden_dim, config.dim)
        self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
        self.register_buffer("feature_std", torch.ones(config.feature_dim))

    def standardise(self, features: Tensor) -> None:
        """Take mean and standard deviation of the training features, shape (n, feature_dim), out of every input."""
        self.feature_mean.copy_(features.mean(0))
        self.feature_std.copy_(features.std(0).clamp_min(1e-4))

    def forward(self, items: Tensor, others: Tensor, is_given: Tensor) -> Tensor:
        """Scores of items against the outfits they would complete.

        Args:
            items: features, shape (n, candidates, feature_dim).
            others: features of each outfit's other items, shape (n, slots, feature_dim).
            is_given: which of the others are there, shape (n, slots), bool; at least one per row.

        Returns:
            Shape (n, candidates).
        """
        items, others = self._standardised(items), self._standardised(others)
        outfit = self._outfit_vectors(others, is_given)
        item_vectors = self._map(items, self.i_map1, self.i_map2)
        bias: Tensor = self.visual_bias(items).squeeze(-1)
        return torch.einsum("ncd,nd->nc", item_vectors, outfit) + bias

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.feature_mean) / self.feature_std

    def _outfit_vectors(self, others: Tensor, is_given: Tensor) -> Tensor:
        weights = is_given.to(others.dtype)
        weights = (weights / weights.sum(1, keepdim=True)).unsqueeze(-1)
        if self.config.shared_map:
            return self._map((weights * others).sum(1), self.i_map1, self.i_map2)
        return (weights * self._map(others, self.o_map1, self.o_map2)).sum(1)

    def _map(self, features: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
        slope = self.config.negative_slope
        return F.leaky_relu(second(F.leaky_relu(first(features), slope)), slope)

    @property
    def version(self) -> str:
        """Names the weights, for scores."""
        return f"vbpr-{weights_digest(self.state_dict())[:12]}"

    def save(self, folder: Path) -> None:
        """Write config.json (with the feature id and the weights' hash) and model.safetensors."""
        save_module(folder, self, {**asdict(self.config), "sha256": weights_digest(self.state_dict())})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Load a folder that `save` wrote, or a published `.pt` state dict; ready to score on `device`.

        Raises:
            InvalidBundle: if a part is missing, of another shape, or no longer has the hash it was saved with.
        """
        network = cls._load_published(path) if path.is_file() else cls._load_folder(path)
        return network.to(device).eval().requires_grad_(False)

    @classmethod
    def _load_folder(cls, folder: Path) -> Self:
        config = read_config(folder)
        expected = config.pop("sha256", None)
        if unknown := sorted(set(config) - {f.name for f in fields(VBPRConfig)}):
            raise InvalidBundle(f"{folder} is not a VBPR folder: unknown settings {', '.join(unknown)}")
        try:
            network = cls(VBPRConfig(**config))  # type: ignore[arg-type]
        except (TypeError, RuntimeError) as error:
            raise InvalidBundle(f"{folder} does not describe a VBPR network: {error}") from error
        load_into(network, folder)
        if expected != (actual := weights_digest(network.state_dict())):
            raise InvalidBundle(f"the weights in {folder} hash to {actual}, but were saved as {expected}")
        return network

    @classmethod
    def _load_published(cls, path: Path) -> Self:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise InvalidBundle(f"{path} is not a readable state dict: {error}") from error
        if not isinstance(state, dict):
            raise InvalidBundle(f"{path} holds a {type(state).__name__}, expected a state dict")
        tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
        return cls.from_published({layer: tensors[key] for layer, key in published_layers(tensors).items()}, str(path))

    @classmethod
    def from_published(cls, state: Mapping[str, Tensor], source: str) -> Self:
        """The published network from its layers; marked, since its features cannot be computed again.

        Args:
            state: by the names of `published_layers`; biases may be missing, and are zero then.
            source: where they come from, for messages.

        Raises:
            InvalidBundle: if a layer is missing or they do not fit together.
        """
        weights = {name: state.get(name) for name in _PUBLISHED_MATRICES}
        if missing := [name for name, tensor in weights.items() if tensor is None or tensor.ndim != 2]:
            raise InvalidBundle(f"{source} is not a published VBPR file: {', '.join(missing)} missing or not a matrix")
        # 0.01 is LeakyReLU's default slope.
        hidden, feature_dim = weights["i_map1.weight"].shape  # type: ignore[union-attr]
        dim = weights["i_map2.weight"].shape[0]  # type: ignore[union-attr]
        network = cls(VBPRConfig(feature_dim, hidden, dim, True, 0.01, PUBLISHED_FEATURES, False))
        own = network.state_dict()
        rest = {name: torch.zeros_like(own[name]) for name in own if name.endswith(".bias")}
        rest |= {name: own[name] for name in ("feature_mean", "feature_std")}
        try:
            network.load_state_dict({**rest, **state})
        except RuntimeError as error:
            raise InvalidBundle(f"{source} is not a published VBPR file: {error}") from error
        return network


_LAYERS = ("i_map1", "i_map2", "visual_bias")
_PUBLISHED_MATRICES = tuple(f"{name}.weight" for name in _LAYERS)


def published_layers(keys: Iterable[str]) -> dict[str, str]:
    """Which published key holds which layer that scoring uses, by the layer's name here (`i_map1.weight`, …)."""
    found = {_published_name(key): key for key in keys}
    layers = {name: found.get(name, found.get(name.removesuffix(".weight"), "")) for name in _PUBLISHED_MATRICES}
    layers |= {f"{name}.bias": found.get(f"{name}.bias", "") for name in _LAYERS}
    return {name: key for name, key in layers.items() if key}


def _published_name(key: str) -> str:
    for prefix in _PUBLISHED_PREFIXES:
        key = key.removeprefix(prefix)
    return key
