"""Writes DiFashion at the size of Stable Diffusion 2 in its published layout, with random weights: run in a process of
its own, which may take the memory that it needs.

    python -m tests.real_size.published_sd2 FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.pretraining.bundle import mini_tokenizer, sd2_unet_without_weights
from tests.published_files import PNDM, save_weights, write_json, write_tokenizer


def published_vae() -> AutoencoderKL:
    """Stable Diffusion 2's, as shapes alone."""
    with torch.device("meta"):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )


def published_text_encoder() -> CLIPTextModel:
    """OpenCLIP's ViT-H text encoder without its last layer, as Stable Diffusion 2 has it; shapes alone."""
    with torch.device("meta"):
        return CLIPTextModel(
            CLIPTextConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
                projection_dim=512,
            )
        )


def random_state(module: nn.Module, *, dtype: torch.dtype = torch.float16, prefix: str = "") -> dict[str, Tensor]:
    """Small random matrices, norms that change nothing, biases of zero."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in module.state_dict().items():
        tensor = torch.empty(value.shape, dtype=dtype)
        if value.ndim > 1:
            tensor.uniform_(-0.03, 0.03, generator=generator)
        else:
            tensor.fill_(1.0 if "norm" in key and key.endswith("weight") else 0.0)
        state[prefix + key] = tensor
    return state


def write_published(folder: Path) -> None:
    """DiFashion's two networks in single precision as `.bin`, the rest beside them in half precision as safetensors."""
    unet, vae, text = sd2_unet_without_weights(), published_vae(), published_text_encoder()
    with torch.device("meta"):
        mutual = MutualEncoder()
    torch.save(random_state(unet, dtype=torch.float32), _made(folder / "unet") / "diffusion_pytorch_model.bin")
    unet.save_config(folder / "unet")
    mutual_state = random_state(mutual, dtype=torch.float32)
    torch.save(mutual_state, _made(folder / "fashion_encoder") / "diffusion_pytorch_model.bin")
    config = {"cate_num": 50, "cate_emb_size": 64, "latent_channels": 4, "latent_size": 64, "hid_dim": 256}
    write_json(folder / "fashion_encoder" / "config.json", {"_class_name": "MutualEncoder", **config})
    save_weights(random_state(vae), folder / "vae" / "diffusion_pytorch_model.safetensors")
    vae.save_config(folder / "vae")
    save_weights(random_state(text, prefix="text_model."), folder / "text_encoder" / "model.safetensors")
    write_json(folder / "text_encoder" / "config.json", text.config.to_dict())
    tokenizer = mini_tokenizer(CATEGORIES)
    tokenizer.model_max_length = 77
    write_tokenizer(tokenizer, folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", PNDM)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    write_published(Path(sys.argv[1]))
