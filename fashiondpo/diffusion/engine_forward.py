"""One denoising step of rows that need not have anything in common but the adapter and the guidance branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fashiondpo.diffusion.conditions import ConditionRows
from fashiondpo.diffusion.ddim import ddim_transition, transition_log_prob
from fashiondpo.diffusion.engine_rows import Row
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import guided_epsilon, needed_branches


class Denoiser:
    """Advances rows; every forward has the same number of them, whatever they are.

    Guidance branches without weight are not computed. Which those are follows from a request's own scales, and only rows
    with the same ones stand in one forward.

    The last bits of a matrix product depend on its shape. With one shape, a row comes out the same wherever it stands
    and whatever stands beside it: docs/decisions/0008-every-forward-has-the-same-shape.md.
    """

    def __init__(self, bundle: DiFashion, rows_per_forward: int) -> None:
        self.bundle, self.capacity = bundle, rows_per_forward
        self._last: tuple[Row, ...] = ()
        self._latents: Tensor | None = None
        self._batch: _Batch | None = None

    @torch.no_grad()
    def advance(self, rows: Sequence[Row]) -> None:
        """Do the next step of every row.

        Args:
            rows: at least one, at most `capacity`, with the same guidance branches; if there are fewer, the first fills
                what is left.
        """
        batch, latents = self._prepare(tuple(rows))
        self.forget()  # if the forward fails, nothing of it is used again
        device = self.bundle.device
        steps = [row.slot.plan.steps[row.step] for row in batch.rows]
        timesteps = torch.tensor([timestep for timestep, _, _ in steps], device=device)
        alpha, alpha_next = torch.tensor([[a, b] for _, a, b in steps], dtype=torch.float64, device=device).unbind(1)
        conditions = batch.conditions
        if batch.is_joint:
            conditions = conditions.with_mutual(torch.stack([row.mutual for row in batch.rows]).to(device))
        epsilon = guided_epsilon(self.bundle.unet, self.bundle.schedule, latents, timesteps, conditions, batch.branches)
        mean, std = ddim_transition(latents, epsilon, alpha, alpha_next, batch.ddim_eta)
        draws = [row.noise() for row in rows]
        noise = torch.stack(draws + draws[:1] * (self.capacity - len(draws))).to(device)
        visited = batch.rounded(mean + std.view(-1, 1, 1, 1) * noise)
        if any(row.is_preview_due for row in rows):
            _keep_denoised(rows, latents, epsilon, alpha)
        stored, log_probs = visited.cpu(), _log_probs(visited, mean, std).tolist()
        for row, there, here, log_prob in zip(rows, visited, stored, log_probs, strict=False):
            row.visit(there, here, log_prob)
        self._last, self._latents, self._batch = tuple(rows), visited, batch

    def forget(self) -> None:
        """Keep nothing of the rows that were advanced last."""
        self._last, self._latents, self._batch = (), None, None

    def _prepare(self, rows: tuple[Row, ...]) -> tuple[_Batch, Tensor]:
        if rows == self._last and self._batch is not None and self._latents is not None:
            return self._batch, self._latents
        batch = _Batch(rows + rows[:1] * (self.capacity - len(rows)), self.bundle.device)
        return batch, torch.stack([row.latents for row in batch.rows])


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

    def rounded(self, latents: Tensor) -> Tensor:
        """Every row as it reads back after being stored in its own type."""
        return torch.where(self._is_half, latents.half().float(), latents) if self._has_half else latents


def _keep_denoised(rows: Sequence[Row], latents: Tensor, epsilon: Tensor, alpha: Tensor) -> None:
    share = alpha.to(latents.dtype).view(-1, 1, 1, 1)
    denoised = (latents - (1 - share).sqrt() * epsilon) / share.sqrt()
    for row, of_row in zip(rows, denoised, strict=False):
        row.denoised = of_row if row.is_preview_due else None


def _log_probs(visited: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density per row, (n,) on the CPU; 0 for a step without noise, which has none and is not trained."""
    has_noise = std > 0
    density = transition_log_prob(visited, mean, torch.where(has_noise, std, torch.ones_like(std)))
    return torch.where(has_noise, density, torch.zeros_like(density)).float().cpu()
