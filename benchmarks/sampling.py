"""Sampling: the seven candidates of an outfit in one batch, against one by one; and what the UNet leaves to the rest.

The same seeds give the same pictures either way, which is checked first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from measuring.mini import open_mini, shared_options, some_conditions
from measuring.timing import ForwardClock, alternate, print_figures
from torch import Tensor

from fashiondpo.contracts import NUM_CANDIDATES, SamplerSettings
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import SlotTask, sample_trajectories

LARGEST_PIXEL_DIFFERENCE = 2
"""Levels of 255 by which a picture may change with its batch: float32 sums in another order, rounded to levels."""


def batched(bundle: DiFashion, task: SlotTask, settings: SamplerSettings) -> Tensor:
    """Finished latents of all candidates, sampled together, (k, c, h, w)."""
    return sample_trajectories(bundle, [task], settings)[0].final_latents


def one_by_one(bundle: DiFashion, task: SlotTask, settings: SamplerSettings) -> Tensor:
    """The same, each candidate sampled on its own."""
    alone = [SlotTask(task.conditions, (seed,)) for seed in task.seeds]
    return torch.cat([sample_trajectories(bundle, [one], settings)[0].final_latents for one in alone])


def unet_share(bundle: DiFashion, tasks: Sequence[SlotTask], settings: SamplerSettings) -> tuple[float, float]:
    """Share of a batched run's time that the UNet's forward takes, and the seconds of the run."""
    with ForwardClock().on(bundle.unet) as clock:
        started = time.perf_counter()
        sample_trajectories(bundle, tasks, settings)
        seconds = time.perf_counter() - started
    return clock.seconds / seconds, seconds


def largest_pixel_difference(bundle: DiFashion, first: Tensor, second: Tensor) -> int:
    """Between the pictures of two batches of latents, in levels of 255."""
    pictures = [np.stack(bundle.decode_latents(latents)).astype(int) for latents in (first, second)]
    return int(np.abs(pictures[0] - pictures[1]).max())


def compare_batches(
    bundle: DiFashion, task: SlotTask, settings: SamplerSettings, rounds: int, *, warm_up: bool
) -> dict[str, float]:
    """Check that both ways paint the same, time them, say what came out.

    Raises:
        SystemExit: if the pictures differ.
    """
    together, apart = batched(bundle, task, settings), one_by_one(bundle, task, settings)
    difference, pixels = float((together - apart).abs().max()), largest_pixel_difference(bundle, together, apart)
    print(f"Same seeds, same pictures: latents differ by {difference:.1e} at most, pixels by {pixels} levels of 255.")
    if pixels > LARGEST_PIXEL_DIFFERENCE:
        raise SystemExit(f"pictures change by {pixels} levels with the batch they are sampled in: nothing to compare")
    timings = alternate(
        {
            "batched": lambda _: batched(bundle, task, settings),
            "one by one": lambda _: one_by_one(bundle, task, settings),
        },
        rounds=rounds,
        warm_up=warm_up,
    )
    ratio = timings["one by one"].median_s / timings["batched"].median_s
    print(f"In one batch: {timings['batched']}.")
    print(f"One by one:   {timings['one by one']}.")
    print(f"One by one takes {ratio:.2f} times as long.")
    return {
        "ratio": ratio,
        "batched_s": timings["batched"].median_s,
        "batched_spread": timings["batched"].spread,
        "one_by_one_s": timings["one by one"].median_s,
        "one_by_one_spread": timings["one by one"].spread,
        "pixel_difference": pixels,
    }


def measure_unet_share(
    bundle: DiFashion, tasks: Sequence[SlotTask], settings: SamplerSettings, rounds: int
) -> dict[str, float]:
    """Time batched runs of all tasks and say what the UNet takes of them."""
    shares, seconds = zip(*(unet_share(bundle, tasks, settings) for _ in range(rounds)), strict=True)
    print(
        f"{len(tasks)} outfits of {NUM_CANDIDATES} in one batch: {median(seconds):.3g} s, of which {median(shares):.1%} "
        f"in the UNet ({min(shares):.1%} to {max(shares):.1%})."
    )
    return {"unet_share": median(shares), "unet_share_lowest": min(shares)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, end with one line of JSON."""
    parser = shared_options("Sampling: candidates in one batch against one by one, and the UNet's share of the time.")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    options = parser.parse_args(arguments)
    rounds, outfits = (1, 2) if options.quick else (options.rounds, 8)
    torch.set_num_threads(options.threads)
    bundle = open_mini(options.bundle)
    steps = 3 if options.quick else bundle.sampler.num_inference_steps
    settings = bundle.sampler.model_copy(update={"num_inference_steps": steps})
    seeds = np.arange(outfits * NUM_CANDIDATES).reshape(outfits, NUM_CANDIDATES).tolist()
    tasks = [SlotTask(some_conditions(bundle, seed=i), tuple(of_task)) for i, of_task in enumerate(seeds)]
    print(f"Time to sample the {NUM_CANDIDATES} candidates of one outfit in {steps} steps; threads: {options.threads}.")
    figures = compare_batches(bundle, tasks[0], settings, rounds, warm_up=not options.quick)
    figures |= measure_unet_share(bundle, tasks, settings, rounds)
    print_figures(figures | {"outfits": outfits, "steps": steps, "rounds": rounds, "threads": options.threads})


if __name__ == "__main__":
    main()
