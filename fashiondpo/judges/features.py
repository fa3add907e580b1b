"""Image features of a frozen CLIP model (arXiv:2103.00020), which compatibility and personalization share.

A mini model is a folder: `open_clip_config.json`, `model.safetensors`, `tokenizer/`. Published models have their own
preprocessing; `clip_places` says how they are named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.judges.clip_places import CONFIG_FILE, ClipPlace, find_clip, open_clip_model
from fashiondpo.judges.pixels import square_batch
from fashiondpo.judges.preprocessing import Preprocessing
from fashiondpo.judges.weights import WEIGHTS_FILE, save_weights, weights_digest
from fashiondpo.outfits.model import Image

TOKENIZER_FOLDER = "tokenizer"

Tokenize = Callable[[Sequence[str]], Tensor]


@runtime_checkable
class ImageFeatures(Protocol):
    """Turns pictures into vectors."""

    @property
    def feature_id(self) -> str:
        """Name and hash of the weights: equal ids mean equal features."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def images(self, images: Sequence[Image]) -> Tensor:
        """Features of pictures: shape (n, dim), unit length, float32 on the CPU."""


class OpenClipFeatures:
    """Features of an open_clip model."""

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        config: Mapping[str, Any],
        tokenizer: Any | None = None,
        source: Path | str | None = None,
        preprocessing: Preprocessing | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
    ) -> None:
        """Take over a model.

        Args:
            model: an open_clip CLIP; put into eval mode on `device`.
            name: for the feature id.
            config: its open_clip model configuration.
            tokenizer: a transformers CLIPTokenizer; without one the source has it.
            source: where it was loaded from: a folder that `save` wrote, or what open_clip knows a tokenizer by.
            preprocessing: of a published model, which wants pixels as it was trained with; None: of a model of our own.
            device: where it computes; results come back to the CPU.
            batch_size: pictures or texts per forward.
        """
        self._model = model.to(device).eval().requires_grad_(False)
        self._name, self._config, self._device, self._batch_size = name, config, torch.device(device), batch_size
        self._tokenizer, self._source = tokenizer, source
        own = model.visual.preprocess_cfg
        self._size_px = int(np.max(own["size"]))
        self._mean = torch.tensor(own["mean"], device=device).view(3, 1, 1)
        self._std = torch.tensor(own["std"], device=device).view(3, 1, 1)
        self._preprocessing = preprocessing
        self._feature_id = f"{name.replace('/', '-')}-{weights_digest(model.state_dict())[:16]}"
        if preprocessing is not None:  # the same weights give other features from other pixels, or with another GELU
            gelu = "-quick" if config.get("quick_gelu", False) else ""
            self._feature_id += f"-{preprocessing.digest}{gelu}"

    @classmethod
    def load(cls, place: Path | str, device: torch.device | str = "cpu", *, pretrained: str | None = None) -> Self:
        """Load a model from a place of this machine; nothing is fetched from anywhere.

        Args:
            place: a folder, a weights file, `open_clip:ViT-B-32/TAG` or `open_clip:ViT-B-32/FILE`; see `clip_places`.
            device: where it computes.
            pretrained: tag or file of the weights, where the place is open_clip's name of an architecture alone.

        Raises:
            InvalidBundle: if there is no such model here, a part of it is missing, or its weights do not fit.
        """
        found = find_clip(place, pretrained)
        model: Any = open_clip_model(found)
        if found.is_own:
            return cls(model, name=found.name, config=found.config, source=found.folder, device=device)
        return cls(
            model,
            name=found.name.removesuffix("-quickgelu"),
            config=found.config,
            source=_tokenizer_name(found),
            preprocessing=Preprocessing.of(model.visual.preprocess_cfg),
            device=device,
        )

    @property
    def feature_id(self) -> str:
        """Name and hash of the weights; of a published model, of its preprocessing too."""
        return self._feature_id

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._config["embed_dim"])

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> Tensor:
        """Features of pictures of any size: shape (n, dim), unit length, float32 on the CPU."""
        batches = [
            self._model.encode_image(self._pixels(images[start : start + self._batch_size]))
            for start in range(0, len(images), self._batch_size)
        ]
        return self._unit(batches)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features of captions: shape (n, dim), unit length, float32 on the CPU."""
        batches = [
            self._model.encode_text(self._tokens(texts[start : start + self._batch_size]).to(self._device))
            for start in range(0, len(texts), self._batch_size)
        ]
        return self._unit(batches)

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads; the feature id stays the same.

        Raises:
            InvalidInput: for a published model: it is loaded by its name.
        """
        if isinstance(self._source, str):
            raise InvalidInput(f"{self._name} is a published model: load it from its own place instead of saving it")
        save_weights(folder / WEIGHTS_FILE, self._model.state_dict())
        preprocess = {"mean": self._mean.flatten().tolist(), "std": self._std.flatten().tolist()}
        written = {"name": self._name, "model_cfg": self._config, "preprocess_cfg": preprocess}
        (folder / CONFIG_FILE).write_text(json.dumps(written, indent=2) + "\n")
        self._transformers_tokenizer().save_pretrained(folder / TOKENIZER_FOLDER)

    def _pixels(self, images: Sequence[Image]) -> Tensor:
        if self._preprocessing is not None:
            return self._preprocessing.pixels(images, self._device)
        return (square_batch(images, self._size_px, self._device) - self._mean) / self._std

    def _unit(self, batches: list[Tensor]) -> Tensor:
        if not batches:
            return torch.empty(0, self.dim)
        return F.normalize(torch.cat(batches).float(), dim=-1).cpu()

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        if isinstance(self._source, str):
            tokens: Tensor = open_clip.get_tokenizer(self._source)(list(texts))
            return tokens
        return tokenize(self._transformers_tokenizer(), texts, int(self._config["text_cfg"]["context_length"]))

    def _transformers_tokenizer(self) -> Any:
        if self._tokenizer is None:
            from transformers import CLIPTokenizer  # judges that see images alone do without it

            if not isinstance(self._source, Path):
                raise InvalidInput(f"{self._name} was made without a tokenizer: it takes no texts")
            path = self._source / TOKENIZER_FOLDER
            try:
                self._tokenizer = CLIPTokenizer.from_pretrained(str(path))
            except (OSError, ValueError, TypeError) as error:
                raise InvalidBundle(f"{path} is not a readable tokenizer: {error}") from error
        return self._tokenizer


def _tokenizer_name(found: ClipPlace) -> str:
    return found.name if found.folder is None else f"local-dir:{found.folder}"


def tokenize(tokenizer: Any, texts: Sequence[str], context_length: int) -> Tensor:
    """Token ids of captions by a transformers tokenizer, padded and cut: shape (n, context_length)."""
    encoded = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=context_length, return_tensors="pt"
    )
    ids: Tensor = encoded.input_ids
    return ids
