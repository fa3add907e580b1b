"""What decides a training run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fashiondpo.contracts import Frozen


class TrainSettings(Frozen):
    """Hyper-parameters of preference optimisation.

    The defaults accumulate the gradient over all recorded steps of a batch of outfits and clip on one side only.
    `paper_settings` gives the published procedure.
    """

    objective: Literal["d3po", "diffusion_dpo", "diffusion_nft"] = "d3po"
    beta: float = Field(
        0.1, gt=0, description="Pull towards the reference; larger stays closer. 500 suits diffusion_dpo."
    )
    clip_range: float = Field(0.1, gt=0, lt=1, description="pi / pi_ref is held within 1 - x … 1 + x.")
    clip_sides: Literal["both", "one"] = Field(
        "one", description="one: clip only what already moved the wanted way, so that the gradient back survives."
    )
    rank: int = Field(4, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    adam_betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    passes: int = Field(1, ge=1, description="How often every outfit is used.")
    outfits_per_update: int = Field(8, ge=1)
    steps_per_outfit: int | None = Field(
        10, ge=1, description="Recorded steps used per outfit and pass, drawn at random; None uses all."
    )
    is_accumulated: bool = Field(True, description="One optimiser update per batch of outfits, not one per step.")
    visits_per_forward: int = Field(8, ge=1, description="Outfit-steps in one forward; smaller needs less memory.")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(5, ge=1, description="Updates between checkpoints.")

    @model_validator(mode="after")
    def _beta_fits_the_objective(self) -> Self:
        if self.objective == "diffusion_dpo" and self.beta < 1:
            raise ValueError(
                f"diffusion_dpo compares mean squared errors, which are small: beta is in the hundreds, got {self.beta}"
            )
        return self


def paper_settings() -> TrainSettings:
    """The published procedure: two-sided clip, one update per recorded step, all steps (arXiv:2504.12900, 2311.13231)."""
    return TrainSettings(
        clip_sides="both",
        learning_rate=1e-5,
        adam_betas=(0.9, 0.999),
        weight_decay=1e-2,
        outfits_per_update=1,
        steps_per_outfit=None,
        is_accumulated=False,
        visits_per_forward=1,
    )
