"""What every judge is: a batch of candidates in, one score per candidate out, in order.

An input that cannot be scored gives a score with the reason; it never spoils the rest of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from fashiondpo.contracts import ArtifactRef, ItemSource, JudgeInfo, Outfit, Score
from fashiondpo.errors import FashionDPOError, InvalidInput, Unavailable
from fashiondpo.outfits.model import Image


@dataclass(frozen=True)
class JudgeInput:
    """One candidate to be judged.

    Attributes:
        candidate_id: comes back on the score.
        outfit: the incomplete outfit it was made for.
        slot: the empty slot that it fills.
        image: its picture, shape (height, width, 3), uint8.
        history: what the user wore in the slot's category; None: what the judge's own histories know.
        pictures: of the garments in outfit and history that are not in the catalogue.
    """

    candidate_id: str
    outfit: Outfit
    slot: int
    image: Image
    history: tuple[ItemSource, ...] | None = None
    pictures: Mapping[ArtifactRef, Image] = field(default_factory=dict)


@runtime_checkable
class Judge(Protocol):
    """A scoring model of one criterion."""

    @property
    def info(self) -> JudgeInfo:
        """Criterion, version and range of the scores."""

    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        """One score per input, in order; an input that cannot be scored gets the reason instead of a value."""


@dataclass(frozen=True)
class Scored:
    """A judge's value for one candidate, with what explains it."""

    value: float
    diagnostics: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unscored:
    """Why a candidate has no value; `is_final` is False where a later attempt may mend it."""

    reason: str
    is_final: bool = True


Outcome = Scored | Unscored


def check_input(judge_input: JudgeInput) -> None:
    """Refuse what no judge could score.

    Raises:
        InvalidInput: if the slot is not one of the outfit's, or the image, or the picture of another garment, is no RGB
            picture.
    """
    slots = len(judge_input.outfit.category_ids)
    if not 0 <= judge_input.slot < slots:
        raise InvalidInput(f"slot {judge_input.slot} is outside the outfit's {slots} slots")
    _check_image(judge_input.image, "an image")
    for ref, image in judge_input.pictures.items():
        _check_image(image, f"as picture {ref[:12]}… an image")


def _check_image(image: Image, expected: str) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InvalidInput(f"expected {expected} of uint8 and shape (height, width, 3), got {got}")
    if min(image.shape[:2]) < 1:
        raise InvalidInput(f"the image has no pixels: shape {image.shape}")


def unscored(error: FashionDPOError) -> Unscored:
    """The outcome for an input that was refused: the error's stable code and its words."""
    return Unscored(f"{error.code}: {error}", is_final=not isinstance(error, Unavailable))


def to_scores(inputs: Sequence[JudgeInput], info: JudgeInfo, outcomes: Sequence[Outcome]) -> list[Score]:
    """Outcomes as scores under a judge's name; a value that is not finite becomes the reason 'non_finite'.

    Raises:
        ValueError: if there is not one outcome per input.
    """
    return [
        _to_score(judge_input.candidate_id, info, outcome)
        for judge_input, outcome in zip(inputs, outcomes, strict=True)
    ]


def _to_score(candidate_id: str, info: JudgeInfo, outcome: Outcome) -> Score:
    if isinstance(outcome, Scored) and not math.isfinite(outcome.value):
        outcome = Unscored("non_finite: the model's output is not a finite number")
    if isinstance(outcome, Unscored):
        return Score(
            candidate_id=candidate_id,
            criterion=info.criterion,
            judge_version=info.version,
            reason=outcome.reason,
            is_final=outcome.is_final,
        )
    return Score(
        candidate_id=candidate_id,
        criterion=info.criterion,
        judge_version=info.version,
        value=outcome.value,
        diagnostics=outcome.diagnostics,
    )
