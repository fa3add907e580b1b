"""Where CLIP models are found, and how they are opened: always from this machine, never from the network.

FOLDER                        open_clip_config.json and weights, as `OpenClipFeatures.save` or a model hub has them
FOLDER/weights.safetensors    one of several weights in such a folder
open_clip:ViT-B-32/TAG        published weights by open_clip's names, from the model cache
open_clip:ViT-B-32/FILE       an architecture by open_clip's name, its weights in a file (.safetensors, .bin, .pt, .pth)
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn

from fashiondpo.errors import InvalidBundle

CONFIG_FILE = "open_clip_config.json"
PREFIX = "open_clip:"
"""Starts the place of a published architecture."""

_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
_PREFERRED = (HF_SAFE_WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", HF_WEIGHTS_NAME, "model.safetensors")
_GRIDS = ("visual.positional_embedding", "visual.trunk.pos_embed", "positional_embedding")
_UNREADABLE = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, StopIteration, SafetensorError,
    pickle.UnpicklingError,
)  # fmt: skip
"""What torch, safetensors and open_clip raise for files and configurations that are no model's."""


@dataclass(frozen=True)
class ClipPlace:
    """The parts of a model.

    Attributes:
        name: of the architecture; in a folder that `OpenClipFeatures.save` wrote, the model's own.
        config: open_clip's model configuration.
        weights: the file.
        preprocess: what is said of its preprocessing; the rest is open_clip's default.
        folder: where its configuration lies, if it does not come from open_clip.
        is_own: whether `OpenClipFeatures.save` wrote the folder.
    """

    name: str
    config: Mapping[str, Any]
    weights: Path
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    is_own: bool = False


def find_clip(place: Path | str, pretrained: str | None = None) -> ClipPlace:
    """Tell a model's parts from its place.

    Args:
        place: see above; the prefix may be left out where `pretrained` is given.
        pretrained: tag or file of the weights, where the place is an architecture alone.

    Raises:
        InvalidBundle: if there is no such model on this machine; says what to do.
    """
    path, text = Path(place), str(place)
    if path.is_dir() or (path.is_file() and path.suffix in _ENDINGS):
        return _in_folder(path)
    if text.startswith(PREFIX) or pretrained is not None:
        name, _, weights = text.removeprefix(PREFIX).partition("/")
        if not (weights := pretrained or weights):
            raise InvalidBundle(
                f"{text} does not say which weights: expected {PREFIX}{name}/TAG or {PREFIX}{name}/FILE"
            )
        return _published(name, weights)
    raise InvalidBundle(
        f"{text} is neither a folder of CLIP weights nor a published open_clip model: expected a folder with "
        f"{CONFIG_FILE}, a weights file in one, {PREFIX}NAME/TAG, or {PREFIX}NAME/FILE"
    )


def open_clip_model(found: ClipPlace) -> nn.Module:
    """Build the model on the CPU and load its weights, every tensor of them.

    Raises:
        InvalidBundle: if the configuration describes no model, or the file holds other weights.
    """
    config = deepcopy(dict(found.config))
    if "hf_model_name" in config.get("text_cfg", {}):
        raise InvalidBundle(f"{found.name} takes its text tower from a model hub: use a CLIP that is whole by itself")
    try:
        model = _build(config)
        _check_grids(model, found.weights)
        open_clip.load_checkpoint(model, str(found.weights), strict=True, weights_only=True)
        preprocess = open_clip.transform.PreprocessCfg()
        merged = open_clip.transform.merge_preprocess_dict(preprocess, dict(found.preprocess))
        open_clip.set_model_preprocess_cfg(model, merged | {"size": model.visual.image_size})  # type: ignore[union-attr]
    except _UNREADABLE as error:
        where = found.folder or found.weights
        raise InvalidBundle(f"{where} does not hold the weights of a CLIP model {found.name}: {error}") from error
    return model


def _build(config: dict[str, Any]) -> nn.Module:
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False  # timm would fetch weights only to have them replaced
    kind = open_clip.CLIP
    if config.pop("custom_text", False):
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    model: nn.Module = kind(**config)
    return model


def _check_grids(model: nn.Module, weights: Path) -> None:
    """open_clip stretches embeddings of another resolution to fit: other features under the same name."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name in _GRIDS}
    for name, shape in _shapes(weights).items():
        if name in expected and shape != expected[name]:
            raise ValueError(f"its {name} has shape {shape}, but {expected[name]} is expected")


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    if weights.suffix == ".safetensors":
        with safe_open(weights, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    state = torch.load(weights, map_location="meta", weights_only=True)
    state = state.get("state_dict", state)
    return {
        name.removeprefix("module."): tuple(value.shape) for name, value in state.items() if hasattr(value, "shape")
    }


def _in_folder(path: Path) -> ClipPlace:
    folder = path if path.is_dir() else path.parent
    try:
        written = json.loads((folder / CONFIG_FILE).read_text())
        config, preprocess = written["model_cfg"], written.get("preprocess_cfg") or {}
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
            raise ValueError("model_cfg lacks embed_dim, vision_cfg or text_cfg")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidBundle(f"{folder / CONFIG_FILE} is no open_clip configuration: {error!r}") from error
    weights = path if path.is_file() else _weights_in(folder)
    if is_own := "name" in written:
        return ClipPlace(str(written["name"]), config, weights, preprocess, folder, is_own)
    return ClipPlace(_architecture(config), config, weights, preprocess, folder)


def _weights_in(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    names = [path.name for path in found]
    for name in _PREFERRED:
        if name in names:
            return folder / name
    if len(found) != 1:
        listed = f"several: name one of {', '.join(names)}" if found else f"none; expected e.g. {_PREFERRED[0]}"
        raise InvalidBundle(f"{folder} has no weights of a CLIP model that would be the obvious ones, but {listed}")
    return found[0]


def _architecture(config: Mapping[str, Any]) -> str:
    """open_clip's name for a configuration, so that the same weights are known by the same name from every place."""
    return next((name for name in open_clip.list_models() if open_clip.get_model_config(name) == config), "clip")


def _published(name: str, weights: str) -> ClipPlace:
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        raise InvalidBundle(f"{name} is neither a folder of CLIP weights nor a published open_clip model")
    if Path(weights).is_file():
        if Path(weights).suffix not in _ENDINGS:
            raise InvalidBundle(f"{weights} is no file of weights: expected one of {', '.join(_ENDINGS)}")
        return ClipPlace(name, config, Path(weights))
    tag = open_clip.get_pretrained_cfg(name, weights)
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise InvalidBundle(f"{weights} is neither a file nor a tag of {name}; its tags are: {known}")
    if config.get("quick_gelu", False) and not tag.get("quick_gelu", False):
        raise InvalidBundle(
            f"{weights} was trained without QuickGELU, {name} has it: name the model without -quickgelu"
        )
    # open_clip only warns where the tag has it and the model's name does not; the features would be others
    config |= {"quick_gelu": True} if tag.get("quick_gelu", False) else {}
    return ClipPlace(name, config, _cached(name, weights, tag), tag)


def _cached(name: str, tag: str, published: Mapping[str, Any]) -> Path:
    """The file of published weights in the model cache."""
    repository, file = os.path.split(published.get("hf_hub", ""))
    # as open_clip has it: an entry without a file means the usual names
    files = [f"{Path(file).stem}.safetensors", file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    for wanted in files if repository else []:
        if isinstance(path := try_to_load_from_cache(repository, wanted), str):
            return Path(path)
    fetch = f"fetch them where there is a network with `hf download {repository}`, or " if repository else ""
    raise InvalidBundle(
        f"the weights {tag} of {name} are not in this machine's model cache, and nothing is fetched from here: "
        f"{fetch}name their file, {PREFIX}{name}/FILE"
    )
