"""What the peers serve: the same bundle and the library's own sampler, requests of the same settings in one batch."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from fashiondpo.contracts import Outfit, SamplerSettings, candidate_seed
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.model import load_bundle
from fashiondpo.diffusion.sampling import SlotTask, sample_trajectories
from fashiondpo.messages import GenerateRequest, OutfitRequest
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import History
from fashiondpo.outfits.sources import load_data_set


class Painter:
    """Paints requests of one outfit with one empty slot."""

    def __init__(self, bundle: Path, data: Path, threads: int) -> None:
        """Load bundle and catalogue, and paint once to be warm."""
        torch.set_num_threads(threads)
        self.bundle, data_set = load_bundle(bundle), load_data_set(data)
        self.encoder = ConditionEncoder(self.bundle, data_set.catalogue, self.bundle.categories)
        self.history = History.joined(list(data_set.histories.values()))
        self.catalogue = data_set.catalogue
        blank = data_set.blanks_of("test", 1)[0]
        warm = SlotTask(self.encoder.encode(blank.outfit, blank.slot, self.history, self.bundle.sampler), (0,))
        sample_trajectories(self.bundle, [warm], self.bundle.sampler)

    def paint(self, requests: Sequence[GenerateRequest]) -> list[list[str]]:
        """PNGs in base64 of each request's candidates; those with the same settings and count share their forwards."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, request in enumerate(requests):
            groups[self._settings(request).num_inference_steps, request.num_candidates].append(position)
        painted: list[list[str]] = [[] for _ in requests]
        for positions in groups.values():
            settings = self._settings(requests[positions[0]])
            tasks = [self._task(requests[position], settings) for position in positions]
            for position, trajectory in zip(positions, sample_trajectories(self.bundle, tasks, settings), strict=True):
                images = self.bundle.decode_latents(trajectory.final_latents)
                painted[position] = [base64.b64encode(encode_png(image)).decode() for image in images]
        return painted

    def _settings(self, request: GenerateRequest) -> SamplerSettings:
        steps = request.sampler.num_inference_steps or self.bundle.sampler.num_inference_steps
        return self.bundle.sampler.model_copy(update={"num_inference_steps": steps})

    def _task(self, request: GenerateRequest, settings: SamplerSettings) -> SlotTask:
        outfit = self._outfit(request.outfits[0])
        (slot,) = outfit.empty_slots
        seeds = (
            candidate_seed(request.seed, 0, outfit.outfit_id, slot, index) for index in range(request.num_candidates)
        )
        return SlotTask(self.encoder.encode(outfit, slot, self.history, settings), tuple(seeds))

    def _outfit(self, asked: OutfitRequest) -> Outfit:
        categories = (
            slot.category_id if slot.item_id is None else self.catalogue.item(slot.item_id).category_id
            for slot in asked.slots
        )
        return Outfit(
            outfit_id=asked.outfit_id or 0,
            user_id=asked.user_id,
            category_ids=tuple(category or 0 for category in categories),
            item_ids=tuple(slot.item_id for slot in asked.slots),
        )
