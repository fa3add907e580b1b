"""What the benchmarks of the mini family work on: its bundle, conditions for it, and the options they share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fashiondpo.diffusion.conditions import Conditions, category_prompt
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, build_autoencoder
from fashiondpo.pretraining.bundle import build_mini_bundle, mini_tokenizer

MINI_BUNDLE = Path(__file__).resolve().parents[2] / "assets/mini/bundle"


def shared_options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark of the mini family takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="the least work that still runs everything; figures mean little"
    )
    parser.add_argument(
        "--bundle", type=Path, default=MINI_BUNDLE, help="folder of the models (default: the mini bundle)"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    return parser


def open_mini(folder: Path) -> DiFashion:
    """The bundle in this folder; where the mini bundle was not trained yet, an untrained one of its shape. Says which.

    Raises:
        InvalidBundle: if a folder other than the default one holds no bundle.
    """
    if folder == MINI_BUNDLE and not folder.exists():
        print(
            "Bundle: UNTRAINED, of the mini shape: assets/mini/bundle is not there. Speed does not depend on weights."
        )
        return build_mini_bundle(build_autoencoder(AutoencoderSettings()), mini_tokenizer(CATEGORIES), CATEGORIES)
    bundle = load_bundle(folder)
    print(f"Bundle: {folder.name}, digest {bundle.digest[:12]}.")
    return bundle


def some_conditions(bundle: DiFashion, *, seed: int) -> Conditions:
    """Conditions of one slot: a category's prompt, and noise in place of the garments' latents."""
    generator = torch.Generator().manual_seed(seed)
    categories = list(bundle.categories.values())
    null_prompt, prompt = bundle.encode_prompts(["", category_prompt(categories[seed % len(categories)])])
    mutual, history, null = torch.randn((3, *bundle.latent_shape), generator=generator)
    return Conditions(prompt, null_prompt, mutual.tanh(), history, null).rounded(
        getattr(torch, bundle.sampler.state_dtype)
    )
