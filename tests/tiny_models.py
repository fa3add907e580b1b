"""A DiFashion bundle that denoises in a few milliseconds: every part real, none trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from fashiondpo.contracts import GuidanceScales, SamplerSettings
from fashiondpo.diffusion.conditions import Conditions
from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.lora import AdapterWeights, adapter_weights, add_adapter, load_adapter, remove_adapter
from fashiondpo.diffusion.model import DiFashion, load_bundle, save_bundle
from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.outfits.model import Category
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, build_autoencoder
from fashiondpo.pretraining.bundle import mini_tokenizer, stable_diffusion_scheduler

LATENT_SIDE = 8
TEXT_WIDTH = 16
TINY_SAMPLER = SamplerSettings(
    num_inference_steps=4,
    guidance=GuidanceScales(category=3.0, mutual=2.0, history=2.0),
    mutual_weight=0.3,
    state_dtype="float32",
)


def tiny_unet(*, in_channels: int = 8) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
    )


def build_tiny_bundle(
    *,
    prediction_type: str = "epsilon",
    categories: Mapping[int, Category] = CATEGORIES,
    sampler: SamplerSettings = TINY_SAMPLER,
    seed: int = 0,
) -> DiFashion:
    """For pictures of 32 px, so that it goes with a mini world; in memory, without a digest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = mini_tokenizer(categories)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        mutual = MutualEncoder(num_categories=len(categories), latent_size=LATENT_SIDE, hidden_dim=16)
        mutual.initialise()
        return DiFashion(
            tiny_unet(),
            build_autoencoder(AutoencoderSettings(channels=(8, 16, 16))),
            text_encoder,
            tokenizer,
            mutual,
            NoiseSchedule(stable_diffusion_scheduler(prediction_type=prediction_type)),
            sampler,
            dict(categories),
        )


def saved_tiny_bundle(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> DiFashion:
    """Written and read again, so that its digest is real."""
    save_bundle(build_tiny_bundle(prediction_type=prediction_type, seed=seed), folder)
    return load_bundle(folder)


def random_adapter(bundle: DiFashion, *, rank: int = 4, scale: float = 0.05, seed: int = 1) -> AdapterWeights:
    """Weights for this bundle of which neither half is zero; the bundle is left as it was."""
    generator = torch.Generator().manual_seed(seed)
    add_adapter(bundle.unet, rank=rank)
    fresh = adapter_weights(bundle.unet, bundle.digest)
    remove_adapter(bundle.unet)
    tensors = {key: scale * torch.randn(value.shape, generator=generator) for key, value in fresh.tensors.items()}
    return AdapterWeights(tensors, fresh.rank, fresh.alpha, fresh.targets, fresh.base_digest)


@contextmanager
def adapted(bundle: DiFashion, weights: AdapterWeights | None) -> Iterator[None]:
    """Inside, the bundle carries this adapter, if there is one."""
    if weights is not None:
        load_adapter(bundle.unet, weights, bundle.digest)
    try:
        yield
    finally:
        remove_adapter(bundle.unet)
        bundle.unet.requires_grad_(False)


def random_conditions(seed: int = 0, *, tokens: int = 24) -> Conditions:
    """Every part different, so that mixing them up shows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latents = (4, LATENT_SIDE, LATENT_SIDE)
    text = (tokens, TEXT_WIDTH)
    return Conditions(draw(*text), draw(*text), draw(*latents), draw(*latents), draw(*latents))
