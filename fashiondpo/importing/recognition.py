"""What a folder or file that somebody published is, told from its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.errors import InvalidBundle, InvalidInput, NotFound
from fashiondpo.importing.adapters import is_adapter, scale_file
from fashiondpo.importing.bundle_parts import find_weights
from fashiondpo.importing.bundles import MUTUAL_FOLDER
from fashiondpo.importing.report import Account, ImportKind, named
from fashiondpo.importing.vbpr import is_vbpr
from fashiondpo.importing.weight_files import SAFETENSORS, TORCH, Weights, open_weights

_TRAINING_STATE = ("optimizer", "random_states", "scheduler", "scaler", "sampler", "custom_checkpoint")
"""How files of a training's state begin; some of them are pickles of anything, so none is ever opened."""

_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
_ADAPTER_STEMS = ("pytorch_lora_weights", "adapter_model")


@dataclass(frozen=True)
class Recognised:
    """What the source is, and for an adapter or VBPR which file holds it."""

    kind: ImportKind
    file: Path | None = None


def recognise(source: Path, account: Account) -> Recognised:
    """Tell what a source is; files that are not needed for it are left out, those of a training's state unopened.

    Raises:
        NotFound: if there is no such file or folder.
        InvalidInput: if it is nothing that can be imported; says what was found.
        DataFileError: if the file that would tell cannot be read.
    """
    if source.is_file():
        return _recognise_file(source)
    if not source.is_dir():
        raise NotFound(f"there is no file or folder {source}")
    if (source / "difashion.json").is_file():
        raise InvalidInput(f"{source} is a bundle of this repository already: use it as it is")
    if (source / "unet").is_dir():
        return Recognised(_kind_of_unet(source, account))
    return _recognise_loose_files(source, account)


def is_training_state(name: str) -> bool:
    """Whether a file's name says that it is a training's state, which is never opened."""
    return name.endswith((".pkl", ".pickle")) or name.startswith(_TRAINING_STATE)


def _recognise_file(path: Path) -> Recognised:
    if is_training_state(path.name):
        raise InvalidInput(f"{path} is a training's state by its name, and is not opened: name the file of weights")
    return Recognised(_kind_of_weights(path, open_weights(path)), path)


def _kind_of_weights(path: Path, weights: Weights) -> ImportKind:
    if is_adapter(weights):
        return "adapter"
    if is_vbpr(weights):
        return "vbpr"
    raise InvalidInput(
        f"{path} holds neither a LoRA adapter of a UNet nor VBPR: its {len(weights.shapes)} tensors are called "
        f"{named(sorted(weights.shapes))}"
    )


def _kind_of_unet(source: Path, account: Account) -> ImportKind:
    files = find_weights(source / "unet")
    if not files:
        raise InvalidBundle(f"{source / 'unet'} has no weights")
    shapes = open_weights(files[0]).shapes
    try:
        (_, taken, *_), (predicted, *_) = shapes["conv_in.weight"], shapes["conv_out.weight"]
    except (KeyError, ValueError) as error:
        raise InvalidBundle(f"{files[0]} is no UNet: it has no convolutions conv_in and conv_out") from error
    if taken not in (predicted, 2 * predicted):
        raise InvalidBundle(
            f"the UNet in {source} takes {taken} channels and predicts {predicted}: DiFashion takes twice as many as it "
            "predicts, Stable Diffusion as many"
        )
    _leave_out_the_rest(source, account, is_difashion=taken != predicted)
    return "difashion" if taken != predicted else "stable_diffusion"


def _leave_out_the_rest(source: Path, account: Account, *, is_difashion: bool) -> None:
    """Note what a folder of models has beside the parts of a bundle. Running averages are the caller's to note."""
    taken = {"unet", *_PARTS, *((MUTUAL_FOLDER,) if is_difashion else ())}
    for path in sorted(source.iterdir()):
        if path.name in taken or path.name in averages(source):
            continue
        if path.is_file() and is_training_state(path.name):
            account.leave_out(path.name, "a training's state; never opened")
        elif path.stem in _ADAPTER_STEMS:
            account.leave_out(path.name, "an adapter; import the file by itself")
        else:
            account.leave_out(path.name, "no part of a bundle")


def averages(source: Path) -> tuple[str, ...]:
    """Folders of running averages that a source has."""
    return tuple(name for name in ("unet_ema", f"{MUTUAL_FOLDER}_ema") if (source / name).is_dir())


def _recognise_loose_files(source: Path, account: Account) -> Recognised:
    candidates = []
    for path in sorted(source.iterdir()):
        if path.is_file() and is_training_state(path.name):
            account.leave_out(path.name, "a training's state; never opened")
        elif path.is_file() and path.suffix in SAFETENSORS + TORCH:
            candidates.append(path)
        else:
            account.leave_out(path.name, "no file of weights")
    if not candidates:
        raise InvalidInput(
            f"{source} holds nothing that can be imported: neither unet/ nor a file of weights, which would end in "
            f"{', '.join(SAFETENSORS + TORCH)}"
        )
    chosen = _only_one(source, candidates)
    for path in candidates:
        if path != chosen:
            account.leave_out(path.name, f"another form of the same weights; {chosen.name} was taken")
    if (stated := scale_file(chosen)) is not None:
        account.left_out = [left for left in account.left_out if left.name != stated.name]
    return Recognised(_kind_of_weights(chosen, open_weights(chosen)), chosen)


def _only_one(source: Path, candidates: Sequence[Path]) -> Path:
    """The file to take: the one with an adapter's usual name, else the only one; safetensors before pickles."""
    usual = [path for path in candidates if path.stem in _ADAPTER_STEMS] or list(candidates)
    if len({path.stem for path in candidates}) > 1:
        raise InvalidInput(
            f"{source} holds several files of weights: name one of {named([p.name for p in candidates])}"
        )
    return min(usual, key=lambda path: (path.suffix not in SAFETENSORS, path.name))
