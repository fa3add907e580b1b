"""Whether the policy, as it is trained, still gives recorded steps the densities that were recorded with them.

A policy that has not learned anything yet is the one that sampled, so that every log-ratio should be zero (design of D3PO's
loss). It is, to rounding, where both compute in the same number type. A generator on a GPU computes in float16 unless told
otherwise, and a trainer in float32: what that does to the ratios depends on the model, so it is measured.
"""

from __future__ import annotations

import torch

from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import Visit, replay_log_probs
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import PolicyMismatch
from fashiondpo.telemetry import log
from fashiondpo.training.config import TrainSettings

NOTED, REFUSED = 0.05, 0.5
"""As shares of the clip range. Of the tests' model float16 is at 0.013 and bfloat16 at 0.16."""


@torch.no_grad()
def largest_log_ratio(bundle: DiFashion, trajectory: Trajectory, steps: int) -> float:
    """The largest |log pi − log pi_recorded| of any candidate, at the first, the middle and the last step, in nats.

    Args:
        bundle: with the policy's adapter active.
        trajectory: recorded under the policy as it is now.
        steps: those that can be trained, from the first.
    """
    found = []
    for step in sorted({0, steps // 2, steps - 1}):
        (replayed,) = replay_log_probs(bundle.unet, bundle.schedule, [Visit(trajectory, step)])
        found.append((replayed - trajectory.log_probs[:, step].to(replayed.device)).abs().max())
    return float(torch.stack(found).max())


def check_replay(name: str, apart: float, settings: TrainSettings) -> None:
    """Warn where the recorded densities are noisy, and refuse where nothing could be told from them.

    Args:
        name: of the candidates, for messages.
        apart: what `largest_log_ratio` gave before the first update.
        settings: of the training.

    Raises:
        PolicyMismatch: if log-ratios that should be zero reach half of the clip range.
    """
    share = apart / settings.clip_range
    advice = (
        "let the generator compute in the trainer's type (GENERATOR_DTYPE=float32 and precision float32), or choose "
        "objective diffusion_nft, which does not look at recorded densities"
    )
    if not share <= REFUSED:  # a NaN is refused too
        raise PolicyMismatch(
            f"the densities recorded with {name} are not those of the policy that is said to have made it: log-ratios that "
            f"should be 0 reach {apart:.2g}, and the loss clips them at {settings.clip_range:g}. If nothing but the number "
            f"type differs, {advice}"
        )
    if share > NOTED:
        log().warning("recorded densities are noisy", candidates=name, largest_log_ratio=apart, advice=advice)
