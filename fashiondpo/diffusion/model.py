"""The DiFashion bundle: all models of one generator in diffusers' folder layout.

unet/ vae/ text_encoder/ tokenizer/ scheduler/ mutual_encoder/   as diffusers and transformers write them
model_index.json                                                which class is where
difashion.json                                                  default sampler settings and categories
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fashiondpo.contracts import SamplerSettings
from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.diffusion.unet import is_difashion_unet, weights_dtype
from fashiondpo.errors import InvalidBundle
from fashiondpo.outfits.model import Category, Image

UNSAVED = "0" * 64
"""Digest of a bundle that was built in memory and never saved."""

PICTURES_PER_DECODE = 32
"""Pictures that the VAE decodes at once, at most; more are decoded in turn."""

_PARTS: Mapping[str, tuple[str, Any]] = {
    "unet": ("diffusers", UNet2DConditionModel),
    "vae": ("diffusers", AutoencoderKL),
    "text_encoder": ("transformers", CLIPTextModel),
    "tokenizer": ("transformers", CLIPTokenizer),
    "scheduler": ("diffusers", DDIMScheduler),
    "mutual_encoder": ("fashiondpo.diffusion.mutual", MutualEncoder),
}
_OWN_FILE = "difashion.json"


@dataclass(frozen=True)
class DiFashion:
    """A generator's models and defaults.

    Attributes:
        unet: takes 2c channels (latents and history latents), predicts c.
        vae, text_encoder, tokenizer, mutual_encoder: the encoders of images, prompts and the other garments. A text encoder
            that lies elsewhere than the UNet computes where it lies; a VAE is moved for as long as it computes.
        schedule: noise levels.
        sampler: default settings.
        categories: names by category id, as the model was trained with.
        digest: SHA-256 over all files of the folder it came from.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    mutual_encoder: MutualEncoder
    schedule: NoiseSchedule
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    categories: Mapping[int, Category] = field(default_factory=dict)
    digest: str = UNSAVED

    def __post_init__(self) -> None:
        if not is_difashion_unet(self.unet):
            raise InvalidBundle(
                f"the UNet takes {self.unet.conv_in.weight.shape[1]} channels and predicts "
                f"{self.unet.config.out_channels}; DiFashion needs twice as many in as out: widen conv_in first"
            )
        self._check_schedule()
        self._check_fit()
        for module in self.networks():
            module.eval().requires_grad_(False)
        for module in (self.unet, self.vae):
            module.to(memory_format=torch.channels_last)  # three times faster on a CPU, no slower on CUDA

    def _check_schedule(self) -> None:
        if self.schedule.prediction_type not in ("epsilon", "v_prediction"):
            raise InvalidBundle(f"unsupported prediction type {self.schedule.prediction_type!r}")
        config = self.schedule.scheduler.config
        if config.clip_sample or config.thresholding:
            raise InvalidBundle("the scheduler clips denoised latents: set clip_sample and thresholding to false")

    def _check_fit(self) -> None:
        channels, side, _ = self.latent_shape
        mutual = self.mutual_encoder.config
        sizes = {
            "latent channels of the VAE": (self.vae.config.latent_channels, channels),
            "latent channels of the mutual encoder": (mutual.latent_channels, channels),
            "latent side of the mutual encoder": (mutual.latent_size, side),
            "width of the text encoder": (self.text_encoder.config.hidden_size, self.unet.config.cross_attention_dim),
        }
        for name, (found, needed) in sizes.items():
            if found != needed:
                raise InvalidBundle(f"the parts do not fit: {name} is {found}, the UNet needs {needed}")

    def networks(self) -> tuple[nn.Module, ...]:
        """All networks, for moving and freezing."""
        return self.unet, self.vae, self.text_encoder, self.mutual_encoder

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of latents."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.out_channels), side, side

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.latent_shape[1] * int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Pictures of (h, w, 3) to scaled latents (n, c, h, w), float32; the mode of the posterior, so repeatable."""
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        pixels = pixels.to(self.device, weights_dtype(self.vae)) / 127.5 - 1
        with lent(self.vae, self.device):
            latents: Tensor = self.vae.encode(pixels).latent_dist.mode().float()
        return latents * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, *, batch_size: int = PICTURES_PER_DECODE) -> list[Image]:
        """Scaled latents (n, c, h, w) to pictures (h, w, 3) of 0…255."""
        images: list[Image] = []
        with lent(self.vae, self.device):
            for some in torch.split(latents.to(self.device, weights_dtype(self.vae)), batch_size):
                pixels = self.vae.decode(some / self.vae.config.scaling_factor).sample.float().clamp(-1, 1)
                images.extend(((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return images

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Sentences to text encodings (n, l, d), float32."""
        tokens = self.tokenize(prompts).to(self.text_encoder.device)
        encoded: Tensor = self.text_encoder(tokens).last_hidden_state
        return encoded.float().to(self.device)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Sentences to token ids (n, l), padded and cut to the tokenizer's length."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        ids: Tensor = tokens.input_ids
        return ids

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> DiFashion:
        """Move all networks, in place; returns itself."""
        for module in self.networks():
            nn.Module.to(module, device=device, dtype=dtype)  # diffusers' own form warns at every call
        return self


@contextmanager
def lent(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the network lies on this device; afterwards it lies where it lay before."""
    home = next(network.parameters()).device
    if home == device:
        yield
        return
    nn.Module.to(network, device=device)
    try:
        yield
    finally:
        nn.Module.to(network, device=home)


def save_bundle(bundle: DiFashion, folder: Path, *, dtype: torch.dtype | None = None) -> DiFashion:
    """Write a bundle; returns it with the digest of what was written.

    Args:
        bundle: its UNet must carry no adapter.
        folder: created if needed.
        dtype: type on disk; None keeps the type in memory. float16 halves the size.

    Raises:
        InvalidBundle: if the UNet carries an adapter.
    """
    if getattr(bundle.unet, "peft_config", None):
        raise InvalidBundle("the UNet carries an adapter: take it off before saving the base model")
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {name: getattr(bundle, name) for name in _PARTS if name != "scheduler"}
    parts["scheduler"] = bundle.schedule.scheduler
    for name, part in parts.items():
        if dtype is not None and name not in ("tokenizer", "scheduler"):
            before = next(part.parameters()).dtype
            state = {key: value.clone() for key, value in part.state_dict().items()}
            nn.Module.to(part, dtype).save_pretrained(folder / name)
            nn.Module.to(part, before).load_state_dict(state)  # the copy in memory keeps its precision
        else:
            part.save_pretrained(folder / name)
        _forget_origin(folder / name / "config.json")
    write_bundle_index(folder, bundle.sampler, bundle.categories)
    return replace(bundle, digest=bundle_digest(folder))


def write_bundle_index(folder: Path, sampler: SamplerSettings, categories: Mapping[int, Category]) -> None:
    """Write what a bundle has beside its parts: which class is where, default sampler settings, categories."""
    index = {"_class_name": "DiFashion"} | {name: [lib, cls.__name__] for name, (lib, cls) in _PARTS.items()}
    _write_json(folder / "model_index.json", index)
    listed = [{"category_id": c.category_id, "name": c.name, "is_paired": c.is_paired} for c in categories.values()]
    _write_json(folder / _OWN_FILE, {"sampler": sampler.model_dump(), "categories": listed})


def load_bundle(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    resting: Collection[str] = (),
) -> DiFashion:
    """Read a bundle.

    Args:
        folder: in the layout above.
        device: where to put the networks.
        dtype: type in memory; files may hold another.
        resting: which of `vae` and `text_encoder` stay in the machine's memory; the text encoder in float32, since it
            computes there.

    Raises:
        InvalidBundle: if a part is missing, cannot be read or does not fit the others.
    """
    if missing := [name for name in (*_PARTS, _OWN_FILE) if not (folder / name).exists()]:
        raise InvalidBundle(f"{folder} is not a DiFashion bundle: {', '.join(missing)} missing")
    if unknown := sorted(set(resting) - {"vae", "text_encoder"}):
        raise ValueError(f"only vae and text_encoder may rest, not {unknown}")
    rested = torch.float32 if "text_encoder" in resting else dtype
    parts = {name: _read_part(folder / name, rested if name == "text_encoder" else dtype) for name in _PARTS}
    try:
        own = json.loads((folder / _OWN_FILE).read_text())
        sampler = SamplerSettings.model_validate(own["sampler"])
        categories = {c["category_id"]: Category(**c) for c in own["categories"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidBundle(f"{folder / _OWN_FILE} cannot be read: {error}") from error
    schedule = NoiseSchedule(parts.pop("scheduler"))
    bundle = DiFashion(**parts, schedule=schedule, sampler=sampler, categories=categories, digest=bundle_digest(folder))
    for name in ("unet", "vae", "text_encoder", "mutual_encoder"):
        if name not in resting:
            nn.Module.to(getattr(bundle, name), device=device)
    return bundle


def _read_part(folder: Path, dtype: torch.dtype) -> Any:
    """One part of a bundle; a network's file must hold every tensor it needs and no other."""
    library, part_class = _PARTS[folder.name]
    try:
        if not issubclass(part_class, nn.Module):
            return part_class.from_pretrained(folder)
        options = {"dtype" if library == "transformers" else "torch_dtype": dtype}
        part, report = part_class.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise InvalidBundle(f"{folder} cannot be read: {error}") from error
    # older versions of transformers saved the positions 0, 1, 2, … too
    unknown = sorted(key for key in report["unexpected_keys"] if not key.endswith("position_ids"))
    if (missing := sorted(report["missing_keys"])) or unknown:
        raise InvalidBundle(
            f"{folder} does not fit: {len(missing)} tensors missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
        )
    return part


def bundle_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files of a bundle."""
    total = hashlib.sha256()
    names = [folder / "model_index.json", folder / _OWN_FILE]
    for part in _PARTS:
        names += [path for path in (folder / part).rglob("*") if path.is_file()]
    for path in sorted(names):
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}:{digest}\n".encode())
    return total.hexdigest()


def _forget_origin(config: Path) -> None:
    """Take out of a part's configuration where on which machine it was once loaded from."""
    if config.exists():
        content = json.loads(config.read_text())
        if content.pop("_name_or_path", None) is not None:
            _write_json(config, content)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
