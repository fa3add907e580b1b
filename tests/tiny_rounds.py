"""What a round over the tiny bundle needs: garments of one colour, blanks, recorded runs, a short training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fashiondpo.contracts import AdapterRef, Outfit, SamplerSettings
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.diffusion.sampling import SlotTask, sample_trajectories
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import UnknownItem
from fashiondpo.outfits.images import white_image
from fashiondpo.outfits.model import Blank, History, Image, Item
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.trainer import PreferenceSet, PreferenceTrainer
from tests.tiny_models import TINY_SAMPLER, build_tiny_bundle

SLOTS = (0, 1, 5, 8)
ITEMS = 40
PAIRS = ((0, 1), (0, 2), (1, 2))
SETTINGS = TrainSettings(
    objective="d3po",
    beta=0.1,
    outfits_per_update=2,
    steps_per_outfit=2,
    passes=2,
    checkpoint_every=2,
    learning_rate=1e-2,
    rate_decay="none",
)
NFT = TrainSettings(passes=2, outfits_per_update=2, visits_per_forward=2, checkpoint_every=1)
"""The defaults, over few outfits."""
HISTORY = History({user: dict.fromkeys(SLOTS, (user, user + 4)) for user in range(4)})


class Squares:
    """A catalogue of squares, each of a colour of its own, on white."""

    name, image_size = "squares", 32

    def item(self, item_id: int) -> Item:
        if item_id not in range(ITEMS):
            raise UnknownItem(item_id, self.name)
        return Item(item_id, SLOTS[item_id % len(SLOTS)])

    def image(self, item_id: int) -> Image:
        picture = white_image(self.image_size)
        picture[8:24, 8:24] = np.random.default_rng(self.item(item_id).item_id).integers(0, 256, 3)
        return picture

    def item_ids(self) -> Sequence[int]:
        return range(ITEMS)


def changed(settings: TrainSettings = SETTINGS, **changes: Any) -> TrainSettings:
    """Settings with some of them different, checked as a whole."""
    return TrainSettings.model_validate(settings.model_dump() | changes)


def blanks(count: int, *, first: int = 0) -> list[Blank]:
    """Outfits numbered from `first`, each with one slot to fill; users take turns."""
    found = []
    for outfit_id in range(first, first + count):
        items = tuple((outfit_id + 4 * slot) % ITEMS for slot in range(len(SLOTS)))
        slot = outfit_id % len(SLOTS)
        outfit = Outfit(outfit_id=outfit_id, user_id=outfit_id % 4, category_ids=SLOTS, item_ids=items)
        found.append(Blank(outfit.without(slot), slot, items[slot]))
    return found


def recorded(
    bundle: DiFashion,
    outfits: int = 3,
    *,
    candidates: int = 3,
    sampler: SamplerSettings = TINY_SAMPLER,
    adapter: AdapterRef | None = None,
) -> list[Trajectory]:
    """Runs of the bundle as it is now, one trajectory per outfit."""
    encoder = ConditionEncoder(bundle, Squares(), bundle.categories)
    tasks = [
        SlotTask(
            encoder.encode(blank.outfit, blank.slot, HISTORY, sampler),
            tuple(100 * blank.outfit.outfit_id + k for k in range(candidates)),
        )
        for blank in blanks(outfits)
    ]
    return sample_trajectories(bundle, tasks, sampler, adapter=adapter)


def only(trajectory: Trajectory, *candidates: int) -> Trajectory:
    """The runs of some of the candidates."""
    rows = list(candidates)
    return replace(
        trajectory,
        latents=trajectory.latents[rows],
        log_probs=trajectory.log_probs[rows],
        seeds=tuple(trajectory.seeds[k] for k in rows),
    )


def preference_sets(
    trajectories: Sequence[Trajectory],
    pairs: tuple[tuple[int, int], ...] = PAIRS,
    *,
    on_read: Callable[[], None] = lambda: None,
) -> list[PreferenceSet]:
    """A set per trajectory, all with the same pairs; `on_read` is called whenever a trajectory is read."""

    def reader(trajectory: Trajectory) -> Callable[[], Trajectory]:
        def read() -> Trajectory:
            on_read()
            return trajectory

        return read

    return [PreferenceSet(f"s{i}", pairs, reader(trajectory)) for i, trajectory in enumerate(trajectories)]


def short_training(
    bundle_folder: Path, folder: Path, *, on_read: Callable[[], None] = lambda: None
) -> PreferenceTrainer:
    """The same run of eight updates in whichever process, from wherever its folder says it is."""
    bundle = load_bundle(bundle_folder)
    return PreferenceTrainer(bundle, preference_sets(recorded(bundle, 8), on_read=on_read), SETTINGS, folder)


def trained(
    trajectories: Sequence[Trajectory], settings: TrainSettings, folder: Path, **options: Any
) -> AdapterWeights | None:
    """The adapter of a whole run over a fresh bundle; options as `PreferenceTrainer.run` has them."""
    trainer = PreferenceTrainer(build_tiny_bundle(), preference_sets(trajectories), settings, folder)
    try:
        return trainer.run(**options)
    finally:
        trainer.close()


def shaken(parameters: Sequence[torch.nn.Parameter], scale: float, *, seed: int = 5) -> None:
    """Add noise to an adapter, so that it differs from where it started."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def same_weights(first: AdapterWeights, second: AdapterWeights) -> bool:
    """Equal to the last bit."""
    return first.to_bytes() == second.to_bytes()
