"""`fashiondpo embed`: the features of a whole catalogue, once for judges and trainings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fashiondpo.cli.options import DataPlace, Device, data_folder, model_places
from fashiondpo.cli.show import progress_bars, say
from fashiondpo.outfits.sources import load_data_set

if TYPE_CHECKING:
    from fashiondpo.judges.embeddings import EmbeddingsManifest

ClipPlace = Annotated[
    str,
    typer.Option(
        "--clip",
        help="CLIP: 'mini', a profile, owner/name@revision, a folder, open_clip:NAME/TAG or open_clip:NAME/FILE.",
    ),
]


def embed(
    out: Annotated[Path, typer.Option(help="Folder of the embeddings; where it was stopped, it goes on.")],
    data_place: DataPlace = "mini",
    clip: ClipPlace = "mini",
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Of the vectors in the file.")] = "float16",
    chunk: Annotated[int, typer.Option(min=1, help="Items between two writes; what a kill loses.")] = 512,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out items whose pictures are missing or unreadable.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Compute the features of every item of a catalogue."""
    from fashiondpo.judges.embedding import embed_catalogue
    from fashiondpo.judges.features import OpenClipFeatures

    catalogue = load_data_set(data_folder(data_place)).catalogue
    features = OpenClipFeatures.load(model_places().clip(clip), device)
    with progress_bars() as bars:
        manifest = embed_catalogue(
            features, catalogue, out, dtype=dtype, chunk=chunk, skip_missing=skip_missing, progress=bars("embed items")
        )
    say(f"Wrote {manifest.items:,} vectors of {manifest.dim} as {manifest.dtype} to {out}, by {manifest.feature_id}")
    if manifest.skipped:
        say(_skipped(manifest))


def _skipped(manifest: EmbeddingsManifest) -> str:
    named = ", ".join(f"{item_id} ({why})" for item_id, why in list(manifest.skipped.items())[:10])
    more = f" and {len(manifest.skipped) - 10:,} more, see manifest.json" if len(manifest.skipped) > 10 else ""
    return f"Left out {len(manifest.skipped):,} items: {named}{more}"
