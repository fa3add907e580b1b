"""The networks of a family without their weights: from the configurations of a bundle, or the published values of SD 2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.errors import InvalidBundle
from fashiondpo.pretraining.bundle import sd2_unet_without_weights

_BLOCKS = 4
_SD2_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * _BLOCKS,
    "up_block_types": ("UpDecoderBlock2D",) * _BLOCKS,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
}
_SD2_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 512,
}


@dataclass(frozen=True)
class Architecture:
    """Networks of a DiFashion bundle on the meta device: shapes alone."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    mutual_encoder: MutualEncoder

    def networks(self) -> dict[str, nn.Module]:
        """All networks by their names in a bundle."""
        return dict(vars(self))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of latents."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.out_channels), side, side

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """Shape (l, d) of a prompt's encoding."""
        config = self.text_encoder.config
        return int(config.max_position_embeddings), int(config.hidden_size)

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.latent_shape[1] * int(2 ** (len(self.vae.config.block_out_channels) - 1))


def stable_diffusion_2(*, image_size: int = 512) -> Architecture:
    """DiFashion on Stable Diffusion 2, by its published configuration.

    Args:
        image_size: side of the pictures in pixels; 512 was published.
    """
    side = image_size // 2 ** (_BLOCKS - 1)
    with torch.device("meta"):
        return Architecture(
            sd2_unet_without_weights(sample_size=side),
            AutoencoderKL(**_SD2_VAE),
            CLIPTextModel(CLIPTextConfig(**_SD2_TEXT)),
            MutualEncoder(latent_size=side),
        )


def of_bundle(folder: Path) -> Architecture:
    """The networks of a bundle's folder, by its configurations; no weights are read.

    Raises:
        InvalidBundle: if a configuration is missing or cannot be.
    """
    try:
        unet, vae, text, mutual = (
            json.loads((folder / name / "config.json").read_text())
            for name in ("unet", "vae", "text_encoder", "mutual_encoder")
        )
        with torch.device("meta"):
            return Architecture(
                UNet2DConditionModel.from_config(unet),
                AutoencoderKL.from_config(vae),
                CLIPTextModel(CLIPTextConfig.from_dict(text)),
                MutualEncoder.from_config(mutual),
            )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidBundle(f"{folder} does not say what its networks look like: {error}") from error
