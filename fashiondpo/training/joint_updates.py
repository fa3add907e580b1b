"""What the processes of a training add up in every update: gradients, and the figures that are shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fashiondpo.training.objectives import VisitLosses
from fashiondpo.training.processes import Processes

_FIGURES = {
    "loss": "loss",
    "implicit_accuracy": "is_right",
    "margin": "margin",
    "clipped_fraction": "is_clipped",
    "kl": "kl",
}
"""Names of the figures, and of what each is the mean of."""


def sum_gradients(parameters: Sequence[nn.Parameter], processes: Processes) -> None:
    """Give every process the sum of all processes' gradients, in one message; one without any visits has zeros."""
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    total = processes.summed(torch.cat([gradient.flatten() for gradient in own]))
    parts = torch.split(total, [p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.device, copy=True)


def figures_of(parts: Sequence[VisitLosses], processes: Processes) -> dict[str, float]:
    """Means over all losses of an update, of whichever process."""
    values = {name: [getattr(part, field) for part in parts] for name, field in _FIGURES.items()}
    if processes.count == 1:
        return {name: float(torch.cat(some).float().mean()) for name, some in values.items()}
    sums = torch.tensor([[_total(some), sum(map(len, some))] for some in values.values()], dtype=torch.float64)
    totals = processes.summed(sums).cpu()
    return {name: float(total / count) for name, (total, count) in zip(values, totals, strict=True)}


def _total(values: Sequence[Tensor]) -> float:
    return float(sum(value.double().sum() for value in values))
