"""What a training will need of its device's memory: counted from the real tensors, and one traced row.

Asked before a training begins, and before a round paints what it is to learn from, which may take hours.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fashiondpo.contracts import CandidateRequest, GuidanceScales
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import needed_branches
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import InvalidInput
from fashiondpo.telemetry import log
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.policy import put_policy, take_off_policy
from fashiondpo.training.precision import prepare_policy

_FLOAT32 = 4
_EIGHT_BIT_BLOCK, _SMALLEST_EIGHT_BIT = 256, 4096
"""The 8-bit state has a float32 scale per so many values; smaller tensors keep theirs in float32."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a training.

    Attributes:
        weights: of all networks of the bundle, adapters among them.
        gradients: of the adapter.
        optimizer: what the optimiser remembers, and the moving average of the weights.
        activations: highest sum of what one forward and its way back hold at a time.
        rows: pictures in that forward, each with its branches.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    rows: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "activations")
        shown = ", ".join(f"{name} {_size(getattr(self, name))}" for name in parts)
        return f"{_size(self.total)}: {shown} ({self.rows} rows at once)"


@dataclass(frozen=True)
class SetShape:
    """Of an outfit to learn from, what memory depends on.

    Attributes:
        candidates: how many it has.
        guidance: which decides the branches of a denoising step.
        prompt: shape of a prompt's encoding, (l, d).
    """

    candidates: int
    guidance: GuidanceScales
    prompt: tuple[int, ...]

    @classmethod
    def of_trajectory(cls, trajectory: Trajectory) -> Self:
        """As it was recorded."""
        prompt = tuple(trajectory.conditions.prompt_embeds.shape)
        return cls(trajectory.num_candidates, trajectory.settings.guidance, prompt)

    @classmethod
    @torch.no_grad()
    def of_request(cls, request: CandidateRequest, bundle: DiFashion) -> Self:
        """As the bundle would record it."""
        prompt = tuple(bundle.encode_prompts([""]).shape[1:])
        return cls(len(request.seeds), (request.sampler or bundle.sampler).guidance, prompt)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device: what a training could have now, and all that there is."""

    free: int
    whole: int


def device_memory(device: torch.device) -> DeviceMemory | None:
    """What the device says; None if it says nothing."""
    if device.type != "cuda":
        return None
    free, whole = torch.cuda.mem_get_info(device)
    # what this process holds, the bundle's weights among it, is part of an estimate
    return DeviceMemory(free + torch.cuda.memory_allocated(device), whole)


def estimate_memory(
    bundle: DiFashion, parameters: list[nn.Parameter], settings: TrainSettings, shape: SetShape
) -> MemoryEstimate:
    """What a training needs.

    Args:
        bundle: with the policy's adapter on its UNet, computing as it will be trained.
        parameters: of the adapter.
        settings: how it is trained.
        shape: of an outfit that it learns from.
    """
    networks = [tensor for network in bundle.networks() for tensor in (*network.parameters(), *network.buffers())]
    branches = len(needed_branches(shape.guidance)) if settings.objective == "d3po" else 1
    rows = settings.visits_per_forward * shape.candidates * branches
    return MemoryEstimate(
        weights=sum(_bytes(tensor) for tensor in networks),
        gradients=sum(_bytes(p) for p in parameters),
        optimizer=sum(optimizer_bytes(p.numel(), settings) for p in parameters),
        activations=activation_bytes(bundle, parameters, shape, rows),
        rows=rows,
    )


def optimizer_bytes(values: int, settings: TrainSettings) -> int:
    """What is remembered of a parameter: two moments, in float32 or in 8 bits, and the moving average if one is kept."""
    average = 0 if settings.ema_decay is None else _FLOAT32 * values
    if settings.optimizer == "adamw" or values < _SMALLEST_EIGHT_BIT:
        return 2 * _FLOAT32 * values + average
    return 2 * (values + _FLOAT32 * -(-values // _EIGHT_BIT_BLOCK)) + average


def activation_bytes(bundle: DiFashion, parameters: list[nn.Parameter], shape: SetShape, rows: int) -> int:
    """Highest sum of bytes that a forward of so many rows and its way back hold at a time.

    One row and two are traced; every further one holds as much as the second has added.
    """
    peaks: list[int] = []
    for few in (1, 2):
        with _Allocations() as seen:
            _forward_and_back(bundle, parameters, shape, few)
        peaks.append(seen.peak)
    return peaks[0] + (rows - 1) * max(0, peaks[1] - peaks[0])


def foresee_memory(
    bundle: DiFashion, parent: AdapterWeights | None, settings: TrainSettings, shape: SetShape
) -> MemoryEstimate:
    """What a training will need of which nothing is there yet; afterwards the bundle carries no adapter.

    Raises:
        InvalidInput: if not even two rows fit.
        InvalidAdapter: if the parent does not fit the bundle.
    """
    take_off_policy(bundle)
    try:
        parameters = put_policy(bundle, parent, settings)
        restore = prepare_policy(bundle.unet, settings)
        try:
            return estimate_memory(bundle, parameters, settings, shape)
        finally:
            restore()
    finally:
        take_off_policy(bundle)


def check_room(
    bundle: DiFashion,
    parent: AdapterWeights | None,
    settings: TrainSettings,
    request: CandidateRequest,
    memory: DeviceMemory,
) -> None:
    """Refuse a round before it paints, if the device has not the memory to train on it; warn if not so much is free now.

    Args:
        bundle: afterwards it carries no adapter.
        parent: the adapter from which the round starts.
        settings: of the training.
        request: one of those that the round will have painted.
        memory: of the bundle's device.

    Raises:
        InvalidInput: if the device is too small.
    """
    check_memory(foresee_memory(bundle, parent, settings, SetShape.of_request(request, bundle)), memory)


def check_memory(estimate: MemoryEstimate, memory: DeviceMemory | None) -> None:
    """Warn in the log if the device has not so much memory free; None is a device that does not say.

    Raises:
        InvalidInput: if it has not so much memory at all.
    """
    if memory is not None and (warning := memory_verdict(estimate, memory)) is not None:
        log().warning("memory is short", reason=warning)


def memory_verdict(estimate: MemoryEstimate, memory: DeviceMemory) -> str | None:
    """A warning if the training needs more than is free.

    Raises:
        InvalidInput: if it needs more than there is.
    """
    advice = "lower visits_per_forward, set gradient_checkpointing, or choose the precision bfloat16"
    if estimate.total > memory.whole:
        raise InvalidInput(f"the training needs about {estimate}, but the device has {_size(memory.whole)}: {advice}")
    if estimate.total > memory.free:
        short = f"the training needs about {estimate}, but only {_size(memory.free)} are free"
        return f"{short}: {advice}, or end what uses the device"
    return None


def _forward_and_back(bundle: DiFashion, parameters: list[nn.Parameter], shape: SetShape, rows: int) -> None:
    unet = bundle.unet
    inputs = torch.zeros(
        rows, unet.config.in_channels, *bundle.latent_shape[1:], device=bundle.device, dtype=unet.dtype
    )
    prompts = torch.zeros(shape.prompt, device=bundle.device, dtype=unet.dtype).expand(rows, *shape.prompt)
    timesteps = torch.full((rows,), 500, device=bundle.device)
    before = [p.grad for p in parameters]
    try:
        unet(inputs, timesteps, prompts).sample.float().sum().backward()
    except torch.OutOfMemoryError as error:
        raise InvalidInput(
            f"not even {rows} rows fit into the device's memory: set gradient_checkpointing, choose the precision bfloat16, "
            "or end what else uses the device"
        ) from error
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, adds up the memory of tensors that are made, until they are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: dict[int, int] = {}
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage()._cdata for t in _tensors((args, kwargs or {}))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._seen and storage._cdata not in known:
                self._seen[storage._cdata] = storage.nbytes()
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return result

    def _gone(self, key: int) -> None:
        self._now -= self._seen.pop(key, 0)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for inner in value for tensor in _tensors(inner)] if isinstance(value, list | tuple) else []


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
