"""`fashiondpo import` and `fashiondpo export`: models and adapters in the formats in which others publish them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fashiondpo.cli.adapters import keep_in_run
from fashiondpo.cli.options import data_folder
from fashiondpo.cli.show import progress_bars, say
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.sources import load_data_set

if TYPE_CHECKING:
    from fashiondpo.importing.report import ImportReport


class ExportFormat(StrEnum):
    """Formats that an adapter can be written in."""

    diffusers_0_18 = "diffusers-0.18"


def import_(
    source: Annotated[Path, typer.Argument(help="Published folder or file; what it is is told from its content.")],
    out: Annotated[Path, typer.Option(help="New folder for the result.")],
    base: Annotated[
        Path | None,
        typer.Option(
            help="For a base model: a Stable Diffusion 2 folder with what it lacks. For an adapter: its bundle."
        ),
    ] = None,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="The bundle samples as the released weights were sampled.")
    ] = False,
    widen: Annotated[
        bool,
        typer.Option("--widen", help="Make a bundle of Stable Diffusion: channels for the history, to be trained."),
    ] = False,
    ema: Annotated[bool, typer.Option("--ema", help="Take running averages in the place of the last weights.")] = False,
    data_place: Annotated[
        str | None, typer.Option("--data", help="Data set whose category names the bundle gets: 'mini', or a folder.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="For an adapter: register it in this run's folder too; it does not serve yet.")
    ] = None,
) -> None:
    """Convert a published DiFashion model, LoRA adapter or VBPR file, every tensor accounted for; nothing is executed."""
    from fashiondpo.importing.published import import_folder  # loads torch: not for --help

    categories = None if data_place is None else load_data_set(data_folder(data_place)).categories
    with progress_bars() as bars:
        report = import_folder(
            source,
            out,
            base=base,
            legacy=legacy,
            widen=widen,
            use_ema=ema,
            categories=categories,
            progress=bars("import"),
        )
    _say_what_was_done(report)
    if run is not None:
        _register(report, run)


def export(
    adapter: Annotated[Path, typer.Argument(help="An adapter's safetensors file, or the folder that an import wrote.")],
    out: Annotated[
        Path, typer.Option(help="File to write: .safetensors, or .bin for programs that read nothing else.")
    ],
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="Keys of diffusers 0.18's attention processors.")
    ] = ExportFormat.diffusers_0_18,
) -> None:
    """Write an adapter in a format that other programs read."""
    from fashiondpo.importing.adapters import export_adapter  # loads torch: not for --help

    keys = export_adapter(adapter, out)
    say(f"Wrote {len(keys)} tensors to {out}, with the keys of {format_.value}")


def _say_what_was_done(report: ImportReport) -> None:
    say(f"{report.kind}: {len(report.keys_read):,} tensors read, {len(report.left_out)} things left out")
    for left in report.left_out:
        say(f"  left out: {left.name} ({left.reason})")
    for warning in report.warnings:
        say(f"  note: {warning}")
    say(f"Wrote {report.out}, digest {report.digest[:12]}; import.json there has the whole account")


def _register(report: ImportReport, run: Path) -> None:
    from fashiondpo.importing.adapters import ADAPTER_FILE

    if report.kind != "adapter":
        raise InvalidInput(f"only an adapter can be registered in a run, and this is {report.kind}: leave out --run")
    content = (report.out / ADAPTER_FILE).read_bytes()
    manifest = keep_in_run(run, content, f"imported-{report.digest[:12]}", {"imported": True})
    say(
        f"It is version {manifest.version} in {run}; the gate has not seen it: "
        f"`fashiondpo adapters activate {manifest.version} --run {run} --force` makes it the champion"
    )
