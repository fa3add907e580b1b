"""`fashiondpo train-vbpr`: the compatibility judge's network, from a data set and its embeddings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fashiondpo.cli.embed import ClipPlace
from fashiondpo.cli.options import DataPlace, Device, data_folder, model_places
from fashiondpo.cli.show import progress_bars, say
from fashiondpo.outfits.sources import load_data_set

if TYPE_CHECKING:
    from fashiondpo.judges.item_features import ItemFeatures
    from fashiondpo.outfits.model import DataSet
    from fashiondpo.pretraining.vbpr_evaluation import SplitReport


def train_vbpr(
    out: Annotated[Path, typer.Option(help="Folder for weights and report.")],
    data_place: DataPlace = "mini",
    embeddings: Annotated[
        Path | None, typer.Option(help="Folder that `fashiondpo embed` made; none: computed now, with --clip.")
    ] = None,
    clip: ClipPlace = "mini",
    passes: Annotated[int, typer.Option(min=1, help="At most so often over all items of the training outfits.")] = 20,
    patience: Annotated[int, typer.Option(min=0, help="Passes without a better validation AUC; 0: never stop.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Items of outfits in a step.")] = 1024,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="Peak of a one-cycle schedule, AdamW.")] = 0.002,
    weight_decay: Annotated[float, typer.Option(min=0, help="AdamW.")] = 0.01,
    shared_map: Annotated[
        bool, typer.Option("--shared-map", help="The published network, with one map for both sides.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a VBPR at the target.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and wrong items.")] = 7,
    device: Device = "cpu",
) -> None:
    """Train VBPR on the outfits of a data set; its valid split decides when to stop, its test split is only reported."""
    from fashiondpo.pretraining.vbpr import VBPRSettings, train_vbpr
    from fashiondpo.pretraining.vbpr_evaluation import evaluate_vbpr
    from fashiondpo.pretraining.vbpr_folder import check_vbpr_target, write_vbpr

    check_vbpr_target(out, replace=replace)
    data_set = load_data_set(data_folder(data_place))
    items = _features(data_set, embeddings, clip, device)
    per_pass = -(-sum(len(outfit.given_item_ids) for outfit in data_set.split("train")) // batch_size)
    settings = VBPRSettings(
        steps=passes * per_pass,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        shared_map=shared_map,
        evaluate_every=per_pass,
        validation_outfits=len(data_set.split("valid")),
        patience=patience,
        device=device,
    )
    with progress_bars() as bars:
        network, _ = train_vbpr(items, data_set, settings, seed=seed, progress=bars("vbpr"))
        reports = {split: evaluate_vbpr(network, items, data_set, split, seed=seed) for split in ("valid", "test")}
    report: dict[str, object] = {
        "data_set": data_set.name,
        "feature_id": items.feature_id,
        "version": network.version,
        "seed": seed,
        "settings": asdict(settings),
        **{split: asdict(of_split) for split, of_split in reports.items()},
    }
    write_vbpr(out, network, report, replace=replace)
    for split, of_split in reports.items():
        say(_described(split, of_split))
    say(f"Wrote {network.version}, trained on {items.feature_id}, to {out}")


def _features(data_set: DataSet, embeddings: Path | None, clip: str, device: str) -> ItemFeatures:
    from fashiondpo.judges.embeddings import CatalogueEmbeddings
    from fashiondpo.judges.features import OpenClipFeatures
    from fashiondpo.judges.item_features import CatalogueFeatures

    if embeddings is not None:
        return CatalogueEmbeddings.open(embeddings, data_set.catalogue)
    features = OpenClipFeatures.load(model_places().clip(clip), device)
    items = CatalogueFeatures(features, data_set.catalogue)
    outfits = [outfit for of_split in data_set.outfits.values() for outfit in of_split]
    with progress_bars() as bars:
        items.of(sorted({i for outfit in outfits for i in outfit.given_item_ids}), bars("embed items"))
    return items


def _described(split: str, report: SplitReport) -> str:
    ranking = report.ranking
    same, anything = (ranking.auc_same_category, ranking.fitb_same_category), (ranking.auc_random, ranking.fitb_random)
    parts = [f"AUC {same[0]:.3f}, FITB@5 {same[1]:.3f} against the same category"]
    parts.append(f"{anything[0]:.3f}, {anything[1]:.3f} against any item")
    if report.unseen is not None:
        parts.append(
            f"{report.unseen.auc_same_category:.3f}, {report.unseen.fitb_same_category:.3f} among unseen items"
        )
    if report.blanks is not None:
        parts.append(f"{report.blanks.auc:.3f}, {report.blanks.fitb:.3f} on its {report.blanks.blanks:,} fixed blanks")
    return f"{split}, {report.outfits:,} outfits: {'; '.join(parts)}"
