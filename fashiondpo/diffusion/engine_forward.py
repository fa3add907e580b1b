"""One denoising step of rows that need not have anything in common but the adapter and the guidance branches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.compiling import CompiledUNet
from fashiondpo.diffusion.conditions import ConditionRows
from fashiondpo.diffusion.ddim import ddim_transition, transition_log_prob
from fashiondpo.diffusion.engine_rows import Row
from fashiondpo.diffusion.engine_shapes import ForwardKind, ForwardShapes
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import guided_epsilon, needed_branches


class Denoiser:
    """Advances rows; each comes out as from a forward of `capacity` rows, whatever it stands beside.

    Guidance branches without weight are not computed. Which those are follows from a request's own scales, and only rows
    with the same ones stand in one forward.

    The last bits of a matrix product depend on its shape. A forward of fewer rows is filled up, with copies of the first,
    to a number of rows that has been seen to give the same bits: docs/decisions/0014-forwards-of-proven-shapes.md.
    """

    def __init__(self, bundle: DiFashion, rows_per_forward: int, *, compiled: CompiledUNet | None = None) -> None:
        """Compose; a compiled UNet takes the place of the bundle's, and gets full forwards only."""
        self.bundle, self.capacity = bundle, rows_per_forward
        self._compiled = compiled
        self._shapes = ForwardShapes(rows_per_forward)
        self._last: tuple[Row, ...] = ()
        self._latents: Tensor | None = None
        self._batch: _Batch | None = None

    @torch.no_grad()
    def advance(self, rows: Sequence[Row], adapter: AdapterRef) -> None:
        """Do the next step of every row.

        Args:
            rows: at least one, at most `capacity`, with the same guidance branches.
            adapter: with which the UNet computes now.
        """
        rows = tuple(rows)
        kind = ForwardKind(len(needed_branches(rows[0].slot.settings.guidance)), adapter)
        shape = self._shapes.choose(kind, len(rows)) if self._compiled is None else self.capacity
        batch, latents = self._prepare(rows, shape)
        self.forget()  # if the forward fails, nothing of it is used again
        noise = torch.stack([row.noise() for row in rows]).to(self.bundle.device)
        step = self._step(batch, latents, noise)
        if not self._shapes.is_proven(kind, shape):
            batch, latents = self._prepare(rows, self.capacity)
            full = self._step(batch, latents, noise)
            self._shapes.note(kind, shape, agrees=step.has_bits_of(full))
            step = full
        if any(row.is_preview_due for row in rows):
            _keep_denoised(rows, latents, step.epsilon, step.alpha)
        stored = step.visited.cpu()
        for row, there, here, log_prob in zip(rows, step.visited, stored, step.log_probs.tolist(), strict=True):
            row.visit(there, here, log_prob)
        self._last, self._latents, self._batch = rows, batch.filled(step.visited), batch

    @torch.no_grad()
    def prove(self, rows: Sequence[Row], adapter: AdapterRef, *, within_s: float) -> None:
        """Compare every smaller number of rows with a full forward, before anybody waits; what is not reached is left.

        Args:
            rows: as many as a full forward has; they stay where they are.
            adapter: with which the UNet computes now.
            within_s: no more is begun after so many seconds.
        """
        if self._compiled is not None:
            return
        started, kind = time.monotonic(), ForwardKind(len(needed_branches(rows[0].slot.settings.guidance)), adapter)
        latents = torch.stack([row.latents for row in rows])
        noise = torch.stack([row.noise() for row in rows]).to(self.bundle.device)
        full = self._step(_Batch(tuple(rows), self.bundle.device), latents, noise)
        for shape in range(1, self.capacity):
            if time.monotonic() - started > within_s:
                return
            batch = _Batch(tuple(rows[:shape]), self.bundle.device)
            step = self._step(batch, latents[:shape], noise[:shape])
            self._shapes.note(kind, shape, agrees=step.has_bits_of(full.first(shape)))

    def forget(self) -> None:
        """Keep nothing of the rows that were advanced last."""
        self._last, self._latents, self._batch = (), None, None

    def _prepare(self, rows: tuple[Row, ...], shape: int) -> tuple[_Batch, Tensor]:
        batch, latents = self._batch, self._latents
        if batch is not None and latents is not None and rows == self._last and shape == len(batch.rows):
            return batch, latents
        batch = _Batch(rows + rows[:1] * (shape - len(rows)), self.bundle.device)
        return batch, torch.stack([row.latents for row in batch.rows])

    def _step(self, batch: _Batch, latents: Tensor, noise: Tensor) -> _Step:
        """The next step of the first rows of a batch, as many as there is noise for, (n, c, h, w)."""
        device, count = self.bundle.device, len(noise)
        steps = [row.slot.plan.steps[row.step] for row in batch.rows]
        timesteps = torch.tensor([timestep for timestep, _, _ in steps], device=device)
        alpha, alpha_next = torch.tensor([[a, b] for _, a, b in steps], dtype=torch.float64, device=device).unbind(1)
        conditions = batch.conditions
        if batch.is_joint:
            conditions = conditions.with_mutual(torch.stack([row.mutual for row in batch.rows]).to(device))
        unet = self._compiled or self.bundle.unet
        epsilon = guided_epsilon(unet, self.bundle.schedule, latents, timesteps, conditions, batch.branches)
        mean, std = ddim_transition(latents, epsilon, alpha, alpha_next, batch.ddim_eta)
        visited = batch.rounded(mean + std.view(-1, 1, 1, 1) * batch.filled(noise))
        log_probs = _log_probs(visited, mean, std)
        return _Step(visited[:count], mean[:count], log_probs[:count], epsilon[:count], alpha[:count])


@dataclass(frozen=True)
class _Step:
    """What a forward gave for n rows: where they are now, the mean of it, both (n, c, h, w), its log-density (n,)."""

    visited: Tensor
    mean: Tensor
    log_probs: Tensor
    epsilon: Tensor
    alpha: Tensor

    def first(self, count: int) -> _Step:
        """The first rows alone."""
        return _Step(
            self.visited[:count], self.mean[:count], self.log_probs[:count], self.epsilon[:count], self.alpha[:count]
        )

    def has_bits_of(self, other: _Step) -> bool:
        """Whether everything that is recorded is the same, before rounding too."""
        return (
            torch.equal(self.mean, other.mean)
            and torch.equal(self.visited, other.visited)
            and torch.equal(self.log_probs, other.log_probs)
            and torch.equal(self.epsilon, other.epsilon)
        )


class _Batch:
    """What stays the same while the same rows advance."""

    def __init__(self, rows: tuple[Row, ...], device: torch.device) -> None:
        self.rows = rows
        slots = [row.slot for row in rows]
        settings = [slot.settings for slot in slots]
        self.branches = needed_branches(settings[0].guidance)
        self.is_joint = any(slot.mutual is not None for slot in slots)
        self.ddim_eta = torch.tensor([s.ddim_eta for s in settings], dtype=torch.float64, device=device)
        self._is_half = torch.tensor([slot.dtype == torch.float16 for slot in slots], device=device).view(-1, 1, 1, 1)
        self._has_half = any(slot.dtype == torch.float16 for slot in slots)

        def stacked(name: str) -> Tensor:
            return torch.stack([getattr(slot.conditions, name) for slot in slots]).to(device)

        self.conditions = ConditionRows(
            prompt_embeds=torch.stack([stacked("null_prompt_embeds"), stacked("prompt_embeds")]),
            mutual_latents=stacked("mutual_latents"),
            history_latents=stacked("history_latents"),
            null_latents=stacked("null_latents"),
            scales=torch.tensor(
                [[s.guidance.category, s.guidance.mutual, s.guidance.history] for s in settings], device=device
            ),
            mutual_weight=torch.tensor([s.mutual_weight for s in settings], device=device),
        )

    def filled(self, values: Tensor) -> Tensor:
        """One value for every row: what the first rows have, (n, …), and then the first again and again."""
        missing = len(self.rows) - len(values)
        return torch.cat([values, values[:1].expand(missing, *values.shape[1:])]) if missing else values

    def rounded(self, latents: Tensor) -> Tensor:
        """Every row as it reads back after being stored in its own type."""
        return torch.where(self._is_half, latents.half().float(), latents) if self._has_half else latents


def _keep_denoised(rows: Sequence[Row], latents: Tensor, epsilon: Tensor, alpha: Tensor) -> None:
    share = alpha.to(latents.dtype).view(-1, 1, 1, 1)
    denoised = (latents[: len(rows)] - (1 - share).sqrt() * epsilon) / share.sqrt()
    for row, of_row in zip(rows, denoised, strict=True):
        row.denoised = of_row if row.is_preview_due else None


def _log_probs(visited: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density per row, (n,) on the CPU; 0 for a step without noise, which has none and is not trained."""
    has_noise = std > 0
    density = transition_log_prob(visited, mean, torch.where(has_noise, std, torch.ones_like(std)))
    return torch.where(has_noise, density, torch.zeros_like(density)).float().cpu()
