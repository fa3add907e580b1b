"""Adapters in the formats in which others publish them, to this repository's and back.

Published with FashionDPO: `….attn1.processor.to_q_lora.down.weight`, keys of diffusers 0.18's attention processors, which
compute W x + up(down(x)). Others write PEFT's keys, `….attn1.to_q.lora_A.weight`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from fashiondpo.diffusion.lora import TARGETS, AdapterWeights
from fashiondpo.diffusion.model import bundle_digest
from fashiondpo.errors import DataFileError, InvalidAdapter, InvalidBundle, InvalidInput
from fashiondpo.importing.bundle_parts import unet_without_weights
from fashiondpo.importing.report import Account, named
from fashiondpo.importing.weight_files import Weights, name_in, open_weights

ADAPTER_FILE = "adapter.safetensors"

_PREFIXES = ("base_model.model.", "unet.")
_PUBLISHED = re.compile(
    r"(?P<attention>.+\.attn[12])\.processor\.to_(?P<target>q|k|v|out)_lora\.(?P<side>down|up)\.weight"
)
_PEFT = re.compile(r"(?P<module>.+\.attn[12]\.(?:to_q|to_k|to_v|to_out\.0))\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
_SIDES = {"down": "A", "up": "B"}
_DIFFUSERS_METADATA = "lora_adapter_metadata"
_MUST_BE_UNSET = (
    "use_dora",
    "use_rslora",
    "alpha_pattern",
    "rank_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
)


@dataclass(frozen=True)
class _Scale:
    """What a file says of its scale, if it says anything."""

    alpha: float | None
    source: str = ""


def adapter_key(key: str) -> str | None:
    """PEFT's key for a published one, without any prefix or adapter's name; None if it is of no known format."""
    name = key
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    if found := _PUBLISHED.fullmatch(name):
        target = "to_out.0" if found["target"] == "out" else f"to_{found['target']}"
        return f"{found['attention']}.{target}.lora_{_SIDES[found['side']]}.weight"
    if found := _PEFT.fullmatch(name):
        return f"{found['module']}.lora_{found['side']}.weight"
    return None


def published_key(key: str) -> str:
    """The key of diffusers 0.18 for one of ours.

    Raises:
        InvalidAdapter: if that format has no place for it.
    """
    found = _PEFT.fullmatch(key)
    if found is None:
        raise InvalidAdapter(f"{key!r} has no place in the format of diffusers 0.18")
    attention, _, target = found["module"].removesuffix(".0").rpartition(".")
    side = next(name for name, letter in _SIDES.items() if letter == found["side"])
    return f"{attention}.processor.{target}_lora.{side}.weight"


def is_adapter(weights: Weights) -> bool:
    """Whether a file holds LoRA matrices of a UNet's attention, at least one."""
    return any(adapter_key(key) for key in weights.shapes)


def read_adapter(path: Path, base: Path, source: Path, account: Account) -> AdapterWeights:
    """Read a published adapter and check it against the UNet of the bundle that it belongs to.

    Args:
        path: the file of weights.
        base: folder of the DiFashion bundle.
        source: what the user named, for the account.
        account: told about every key.

    Raises:
        InvalidAdapter: unknown or repeated keys, missing blocks, wrong shapes, mixed ranks, non-finite values, or options
            of PEFT that this repository does not have; names them.
        InvalidBundle: if the base is no bundle.
        DataFileError: if the file cannot be read.
    """
    if not (base / "difashion.json").is_file():
        raise InvalidBundle(f"{base} is no bundle of this repository: import the base model first")
    weights = open_weights(path)
    keys = _translated(weights)
    rank = _checked_rank(keys, weights.shapes, unet_without_weights(base / "unet"))
    tensors = {ours: weights.tensor(theirs).clone() for ours, theirs in sorted(keys.items())}
    if bad := [keys[key] for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise InvalidAdapter(f"non-finite values in {named(bad)}")
    scale = _scale(path, weights)
    if scale.alpha is None and not all(_PUBLISHED.search(key) for key in weights.shapes):
        account.warnings.append(f"the file says nothing about its scale: taken as 1 (alpha = rank = {rank})")
    if scale.source:
        account.keys_read.append(scale.source)
    account.keys_read += [f"{name_in(path, source)}:{key}" for key in keys.values()]
    return AdapterWeights(
        tensors, rank, float(rank) if scale.alpha is None else scale.alpha, tuple(sorted(TARGETS)), bundle_digest(base)
    )


def _translated(weights: Weights) -> dict[str, str]:
    """Every key of the file under what it is called here."""
    keys: dict[str, str] = {}
    unknown, repeated = [], []
    for theirs in sorted(weights.shapes):
        ours = adapter_key(theirs)
        if ours is None:
            unknown.append(theirs)
        elif ours in keys:
            repeated.append(theirs)
        else:
            keys[ours] = theirs
    if unknown:
        raise InvalidAdapter(f"{len(unknown)} keys are of no known adapter format: {named(unknown)}")
    if repeated:
        raise InvalidAdapter(f"{len(repeated)} tensors are there twice, under different names: {named(repeated)}")
    return keys


def _checked_rank(keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], unet: UNet2DConditionModel) -> int:
    """The one rank of all tensors, if they are those that this UNet's attention needs."""
    needed = _attention_widths(unet)
    expected = {f"{module}.lora_{side}.weight" for module in needed for side in "AB"}
    if missing := sorted(expected - set(keys)):
        raise InvalidAdapter(f"{len(missing)} of {len(expected)} tensors are missing: {named(missing)}")
    if unknown := sorted(keys[key] for key in set(keys) - expected):
        raise InvalidAdapter(f"{len(unknown)} tensors are for blocks that this UNet does not have: {named(unknown)}")
    if flat := sorted(theirs for theirs in keys.values() if len(shapes[theirs]) != 2):
        raise InvalidAdapter(f"{len(flat)} tensors are no matrices: {named(flat)}")
    ranks = {theirs: shapes[theirs][0 if ours.endswith(".lora_A.weight") else 1] for ours, theirs in keys.items()}
    (rank, *others) = sorted(set(ranks.values()), key=lambda rank: -list(ranks.values()).count(rank))
    if others or rank < 1:
        odd = sorted(theirs for theirs, found in ranks.items() if found != rank)
        raise InvalidAdapter(f"mixed ranks: most have rank {rank}, but not {named(odd)}")
    for ours, theirs in sorted(keys.items()):
        into, out = needed[ours.rpartition(".lora_")[0]]
        shape = (rank, into) if ours.endswith(".lora_A.weight") else (out, rank)
        if shapes[theirs] != shape:
            raise InvalidAdapter(f"{theirs!r} has shape {shapes[theirs]}, this UNet needs {shape}")
    return rank


def _attention_widths(unet: UNet2DConditionModel) -> dict[str, tuple[int, int]]:
    """Width in and out of every projection that an adapter changes, by the module's name."""
    ends = tuple(f".{target}" for target in TARGETS)
    return {
        name: (module.in_features, module.out_features)
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(ends)
    }


def scale_file(path: Path) -> Path | None:
    """PEFT's configuration beside a file of weights, which states their scale; None if it is none of PEFT's."""
    beside = path.parent / "adapter_config.json"
    return beside if path.stem == "adapter_model" and beside.is_file() else None


def _scale(path: Path, weights: Weights) -> _Scale:
    """The alpha that PEFT's configuration beside the file states, or diffusers' metadata in it."""
    if (beside := scale_file(path)) is not None:
        return _Scale(_alpha(_json_object(beside, beside.read_text())), beside.name)
    if _DIFFUSERS_METADATA in weights.metadata:
        content = _json_object(path, weights.metadata[_DIFFUSERS_METADATA])
        return _Scale(_alpha({key.removeprefix("unet."): value for key, value in content.items()}))
    return _Scale(None)


def _json_object(path: Path, text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataFileError(path, f"its adapter's configuration is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataFileError(path, "its adapter's configuration is no JSON object")
    return content


def _alpha(config: Mapping[str, object]) -> float | None:
    asked = [name for name in _MUST_BE_UNSET if config.get(name)]
    if config.get("bias", "none") != "none":
        asked.append("bias")
    if asked:
        raise InvalidAdapter(f"the adapter uses options that are not known here: {', '.join(asked)}")
    alpha = config.get("lora_alpha")
    if alpha is not None and not (isinstance(alpha, int | float) and math.isfinite(alpha)):
        raise InvalidAdapter(f"lora_alpha must be a number, got {alpha!r}")
    return None if alpha is None else float(alpha)


def adapter_to_published(weights: AdapterWeights) -> dict[str, Tensor]:
    """The tensors under the keys of diffusers 0.18, which has no alpha: a scale other than 1 goes into the up matrices.

    Raises:
        InvalidAdapter: if the adapter does not change all four projections, as that format wants.
    """
    if set(weights.targets) != set(TARGETS):
        raise InvalidAdapter(
            f"the format of diffusers 0.18 has all of {', '.join(TARGETS)}; this adapter changes "
            f"{', '.join(weights.targets)}"
        )
    scale = weights.alpha / weights.rank
    return {
        published_key(key): tensor * scale if scale != 1 and ".lora_B." in key else tensor
        for key, tensor in sorted(weights.tensors.items())
    }


def export_adapter(adapter: Path, out: Path) -> Sequence[str]:
    """Write an adapter of this repository in the format of diffusers 0.18; returns the keys.

    Args:
        adapter: its safetensors file, or the folder that an import wrote.
        out: `.safetensors`, or `.bin` for programs that read nothing else: a state dict of plain tensors.

    Raises:
        InvalidAdapter: if it is no adapter of this repository, or the format cannot hold it.
        InvalidInput: if the ending is another, or something is there already.
    """
    if out.suffix not in (".safetensors", ".bin"):
        raise InvalidInput(f"{out} must end in .safetensors or .bin")
    if out.exists():
        raise InvalidInput(f"{out} already exists: choose another name, or move it away")
    path = adapter / ADAPTER_FILE if adapter.is_dir() else adapter
    if not path.is_file():
        raise InvalidInput(f"there is no adapter {path}")
    tensors = adapter_to_published(AdapterWeights.from_bytes(path.read_bytes()))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    if out.suffix == ".bin":
        torch.save(tensors, partial)
    else:
        save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(out)
    return list(tensors)
