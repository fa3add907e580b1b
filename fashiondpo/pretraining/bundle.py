"""Fresh DiFashion bundles: the mini one and one of Stable Diffusion 2's shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fashiondpo.contracts import GuidanceScales, SamplerSettings
from fashiondpo.diffusion.conditions import category_prompt
from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.outfits.colour import COLOURS
from fashiondpo.outfits.model import Category
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, build_autoencoder
from fashiondpo.pretraining.tokenizer import train_tokenizer

MINI_SAMPLER = SamplerSettings(
    num_inference_steps=16,
    guidance=GuidanceScales(category=3.0, mutual=2.0, history=2.0),
    # 256 latent elements instead of 16,384: at the published 0.1 the mutual latents drown in the noise
    mutual_weight=0.3,
    # states are small here, and a candidate is the same to the last digits whatever it is batched with
    state_dtype="float32",
)
"""How the mini bundle samples unless told otherwise."""

QUALITY_WORDS = ("a good, sharp, high quality photo", "a bad, blurry, corrupted, low quality photo")


def mini_sentences(categories: Mapping[int, Category]) -> list[str]:
    """The sentences that the mini tokenizer must know."""
    sentences = [category_prompt(category) for category in categories.values()]
    sentences += [
        f"a photo of a {colour} {category.name}, on white background"
        for category in categories.values()
        for colour in COLOURS
    ]
    return [*sentences, *QUALITY_WORDS * 20, *["dress shirt shoes outfit top bottom pair of"] * 5]


def mini_tokenizer(categories: Mapping[int, Category]) -> CLIPTokenizer:
    """The tokenizer shared by the mini text encoder and the mini CLIP."""
    return train_tokenizer(mini_sentences(categories))


def build_mini_bundle(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, categories: Mapping[int, Category], *, seed: int = 0
) -> DiFashion:
    """A bundle with this VAE and tokenizer and an untrained UNet (3.9 M parameters), text and mutual encoder."""
    torch.manual_seed(seed)
    channels = int(vae.config.latent_channels)
    side = int(vae.config.sample_size) // 2 ** (len(vae.config.block_out_channels) - 1)
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=2 * channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=(4, 8),
        norm_num_groups=16,
    )
    text_encoder = _text_encoder(tokenizer, width=64, layers=2, heads=4)
    mutual = MutualEncoder(num_categories=len(categories), latent_channels=channels, latent_size=side)
    mutual.initialise()
    scheduler = stable_diffusion_scheduler(prediction_type="v_prediction")
    return DiFashion(
        unet, vae, text_encoder, tokenizer, mutual, NoiseSchedule(scheduler), MINI_SAMPLER, dict(categories)
    )


def build_sd2_bundle(
    categories: Mapping[int, Category],
    *,
    sample_size: int = 64,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> DiFashion:
    """A bundle around a UNet of Stable Diffusion 2's shape, for measuring and testing at real size; random weights.

    Latents, prompt encodings (77 tokens of width 1024) and mutual encoder have the published shapes; VAE and text
    encoder are small, since they run once per picture and prompt and not once per step.

    Args:
        categories: what it can paint.
        sample_size: side of the latents; pictures are eight times as wide.
        dtype: of all networks.
        seed: of the weights.
    """
    unet = build_sd2_unet(sample_size=sample_size, dtype=dtype, seed=seed)
    tokenizer = mini_tokenizer(categories)
    tokenizer.model_max_length = 77
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = build_autoencoder(AutoencoderSettings(channels=(8, 8, 16, 16)), image_size_px=8 * sample_size)
        text_encoder = _text_encoder(tokenizer, width=1024, layers=1, heads=16)
        mutual = MutualEncoder(num_categories=max(50, len(categories)), latent_size=sample_size)
        mutual.initialise()
    schedule = NoiseSchedule(stable_diffusion_scheduler(prediction_type="epsilon"))
    bundle = DiFashion(unet, vae, text_encoder, tokenizer, mutual, schedule, categories=dict(categories))
    return bundle.to("cpu", dtype)


def _text_encoder(tokenizer: CLIPTokenizer, *, width: int, layers: int, heads: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=width,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def stable_diffusion_scheduler(*, prediction_type: str) -> DDIMScheduler:
    """The noise schedule of Stable Diffusion."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def build_sd2_unet(*, sample_size: int = 64, dtype: torch.dtype = torch.float32, seed: int = 0) -> UNet2DConditionModel:
    """A UNet of Stable Diffusion 2's shape with DiFashion's eight input channels (865.9 M parameters), random weights.

    Built without initialising twice, so it takes seconds.
    """
    unet = sd2_unet_without_weights(sample_size=sample_size, dtype=dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return unet


def sd2_unet_without_weights(*, sample_size: int = 64, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """The same UNet on torch's meta device: shapes alone, no memory, nothing to compute with."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=8,
            out_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
            layers_per_block=2,
        ).to(dtype)
