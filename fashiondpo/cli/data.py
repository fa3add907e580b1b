"""`fashiondpo data`: look at, import and make data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fashiondpo.cli.options import data_folder
from fashiondpo.cli.show import console, progress_bars, say
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.fashion_mnist import download_fashion_mnist, find_fashion_mnist, read_silhouettes
from fashiondpo.outfits.folder import import_folder, write_data_set
from fashiondpo.outfits.mini import build_world, save_mini
from fashiondpo.outfits.sources import load_data_set

app = typer.Typer(no_args_is_help=True, help="Look at, import and make data sets.")


@app.command()
def show(place: Annotated[str, typer.Argument(help="'mini', or a folder.")] = "mini") -> None:
    """Count what a data set holds."""
    data_set = load_data_set(data_folder(place))
    table = Table(title=f"{data_set.name}: {len(data_set.catalogue.item_ids()):,} items", title_justify="left")
    for column in ("split", "outfits", "users", "fixed blanks", "users with history"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, outfits in data_set.outfits.items():
        table.add_row(
            split,
            f"{len(outfits):,}",
            f"{len({outfit.user_id for outfit in outfits}):,}",
            f"{len(data_set.blanks.get(split, ())):,}",
            f"{len(data_set.history(split).user_ids):,}",
        )
    console.print(table)


@app.command("import")
def import_(
    images: Annotated[Path, typer.Argument(help="Folder of the item images.")],
    index: Annotated[Path, typer.Argument(help="JSONL or CSV of items, outfits and histories; see docs/data.md.")],
    out: Annotated[Path, typer.Option(help="Where the imported data set goes.")],
    size_px: Annotated[int, typer.Option(min=1, help="Side of the square pictures.")] = 512,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite another data set at the target.")] = False,
) -> None:
    """Check your own images and index, line by line, and write them as a data set."""
    data_set = import_folder(images, index, image_size=size_px)
    with progress_bars() as bars:
        show_progress = bars("import")
        write_data_set(out, data_set, replace=replace, on_progress=lambda done, total: show_progress(done, total, {}))
    say(f"Wrote {len(data_set.catalogue.item_ids()):,} items to {out}; use it with --data {out}")


@app.command()
def mini(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    fashion_mnist: Annotated[
        Path | None, typer.Option(help="Folder of the four idx files; Debian's by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another world.")] = 7,
) -> None:
    """Make up a mini world of tinted garments, outfits and users."""
    if (out / "world.safetensors").exists():
        raise InvalidInput(f"{out} already holds a mini world")
    folder = find_fashion_mnist(fashion_mnist)
    world = build_world({name: read_silhouettes(folder, name) for name in ("train", "test")}, seed=seed)
    save_mini(world, out)
    say(f"Wrote {len(world.item_category):,} items and {len(world.outfit_user):,} outfits to {out}")


@app.command()
def download(out: Annotated[Path, typer.Option(help="Folder for the files.")]) -> None:
    """Fetch Fashion-MNIST with torchvision."""
    say(f"Fashion-MNIST lies in {download_fashion_mnist(out)}")
