"""`fashiondpo pretrain`: train the models that a round starts from."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fashiondpo.cli.options import BundlePlace, DataPlace, Device, data_folder, model_places
from fashiondpo.cli.show import progress_bars, say
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.fashion_mnist import find_fashion_mnist
from fashiondpo.outfits.sources import load_data_set


class Preset(StrEnum):
    """What to train."""

    mini = "mini"
    smoke = "smoke"
    generator = "generator"
    vbpr = "vbpr"


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the result.")],
    preset: Annotated[
        Preset, typer.Option(help="mini: everything. generator, vbpr: one part, from your data.")
    ] = Preset.mini,
    fashion_mnist: Annotated[
        Path | None, typer.Option(help="mini: folder of the idx files; Debian's by default.")
    ] = None,
    data_place: DataPlace = "mini",
    bundle: BundlePlace = "mini",
    clip: Annotated[
        str | None,
        typer.Option(help="vbpr: CLIP model: a profile, owner/name@revision, or a folder; the mini one by default."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="generator, vbpr: optimiser steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="generator: peak learning rate.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and noise.")] = 7,
    device: Device = "cpu",
) -> None:
    """Train the mini models, a DiFashion base, or VBPR. A stopped `mini` run goes on with its first unfinished part."""
    if preset in (Preset.mini, Preset.smoke):
        if steps is not None or learning_rate is not None or device != "cpu":
            raise InvalidInput("the recipe of the mini models fixes steps, learning rate and device: leave them out")
        _mini(out, find_fashion_mnist(fashion_mnist), seed, is_smoke=preset is Preset.smoke)
    elif preset is Preset.generator:
        _generator(out, data_place, bundle, steps, learning_rate, seed, device)
    else:
        _vbpr(out, data_place, clip, steps, seed, device)
    say(f"Wrote {out}")


def _mini(out: Path, fashion_mnist: Path, seed: int, *, is_smoke: bool) -> None:
    from fashiondpo.pretraining.mini import SMOKE_RECIPE, MiniRecipe, train_mini

    with progress_bars() as bars:
        train_mini(fashion_mnist, out, replace(SMOKE_RECIPE if is_smoke else MiniRecipe(), seed=seed), progress=bars)


def _generator(
    out: Path, data_place: str, bundle: str, steps: int | None, learning_rate: float | None, seed: int, device: str
) -> None:
    from fashiondpo.diffusion.conditions import ConditionEncoder
    from fashiondpo.diffusion.model import load_bundle, save_bundle
    from fashiondpo.diffusion.pretrain import PretrainSettings, encode_outfits, pretrain

    data_set = load_data_set(data_folder(data_place))
    base = load_bundle(model_places().bundle(bundle), device=device)
    base = replace(base, categories=data_set.categories)
    settings = PretrainSettings()
    settings = replace(settings, steps=steps or settings.steps, learning_rate=learning_rate or settings.learning_rate)
    encoder = ConditionEncoder(base, data_set.catalogue, data_set.categories)
    with progress_bars() as bars:
        encoded = encode_outfits(encoder, data_set.split("train"), data_set.history("train"), progress=bars("encode"))
        trained = pretrain(base, encoded, settings, seed=seed, progress=bars("generator"))
    save_bundle(trained, out)


def _vbpr(out: Path, data_place: str, clip: str | None, steps: int | None, seed: int, device: str) -> None:
    from fashiondpo.judges.features import OpenClipFeatures
    from fashiondpo.judges.item_features import CatalogueFeatures
    from fashiondpo.pretraining.vbpr import VBPRSettings, train_vbpr

    data_set = load_data_set(data_folder(data_place))
    features = OpenClipFeatures.load(model_places().clip(clip or "mini"), device)
    settings = replace(VBPRSettings(), device=device)
    settings = replace(settings, steps=steps or settings.steps)
    items = CatalogueFeatures(features, data_set.catalogue, cache=out / "features")
    with progress_bars() as bars:
        items.compute_all(bars("embed items"))
        vbpr, report = train_vbpr(items, data_set, settings, seed=seed, progress=bars("vbpr"))
    vbpr.save(out)
    say(
        f"Validation: AUC {report.auc_same_category:.3f}, FITB@5 {report.fitb_same_category:.3f} against the same "
        f"category; {report.auc_random:.3f}, {report.fitb_random:.3f} against any item"
    )
