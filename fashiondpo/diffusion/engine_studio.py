"""What becomes of an outfit before its first step and after its steps: conditions in, previews and pictures out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from fashiondpo.contracts import AdapterRef, SamplerSettings
from fashiondpo.diffusion.conditions import ConditionEncoder, Conditions
from fashiondpo.diffusion.engine_adapters import BASE
from fashiondpo.diffusion.engine_forward import Denoiser
from fashiondpo.diffusion.engine_jobs import Job
from fashiondpo.diffusion.engine_requests import EngineMetrics, FinishedSet
from fashiondpo.diffusion.engine_rows import OutfitRun, SlotRun, StepPlan
from fashiondpo.diffusion.engine_shapes import CHECKS
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.outfits.model import History, Image

PROVING_S = 5.0
"""The start is not held up for longer by finding out which forwards agree; the rest is found out at work."""

PREVIEW_PX = 128
"""Side of previews, unless the pictures are smaller: their latents are averaged first, so decoding costs little."""


class Studio:
    """A bundle with what is known of items and users."""

    def __init__(self, bundle: DiFashion, encoder: ConditionEncoder, history: History, metrics: EngineMetrics) -> None:
        self.bundle, self.encoder, self.history, self._metrics = bundle, encoder, history, metrics

    def begin(self, job: Job) -> OutfitRun:
        """Encode the conditions of an outfit and draw where its candidates start; errors as in the encoder."""
        request, task = job.painting.request, job.task
        slots = [
            SlotRun(
                self.bundle,
                self._conditions(job, slot),
                seeds,
                request.settings,
                job.painting.plan,
                is_joint=len(task.seeds) > 1,
                has_previews=request.wants_previews,
            )
            for slot, seeds in zip(task.outfit.empty_slots, task.seeds, strict=True)
        ]
        return OutfitRun(self.bundle, slots, self.encoder.given_latents(task.outfit, task.pictures))

    def _conditions(self, job: Job, slot: int) -> Conditions:
        task = job.task
        history = self.history if task.history is None else task.history.get(task.outfit.category_ids[slot], ())
        settings = job.painting.request.settings
        return self.encoder.encode(task.outfit, slot, history, settings, pictures=task.pictures)

    def previews(self, slot: SlotRun) -> list[Image]:
        """What the candidates would be if they were finished now, small."""
        started = time.perf_counter()
        latents = torch.stack([row.denoised for row in slot.rows if row.denoised is not None])
        if (times := self.bundle.image_size // PREVIEW_PX) > 1:
            latents = F.avg_pool2d(latents, times)
        images = self.bundle.decode_latents(latents)
        self._metrics.preview(len(images), time.perf_counter() - started)
        return images

    def finish(self, job: Job, index: int, adapter: AdapterRef) -> FinishedSet:
        """Decode the candidates of one slot, the index-th of the outfit's empty ones."""
        outfit, history = job.task.outfit, job.task.history
        slot, run = outfit.empty_slots[index], job.slots[index]
        trajectory = run.trajectory(self.bundle.digest, adapter)
        return FinishedSet(
            set_id=job.task.set_ids[index],
            outfit=outfit,
            slot=slot,
            history=None if history is None else tuple(history.get(outfit.category_ids[slot], ())),
            trajectory=trajectory,
            images=tuple(self.bundle.decode_latents(trajectory.final_latents)),
            adapter=adapter,
        )

    def warm_up(self, denoiser: Denoiser, settings: SamplerSettings | None = None) -> float:
        """Do once what every request needs, with the bundle's settings unless given; the seconds that a forward takes."""
        capacity = denoiser.capacity
        slot = self._blank_slot(range(capacity), settings)
        denoiser.advance(slot.rows, BASE)
        started = time.perf_counter()
        denoiser.advance(slot.rows, BASE)
        seconds = time.perf_counter() - started
        denoiser.forget()
        for check in range(1, CHECKS + 1):  # each on other noise
            rows = self._blank_slot(range(check * capacity, (check + 1) * capacity), settings).rows
            denoiser.prove(rows, BASE, within_s=PROVING_S / CHECKS)
        self.bundle.decode_latents(slot.states[:1, -1])
        return seconds

    def _blank_slot(self, seeds: Sequence[int], settings: SamplerSettings | None) -> SlotRun:
        null, prompt = self.encoder.null_latents, self.encoder.prompt_embeds(None)
        return SlotRun(
            self.bundle,
            Conditions(prompt, prompt, null, null, null),
            seeds,
            settings or self.bundle.sampler,
            StepPlan.of(self.bundle.schedule, 2),
            is_joint=False,
            has_previews=False,
        )
