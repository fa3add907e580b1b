"""Where a generator's models compute, in which type, and how memory is saved where there is little of it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import torch

from fashiondpo.diffusion.guidance import BRANCHES
from fashiondpo.diffusion.model import PICTURES_PER_DECODE, DiFashion
from fashiondpo.diffusion.placement_choices import NumberType, Offload, Switch
from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.telemetry import log

RESTING: dict[Offload, Collection[str]] = {
    "none": (),
    "text_encoder": ("text_encoder",),
    "encoders": ("text_encoder", "vae"),
}
"""Which parts of a bundle wait in the machine's memory until they are needed."""

_UNET_MAPS, _DECODER_MAPS = 26, 6
"""The most that is alive at once in a forward, in maps of the first block's width and full size: counted on the UNet and the
VAE of Stable Diffusion 2, tensor by tensor, with attention that keeps no matrix of scores."""

_CONTEXT_BYTES = 2**30
"""What CUDA takes for itself, and what its allocator loses."""

_LARGE_SHARE = 4
"""Decoding is large if it takes more than a quarter of the card's memory."""


class Devices(Protocol):
    """The GPUs of a machine."""

    def count(self) -> int:
        """How many there are that torch can use."""

    def free_bytes(self, index: int) -> int:
        """Memory of one that nobody holds at this moment."""

    def total_bytes(self, index: int) -> int:
        """All of its memory."""


class TorchDevices:
    """Those that torch finds; one is touched only when it is asked about, since that alone takes memory on it."""

    def count(self) -> int:
        """How many there are."""
        return torch.cuda.device_count() if torch.cuda.is_available() else 0

    def free_bytes(self, index: int) -> int:
        """Memory that nobody holds."""
        return int(torch.cuda.mem_get_info(index)[0])

    def total_bytes(self, index: int) -> int:
        """All memory."""
        return int(torch.cuda.get_device_properties(index).total_memory)


def chosen_device(asked: str, needed_bytes: Callable[[], int], devices: Devices) -> str:
    """The device to compute on.

    Args:
        asked: `cpu`; `cuda`, the first GPU; `cuda:1`, that one; `auto`: the first GPU with enough free memory, else the CPU.
        needed_bytes: how much that is.
        devices: what there is.

    Returns:
        `cpu` or `cuda:<n>`.

    Raises:
        InvalidInput: if a GPU is asked for and not there; says which there are.
    """
    if asked == "cpu":
        return asked
    if asked == "auto":
        return _first_with_room(needed_bytes(), devices) if devices.count() else _cpu_instead("there is no GPU", {})
    index = int(asked.partition(":")[2] or 0)
    if index >= (count := devices.count()):
        there = f"there are {count}, cuda:0 to cuda:{count - 1}" if count else "torch finds no GPU here"
        raise InvalidInput(
            f"the device {asked!r} was asked for, and {there}: look at the driver, at the container's GPUs and at torch's "
            "build, or ask for 'cpu' or 'auto'"
        )
    return f"cuda:{index}"


def _first_with_room(needed: int, devices: Devices) -> str:
    free: dict[str, float] = {}
    for index in range(devices.count()):
        there = devices.free_bytes(index)
        if there >= needed:
            return f"cuda:{index}"
        free[f"cuda:{index}"] = round(there / 2**30, 2)
    return _cpu_instead("no GPU has enough free memory", {"needed_gib": round(needed / 2**30, 2), "free_gib": free})


def _cpu_instead(reason: str, figures: dict[str, object]) -> str:
    log().warning("computing_on_the_cpu", reason=reason, **figures)
    return "cpu"


def chosen_dtype(asked: NumberType, device: str) -> torch.dtype:
    """The type that is asked for; `auto` is float32 on a CPU, float16 on a GPU.

    float16 rather than bfloat16, since densities are recorded: those of the mini bundle, replayed in float32, differ by 1e-4
    on average (at most 2e-3) in float16, and eight times as much in bfloat16.
    """
    if asked == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    dtype: torch.dtype = getattr(torch, asked)
    return dtype


def needed_bytes(folder: Path, dtype: torch.dtype, *, rows_per_forward: int, offload: Offload = "none") -> int:
    """Estimate of what a bundle takes on a GPU: weights, and the larger of a forward and of decoding a picture.

    Raises:
        InvalidBundle: if weights or configurations cannot be read.
    """
    try:
        networks = {path.name for path in folder.iterdir() if path.is_dir()} - set(RESTING[offload])
        weights = sum(_weights_of(folder / name) for name in networks) * dtype.itemsize
        unet, vae = (json.loads((folder / name / "config.json").read_text()) for name in ("unet", "vae"))
        side, width = int(unet["sample_size"]), int(unet["block_out_channels"][0])
        pixels = side * 2 ** (len(vae["block_out_channels"]) - 1)
        forward = _UNET_MAPS * BRANCHES * rows_per_forward * side**2 * width * dtype.itemsize
        decoding = _decoding_bytes(pixels, int(vae["block_out_channels"][0]), dtype.itemsize)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InvalidBundle(f"how much memory {folder} needs cannot be found out: {error}") from error
    return weights + max(forward, decoding) + _CONTEXT_BYTES


def _weights_of(folder: Path) -> int:
    """Numbers in the safetensors files of a part; files of variants (`….fp16.safetensors`) hold the same ones again."""
    count = 0
    for path in folder.glob("*.safetensors"):
        if "." in path.stem:
            continue
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                count += torch.Size(tensor["shape"]).numel()
    return count


def _decoding_bytes(pixels: int, width: int, itemsize: int) -> int:
    """Of one picture."""
    return _DECODER_MAPS * pixels**2 * width * itemsize


def save_decoder_memory(bundle: DiFashion, *, slicing: Switch, tiling: Switch, devices: Devices) -> None:
    """Let the VAE take pictures one by one (slicing), and a large one in overlapping parts (tiling).

    `auto` looks at the size of the card, not at what is free on it, so that a restart gives the same pictures: on a GPU the
    VAE slices if a full batch of pictures would take more than a quarter of its memory, and tiles if one picture would.
    On a CPU `auto` is off.
    """
    device = bundle.device
    budget = float("inf")
    if device.type == "cuda" and "auto" in (slicing, tiling):
        budget = devices.total_bytes(device.index or 0) / _LARGE_SHARE
    one = _decoding_bytes(bundle.image_size, int(bundle.vae.config.block_out_channels[0]), bundle.vae.dtype.itemsize)
    bundle.vae.use_slicing = slicing == "on" or (slicing == "auto" and PICTURES_PER_DECODE * one > budget)
    bundle.vae.use_tiling = tiling == "on" or (tiling == "auto" and one > budget)
