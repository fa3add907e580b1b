"""Pictures in the making: rows that advance by one denoising step at a time, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fashiondpo.contracts import AdapterRef, SamplerSettings
from fashiondpo.diffusion.conditions import Conditions
from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import mutual_of_others
from fashiondpo.diffusion.trajectory import Trajectory, stored_dtype

PREVIEWS = 4
"""How often at most a set is shown in the making: each time costs a decoding."""


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run with so many of them.

    Attributes:
        timesteps: noisiest first, (t,) int64.
        steps: per step its timestep, and the signal's share before and after it.
    """

    timesteps: Tensor
    steps: tuple[tuple[int, float, float], ...]

    @classmethod
    def of(cls, schedule: NoiseSchedule, num_inference_steps: int) -> StepPlan:
        """Raises InvalidInput if the model does not have that many noise levels."""
        timesteps = schedule.timesteps(num_inference_steps)
        alpha, alpha_next = schedule.step_alphas(timesteps, num_inference_steps)
        return cls(timesteps, tuple(zip(timesteps.tolist(), alpha.tolist(), alpha_next.tolist(), strict=True)))

    def __len__(self) -> int:
        return len(self.steps)


class Row:
    """One candidate of one slot.

    Attributes:
        slot: whose candidate it is.
        index: which of the candidates.
        step: steps done.
        latents: where it is now, (c, h, w) float32 on the bundle's device.
        mutual: mutual latents of the next step, (c, h, w).
        denoised: what it would be if it were finished now, where a preview is due.
    """

    def __init__(self, slot: SlotRun, index: int, seed: int, bundle: DiFashion) -> None:
        self.slot, self.index, self.step = slot, index, 0
        # on the CPU, so that a seed means the same picture on every device
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = bundle.latent_shape
        first = self.noise().to(slot.dtype)
        slot.states[index, 0] = first
        self.latents = first.float().to(bundle.device)
        self.mutual = slot.conditions.mutual_latents
        self.denoised: Tensor | None = None

    def noise(self) -> Tensor:
        """The next draw from its own generator, (c, h, w) on the CPU."""
        return torch.randn(self._shape, generator=self._generator)

    @property
    def is_preview_due(self) -> bool:
        """Whether it will be shown after its next step."""
        return self.slot.is_preview_due(self.step + 1)

    def visit(self, latents: Tensor, stored: Tensor, log_prob: float) -> None:
        """Go on from these latents; the same on the CPU, and their log-density, are recorded."""
        self.step += 1
        self.latents = latents
        self.slot.states[self.index, self.step] = stored
        self.slot.log_probs[self.index, self.step - 1] = log_prob


class SlotRun:
    """All candidates of one empty slot, and what is recorded of them.

    Attributes:
        told: steps that the observer has heard of.
    """

    def __init__(
        self,
        bundle: DiFashion,
        conditions: Conditions,
        seeds: Sequence[int],
        settings: SamplerSettings,
        plan: StepPlan,
        *,
        is_joint: bool,
        has_previews: bool,
    ) -> None:
        self.conditions, self.seeds, self.settings, self.plan = conditions, tuple(seeds), settings, plan
        self.dtype, self.told, self._has_previews = stored_dtype(settings), 0, has_previews
        shape = bundle.latent_shape
        self.states = torch.empty(len(seeds), len(plan) + 1, *shape, dtype=self.dtype)
        self.log_probs = torch.zeros(len(seeds), len(plan))
        self.mutual = torch.empty(len(seeds), len(plan), *shape) if is_joint else None
        self.rows = [Row(self, index, seed, bundle) for index, seed in enumerate(seeds)]

    @property
    def done(self) -> int:
        """Steps that all candidates have done."""
        return min(row.step for row in self.rows)

    def is_preview_due(self, step: int) -> bool:
        """Whether the candidates are to be shown after this many steps."""
        return self._has_previews and 0 < step < len(self.plan) and step % -(-len(self.plan) // (PREVIEWS + 1)) == 0

    def trajectory(self, base_digest: str, adapter: AdapterRef) -> Trajectory:
        """The finished record."""
        conditions = self.conditions
        if self.mutual is not None:
            conditions = replace(conditions, mutual_latents=self.mutual)
        return Trajectory(
            self.states,
            self.plan.timesteps,
            self.log_probs,
            conditions,
            self.seeds,
            self.settings,
            base_digest,
            adapter,
        )


class OutfitRun:
    """One outfit in the making: one slot, or several that are painted together, each conditioned on the others."""

    def __init__(self, bundle: DiFashion, slots: Sequence[SlotRun], given: Tensor) -> None:
        """Begin.

        Args:
            bundle: the generator.
            slots: its empty slots, all with the same number of candidates.
            given: latents of the items that are there, (n, c, h, w); used where slots are painted together.
        """
        self._bundle, self.slots, self._given = bundle, tuple(slots), given.to(bundle.device)
        self._candidates = list(zip(*(slot.rows for slot in slots), strict=True))
        self.settle(slots[0].rows)

    def ready(self) -> list[Row]:
        """Rows that can do their next step, those that are behind first.

        Candidate k of a slot waits for candidate k of the others, since it is conditioned on where they are.
        """
        found = []
        for rows in self._candidates:
            behind = min(row.step for row in rows)
            if behind < len(rows[0].slot.plan):
                found += [row for row in rows if row.step == behind]
        return sorted(found, key=lambda row: row.step)

    def settle(self, rows: Iterable[Row]) -> None:
        """Look at the other slots again, for every candidate of which all slots have reached the same step."""
        if len(self.slots) == 1:
            return
        for index in {row.index for row in rows}:
            together = self._candidates[index]
            step = together[0].step
            if step == len(self.slots[0].plan) or any(row.step != step for row in together):
                continue
            latents = torch.stack([row.latents for row in together])[:, None]
            # one candidate at a time: the others may be at another step
            mutual = mutual_of_others(self._bundle, latents, self._given, self.slots[0].settings)[:, 0]
            for row, of_row in zip(together, mutual, strict=True):
                row.mutual = of_row
                if row.slot.mutual is not None:
                    row.slot.mutual[index, step] = of_row
