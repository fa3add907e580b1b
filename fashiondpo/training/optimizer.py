"""What turns gradients into weights: AdamW, the scale of float16's losses, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import torch
from torch import Tensor, nn

from fashiondpo.errors import InvalidInput, TrainingDiverged
from fashiondpo.training.checkpoint import Checkpoint
from fashiondpo.training.config import TrainSettings

FIRST_SCALE = 2.0**16
"""Of float16's losses; halved as often as gradients are too large, doubled after many updates without that."""

_SCALER_STATE: tuple[str, ...] = ("scale", "_growth_tracker")


class PolicyOptimizer:
    """Optimiser of the adapter's parameters, with everything that belongs to its state."""

    def __init__(self, parameters: list[nn.Parameter], settings: TrainSettings, device: torch.device) -> None:
        """Fresh.

        Raises:
            InvalidInput: if the settings ask for a package that is not installed.
        """
        self.parameters, self._settings = parameters, settings
        self.adamw = build_optimizer(parameters, settings)
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=FIRST_SCALE, enabled=settings.precision == "float16"
        )
        self.average = [p.detach().clone() for p in parameters] if settings.ema_decay is not None else []

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def clipped_norm(self) -> Tensor:
        """Length of the whole gradient, which is cut to the longest that is allowed."""
        self._scaler.unscale_(self.adamw)
        return torch.nn.utils.clip_grad_norm_(self.parameters, self._settings.max_grad_norm)

    def lowers_scale(self) -> bool:
        """After a gradient that is not finite: lower the scale of the loss; False if that is not what is wrong."""
        if not self._scaler.is_enabled() or self._scaler.get_scale() < 1:
            return False
        self._scaler.step(self.adamw)  # takes no step: it has seen the gradient
        self._scaler.update()
        return True

    def step(self, learning_rate: float) -> None:
        """One update with the gradients that are there."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self.adamw)
        self._scaler.update()
        if self._settings.ema_decay is not None:
            update_average(self.average, self.parameters, self._settings.ema_decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are their moving average, if there is one."""
        if not self.average:
            yield
            return
        own = [p.detach().clone() for p in self.parameters]
        _fill(self.parameters, self.average)
        try:
            yield
        finally:
            _fill(self.parameters, own)

    def checkpoint(self, updates: int, fingerprint: str) -> Checkpoint:
        """A copy of everything that the next update follows from."""
        scaler = self._scaler.state_dict()
        kept: dict[str, float] = {name: float(scaler[name]) for name in _SCALER_STATE if name in scaler}
        return Checkpoint.of(self.parameters, self.adamw, updates, fingerprint, average=self.average, scaler=kept)

    def restore(self, found: Checkpoint) -> None:
        """Put that back, bit by bit."""
        found.restore(self.parameters, self.adamw)
        for value, saved in zip(self.average, found.average, strict=True):
            value.copy_(saved)
        if found.scaler:
            state = self._scaler.state_dict()
            tracker = int(found.scaler["_growth_tracker"])
            self._scaler.load_state_dict(state | {"scale": found.scaler["scale"], "_growth_tracker": tracker})


def build_optimizer(parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW, with its state in float32 or in 8 bits.

    Raises:
        InvalidInput: if the 8-bit form is not installed.
    """
    rate, betas, decay = settings.learning_rate, settings.adam_betas, settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, betas=betas, weight_decay=decay)
    try:
        optimizers = import_module("bitsandbytes.optim")
    except ImportError as error:
        raise InvalidInput(
            f"the optimizer adamw_8bit needs the package bitsandbytes, which cannot be loaded here ({error}): install it "
            "where the training runs, or choose adamw"
        ) from error
    optimizer: torch.optim.Optimizer = optimizers.AdamW8bit(parameters, rate, betas=betas, weight_decay=decay)
    return optimizer


@torch.no_grad()
def update_average(average: Sequence[Tensor], values: Sequence[Tensor], decay: float) -> None:
    """Exponential moving average, in place: e <- decay e + (1 - decay) w.

    It begins at the weights before the first update, so after n updates e_n = d^n w_0 + (1 - d) sum_i d^(n - i) w_i.

    Args:
        average: e, one tensor per parameter.
        values: w, in the same order.
        decay: d, in 0…1; larger remembers longer.

    Raises:
        ValueError: if decay is not between 0 and 1.

    Source: Polyak averaging as in DDPM (arXiv:2006.11239), without a warm-up.
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must lie between 0 and 1, got {decay}")
    for mean, value in zip(average, values, strict=True):
        mean.mul_(decay).add_(value, alpha=1 - decay)


@torch.no_grad()
def _fill(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def check_finite(norm: Tensor, update: int) -> None:
    """Raise TrainingDiverged unless the gradient's length is finite."""
    if not bool(torch.isfinite(norm)):
        raise TrainingDiverged(
            f"the gradient of update {update} is not finite: lower the learning rate, or raise beta; "
            "the adapter of the last checkpoint is kept"
        )
