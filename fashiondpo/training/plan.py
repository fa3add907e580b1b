"""Which recorded steps of which outfits every optimiser update looks at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fashiondpo.diffusion.ddim import ddim_std
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.training.config import TrainSettings


@dataclass(frozen=True)
class Update:
    """What one optimiser update looks at: (position of the set, recorded step) of every visit."""

    visits: tuple[tuple[int, int], ...]


def random_steps(trajectory: Trajectory, bundle: DiFashion) -> int:
    """How many of the recorded steps can be trained: a last step without noise has no density."""
    alpha, alpha_next = bundle.schedule.step_alphas(trajectory.timesteps, trajectory.num_steps)
    return int((ddim_std(alpha, alpha_next, trajectory.settings.ddim_eta) > 0).sum())


def plan_updates(sets: int, steps: int, settings: TrainSettings) -> list[Update]:
    """Every update of a run, decided by the seed alone: shuffled outfits, random recorded steps of each.

    Args:
        sets: number of outfits.
        steps: trainable steps of each trajectory, from its first.
        settings: passes, batch size, steps per outfit, accumulation.
    """
    updates: list[Update] = []
    wanted = settings.steps_drawn(steps)
    for number in range(settings.passes):
        rng = np.random.default_rng([settings.seed, number])
        order = rng.permutation(sets)
        for start in range(0, sets, settings.outfits_per_update):
            batch = [int(position) for position in order[start : start + settings.outfits_per_update]]
            drawn = {position: rng.permutation(steps)[:wanted] for position in batch}
            rounds = [tuple((position, int(drawn[position][i])) for position in batch) for i in range(wanted)]
            if settings.is_accumulated:
                updates.append(Update(tuple(visit for visits in rounds for visit in visits)))
            else:
                updates.extend(Update(visits) for visits in rounds)
    return updates
