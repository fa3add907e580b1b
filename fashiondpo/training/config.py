"""What decides a training run."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fashiondpo.contracts import Frozen

Precision = Literal["float32", "bfloat16", "float16"]

_SINCE_BEFORE = {"precision", "gradient_checkpointing", "optimizer", "step_share", "ema_decay"}
"""Fields that are younger than some trainings: with their defaults those go on as they began."""


class TrainSettings(Frozen):
    """Hyper-parameters of preference optimisation.

    The defaults learn from finished candidates by the share of their comparisons that they won (DiffusionNFT), which gained
    several times what the recorded steps gave, with more outfits: docs/learning.md. `step_settings` learns from the
    recorded steps with accumulated gradients, `paper_settings` by the published procedure.
    """

    objective: Literal["d3po", "diffusion_dpo", "diffusion_nft"] = "diffusion_nft"
    beta: float = Field(
        1.0,
        gt=0,
        description="Pull towards the reference; larger stays closer. 0.1 suits d3po and 500 diffusion_dpo.",
    )
    clip_range: float = Field(0.1, gt=0, lt=1, description="pi / pi_ref is held within 1 - x … 1 + x.")
    clip_sides: Literal["both", "one"] = Field(
        "one", description="one: clip only what already moved the wanted way, so that the gradient back survives."
    )
    rank: int = Field(4, ge=1)
    learning_rate: float = Field(1e-2, gt=0)
    rate_decay: Literal["none", "linear"] = Field(
        "linear", description="linear: the rate falls to zero over the run, so that late updates average out the noise."
    )
    adam_betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    passes: int = Field(8, ge=1, description="How often every outfit is used.")
    outfits_per_update: int = Field(16, ge=1)
    steps_per_outfit: int | None = Field(
        1,
        ge=1,
        description="Recorded steps, or noise levels, of an outfit in a pass, drawn at random; None: as many as recorded.",
    )
    step_share: float | None = Field(
        None, gt=0, le=1, description="In the place of steps_per_outfit: so much of the recorded steps, at least one."
    )
    is_accumulated: bool = Field(True, description="One optimiser update per batch of outfits, not one per step.")
    visits_per_forward: int = Field(8, ge=1, description="Outfit-steps in one forward; smaller needs less memory.")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(5, ge=1, description="Updates between checkpoints.")
    precision: Precision = Field(
        "float32", description="Of the UNet's products; the adapter, the loss and the optimiser stay in float32."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep less of a forward and compute it again on the way back: a third slower, far less memory.",
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit: its state in a quarter of the memory; needs the package bitsandbytes."
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="What is published is the moving average of the weights with this decay; None: the last weights.",
    )

    @model_validator(mode="after")
    def _beta_fits_the_objective(self) -> Self:
        if self.objective == "diffusion_dpo" and self.beta < 10:
            raise ValueError(
                f"diffusion_dpo compares mean squared errors, which are small: beta is in the hundreds, got {self.beta}"
            )
        return self

    def steps_drawn(self, steps: int) -> int:
        """How many of an outfit's recorded steps a pass looks at.

        Args:
            steps: those that can be trained.
        """
        if self.step_share is not None:
            return max(1, round(self.step_share * steps))
        return min(steps, self.steps_per_outfit or steps)

    def decisive(self) -> dict[str, Any]:
        """What the adapter follows from, for telling runs apart."""
        settings = self.model_dump(exclude={"checkpoint_every"})
        own = {name: field.default for name, field in type(self).model_fields.items()}
        return {name: value for name, value in settings.items() if name not in _SINCE_BEFORE or value != own[name]}


def step_settings() -> TrainSettings:
    """D3PO over the recorded steps, gradients of many steps and outfits added up, clipped on one side."""
    return TrainSettings(
        objective="d3po",
        beta=0.1,
        learning_rate=3e-3,
        rate_decay="none",
        passes=1,
        outfits_per_update=8,
        steps_per_outfit=10,
    )


def paper_settings() -> TrainSettings:
    """The published procedure: two-sided clip, one update per recorded step, all steps (arXiv:2504.12900, 2311.13231)."""
    return TrainSettings(
        objective="d3po",
        beta=0.1,
        clip_sides="both",
        learning_rate=1e-5,
        rate_decay="none",
        passes=1,
        adam_betas=(0.9, 0.999),
        weight_decay=1e-2,
        outfits_per_update=1,
        steps_per_outfit=None,
        is_accumulated=False,
        visits_per_forward=1,
    )
