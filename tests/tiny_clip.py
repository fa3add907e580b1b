"""A CLIP of the published kind, a few thousand weights wide: as a model hub lays it out, and as single files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESSING: dict[str, Any] = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def build_tiny_clip(seed: int = 0, **config: Any) -> nn.Module:
    """Untrained, but real: pictures that differ get features that differ."""
    torch.manual_seed(seed)
    model: nn.Module = open_clip.CLIP(**{**MODEL_CONFIG, **config})
    return model


def save_tiny_clip(
    folder: Path, *, seed: int = 0, weights: str = "open_clip_model.safetensors", preprocessing: dict | None = None
) -> Path:
    """Write the folder of a hub: configuration and weights; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": {**PREPROCESSING, **(preprocessing or {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    save_weights_file(folder / weights, build_tiny_clip(seed))
    return folder


def save_weights_file(path: Path, model: nn.Module) -> Path:
    """As safetensors, or by torch.save, as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    else:
        torch.save(model.state_dict(), path)
    return path
