"""What a trained generator paints, beside what was really there: for judges and critics to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fashiondpo.contracts import candidate_seed
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import ROWS_PER_FORWARD, SlotTask, sample_trajectories
from fashiondpo.outfits.model import Blank, DataSet, Image
from fashiondpo.telemetry import Progress, no_progress

_BATCH = 256


def paint(
    bundle: DiFashion,
    data_set: DataSet,
    split: str,
    blanks: Sequence[Blank],
    *,
    seed: int,
    steps: int | None = None,
    progress: Progress = no_progress,
) -> NDArray[np.uint8]:
    """One candidate for each blank, as the bundle samples.

    Args:
        bundle: the generator.
        data_set: given items, and the histories of `split`.
        split: that of the blanks.
        blanks: tasks.
        seed: of the noise.
        steps: denoising steps; None for the bundle's own.
        progress: told about painted candidates.

    Returns:
        Shape (len(blanks), side, side, 3).
    """
    settings = bundle.sampler
    if steps is not None:
        settings = settings.model_copy(update={"num_inference_steps": steps})
    encoder, history = ConditionEncoder(bundle, data_set.catalogue, data_set.categories), data_set.history(split)
    images: list[Image] = []
    for start in range(0, len(blanks), ROWS_PER_FORWARD):
        tasks = [
            SlotTask(
                encoder.encode(blank.outfit, blank.slot, history, settings),
                (candidate_seed(seed, settings.num_inference_steps, blank.outfit.outfit_id, blank.slot, 0),),
            )
            for blank in blanks[start : start + ROWS_PER_FORWARD]
        ]
        for trajectory in sample_trajectories(bundle, tasks, settings):
            images.extend(bundle.decode_latents(trajectory.final_latents))
        progress(len(images), len(blanks), {})
    return np.stack(images)


def encoded(bundle: DiFashion, images: NDArray[np.uint8]) -> Tensor:
    """Latents (n, c, h, w) of any number of pictures, (n, side, side, 3)."""
    batches = (list(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH))
    return torch.cat([bundle.encode_images(batch) for batch in batches])


def decoded(bundle: DiFashion, latents: Tensor) -> NDArray[np.uint8]:
    """What the VAE makes of latents (n, c, h, w): shape (n, side, side, 3). All that is painted went through it."""
    return np.stack(bundle.decode_latents(latents))
