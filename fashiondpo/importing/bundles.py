"""A published DiFashion folder, or Stable Diffusion, to a bundle; one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fashiondpo.contracts import SamplerSettings
from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.model import DiFashion, bundle_digest, write_bundle_index
from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.diffusion.unet import widened_weight
from fashiondpo.errors import InvalidBundle
from fashiondpo.importing.bundle_parts import (
    Network,
    chosen_weights,
    copy_network,
    copy_tokenizer,
    ddim_scheduler,
    mutual_encoder_without_weights,
    text_encoder_without_weights,
    unet_without_weights,
    vae_without_weights,
)
from fashiondpo.importing.report import Account
from fashiondpo.importing.weight_files import open_weights
from fashiondpo.outfits.model import Category
from fashiondpo.telemetry import Progress

LEGACY_SAMPLER = SamplerSettings(mutual_reduction="sum", legacy_null_history=True)
"""How the released weights were sampled: the other garments added up, the history always the white picture."""

MUTUAL_FOLDER = "fashion_encoder"
_DIFFUSERS_FILE, _TRANSFORMERS_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"


@dataclass(frozen=True)
class BundleRequest:
    """What to make a bundle of.

    Attributes:
        source: the published folder, with `unet/`.
        base: where parts are looked for that the source lacks.
        is_legacy: the bundle samples as the released weights were sampled.
        is_widened: the UNet takes no history yet and gets the channels for it.
        uses_ema: take the running averages where the source has them.
        categories: names by category id.
    """

    source: Path
    base: Path | None
    is_legacy: bool
    is_widened: bool
    uses_ema: bool
    categories: Mapping[int, Category]

    def network_folder(self, name: str) -> Path:
        """The folder of `unet` or `fashion_encoder`, or of its running average."""
        average = self.source / f"{name}_ema"
        return average if self.uses_ema and average.is_dir() else self.source / name

    def part_folder(self, name: str) -> Path:
        """The folder of a part that may come from the base; raises InvalidBundle if it is nowhere."""
        for folder in (self.source, self.base):
            if folder is not None and (folder / name).is_dir():
                return folder / name
        where = f"{self.source}" if self.base is None else f"{self.source} nor in {self.base}"
        raise InvalidBundle(
            f"there is no {name}/ in {where}: name a folder of Stable Diffusion 2 in diffusers' layout as the base"
        )


def write_bundle(request: BundleRequest, folder: Path, account: Account, progress: Progress) -> str:
    """Write the bundle; returns its digest.

    Raises:
        InvalidBundle: if a part is missing, does not fit the others or its own configuration, or has non-finite values.
        ForbiddenPickle: if a file of weights asks to load something else.
    """
    networks = _networks(request, account)
    # what costs no time first, so that a folder that cannot become a bundle is refused at once
    tokenizer = copy_tokenizer(request.part_folder("tokenizer"), folder / "tokenizer")
    schedule = NoiseSchedule(ddim_scheduler(request.part_folder("scheduler")))
    schedule.scheduler.save_pretrained(folder / "scheduler")
    mutual = _mutual_encoder(request, networks["unet"], account)
    sampler = LEGACY_SAMPLER if request.is_legacy else SamplerSettings()
    text_encoder = networks["text_encoder"].module
    fitting = DiFashion(
        networks["unet"].module,
        networks["vae"].module,
        text_encoder,
        tokenizer,
        mutual.module if isinstance(mutual, Network) else mutual,
        schedule,
        sampler,
        dict(request.categories),
    )
    if len(tokenizer) > fitting.text_encoder.config.vocab_size:
        raise InvalidBundle(
            f"the parts do not fit: the tokenizer knows {len(tokenizer)} tokens, the text encoder "
            f"{fitting.text_encoder.config.vocab_size}"
        )
    parts = {**networks, "mutual_encoder": mutual}
    for done, (name, part) in enumerate(parts.items(), start=1):
        _write_part(name, part, folder / name, request.source, account)
        progress(done, len(parts), {})
    write_bundle_index(folder, sampler, request.categories)
    if not request.categories:
        account.warnings.append(
            "the bundle names no categories, so that a service can paint none: name a data set that has them"
        )
    return bundle_digest(folder)


def _networks(request: BundleRequest, account: Account) -> dict[str, Network]:
    unet_folder = request.network_folder("unet")
    unet_file = chosen_weights(unet_folder, request.source, account)
    unet = unet_without_weights(unet_folder, account, in_channels=_unet_channels(unet_file, request))
    changes = {"conv_in.weight": lambda weight: widened_weight(weight, 2 * weight.shape[1])}
    vae, text_encoder = request.part_folder("vae"), request.part_folder("text_encoder")
    return {
        "unet": Network(unet, unet_folder, unet_file, changes if request.is_widened else {}),
        "vae": Network(vae_without_weights(vae, account), vae, chosen_weights(vae, request.source, account)),
        "text_encoder": Network(
            text_encoder_without_weights(text_encoder),
            text_encoder,
            chosen_weights(text_encoder, request.source, account),
        ),
    }


def _unet_channels(file: Path, request: BundleRequest) -> int:
    channels = int(open_weights(file).shapes["conv_in.weight"][1])
    return 2 * channels if request.is_widened else channels


def _mutual_encoder(request: BundleRequest, unet: Network, account: Account) -> Network | MutualEncoder:
    """The source's mutual encoder, or a fresh one where the source is no DiFashion model."""
    channels, side = int(unet.module.config.out_channels), int(unet.module.config.sample_size)
    if request.is_widened:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh: MutualEncoder = MutualEncoder(
                max(50, len(request.categories)), latent_channels=channels, latent_size=side
            )
            fresh.initialise()
        account.warnings.append(
            "history channels are zero and the mutual encoder is random: train the bundle with `fashiondpo pretrain` "
            "before its outfits and histories mean anything"
        )
        return fresh
    folder = request.network_folder(MUTUAL_FOLDER)
    if not folder.is_dir():
        raise InvalidBundle(f"{request.source} has a UNet that takes the history, but no {MUTUAL_FOLDER}/ beside it")
    file = chosen_weights(folder, request.source, account)
    return Network(mutual_encoder_without_weights(open_weights(file), folder, channels, side), folder, file)


def _write_part(name: str, part: Network | MutualEncoder, target: Path, source: Path, account: Account) -> None:
    if isinstance(part, MutualEncoder):
        part.save_pretrained(target)
        return
    if name == "text_encoder":
        copy_network(part, target, _TRANSFORMERS_FILE, source, account)
        part.module.config.save_pretrained(target)
    else:
        copy_network(part, target, _DIFFUSERS_FILE, source, account)
        part.module.save_config(target)
