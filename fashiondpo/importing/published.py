"""Import what others published: DiFashion bases, Stable Diffusion, LoRA adapters of FashionDPO, VBPR.

Recognised by content, converted tensor by tensor, every key accounted for. Files are data: nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fashiondpo.errors import InvalidInput
from fashiondpo.importing.adapters import ADAPTER_FILE, read_adapter
from fashiondpo.importing.bundles import BundleRequest, write_bundle
from fashiondpo.importing.recognition import Recognised, averages, recognise
from fashiondpo.importing.report import Account, ImportKind, ImportReport, file_digest, fresh_folder
from fashiondpo.importing.vbpr import write_vbpr
from fashiondpo.importing.weight_files import note_source, open_weights
from fashiondpo.outfits.model import Category
from fashiondpo.telemetry import Progress, no_progress


def import_folder(
    source: Path,
    out: Path,
    *,
    base: Path | None = None,
    legacy: bool = False,
    widen: bool = False,
    use_ema: bool = False,
    categories: Mapping[int, Category] | None = None,
    progress: Progress = no_progress,
) -> ImportReport:
    """Recognise a published folder or file by its content and write it in this repository's format.

    Args:
        source: a DiFashion folder, a folder of Stable Diffusion, a folder or file of a LoRA adapter, or a VBPR file.
        out: a new or empty folder; it appears when all of it is written, with the report as `import.json`. A bundle, or
            `adapter.safetensors`, or the folder of a VBPR judge.
        base: for a DiFashion folder, a folder of Stable Diffusion 2 that has the parts it lacks; for an adapter, the bundle
            that it belongs to, which it needs.
        legacy: the bundle samples as the released weights were sampled: no history, mutual latents added up.
        widen: make a bundle of Stable Diffusion, by giving its UNet channels for the history.
        use_ema: take `unet_ema` (and `fashion_encoder_ema`) in the place of the last weights.
        categories: names by category id, for the bundle.
        progress: told about networks that are written.

    Returns:
        What was read, left out and written.

    Raises:
        NotFound: if there is no such source.
        InvalidInput: if it is nothing that can be imported, or an option does not go with what it is.
        InvalidBundle, InvalidAdapter: if it does not fit; names the tensors.
        ForbiddenPickle: if a file asks to load something that weights never need; names it.
        DataFileError: if a file is damaged.
        Conflict: if `out` already holds something.
    """
    account = Account()
    with fresh_folder(out) as folder:
        found = recognise(source, account)
        of_bundles = {"legacy": legacy, "ema": use_ema, "widen": widen, "categories": categories is not None}
        _check_options(found.kind, of_bundles, base)
        if found.kind == "adapter":
            digest = _write_adapter(found, source, folder, base, account)
        elif found.kind == "vbpr":
            digest = write_vbpr(_file(found), folder, source, account)
        else:
            _note_averages(source, use_ema, account)
            request = BundleRequest(source, base, legacy, widen, use_ema, categories or {})
            digest = write_bundle(request, folder, account, progress)
        return account.close(found.kind, folder, out, digest)


def _check_options(kind: ImportKind, of_bundles: Mapping[str, bool], base: Path | None) -> None:
    given = [name for name, is_given in of_bundles.items() if is_given]
    if kind == "stable_diffusion" and not of_bundles["widen"]:
        raise InvalidInput(
            "this is Stable Diffusion, whose UNet takes no history: ask to widen it, which makes a bundle to train further"
        )
    if kind == "stable_diffusion" and of_bundles["legacy"]:
        raise InvalidInput("legacy is about the released DiFashion weights: leave it out for Stable Diffusion")
    if kind == "difashion" and of_bundles["widen"]:
        raise InvalidInput("this UNet takes the history already: leave out widen")
    if kind in ("adapter", "vbpr") and given:
        raise InvalidInput(
            f"the source holds no base model, so that {', '.join(given)} would change nothing: leave it out"
        )
    if kind == "adapter" and base is None:
        raise InvalidInput("an adapter belongs to a base model: name the imported bundle as the base")
    if kind == "vbpr" and base is not None:
        raise InvalidInput("VBPR needs no base: leave it out")


def _note_averages(source: Path, use_ema: bool, account: Account) -> None:
    found = averages(source)
    if use_ema and "unet_ema" not in found:
        raise InvalidInput(f"{source} has no unet_ema/: leave out ema, and the last weights are taken")
    for name in found:
        if use_ema:
            account.leave_out(name.removesuffix("_ema"), f"the last weights; the running average {name} was taken")
        else:
            account.leave_out(name, "the running average; taken in the place of the last weights if asked for")


def _write_adapter(found: Recognised, source: Path, folder: Path, base: Path | None, account: Account) -> str:
    if base is None:
        raise InvalidInput("an adapter belongs to a base model: name the imported bundle as the base")
    weights = read_adapter(_file(found), base, source, account)
    (folder / ADAPTER_FILE).write_bytes(weights.to_bytes())
    note_source(open_weights(_file(found)), source, account)
    return file_digest(folder / ADAPTER_FILE)


def _file(found: Recognised) -> Path:
    if found.file is None:
        raise InvalidInput(f"{found.kind} is no single file")
    return found.file
