"""A judge that never fails as a whole: what it raises becomes the reason why some candidates have no score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fashiondpo.contracts import Score
from fashiondpo.errors import FashionDPOError
from fashiondpo.judges.base import Judge, JudgeInput, Unscored, to_scores, unscored
from fashiondpo.telemetry import log


@dataclass(frozen=True)
class SteadyJudge:
    """Scores with a judge; a batch that fails is tried again by halves, so that only those that fail alone have no score."""

    judge: Judge

    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        """One score per input, in order; never raises."""
        try:
            scores = self.judge.score(inputs)
            if [score.candidate_id for score in scores] != [judge_input.candidate_id for judge_input in inputs]:
                raise RuntimeError(f"the judge was asked for {len(inputs)} scores and gave {len(scores)} others")
            return scores
        except Exception as error:  # noqa: BLE001 - whatever a model raises is a reason and not the service's end
            if len(inputs) > 1:
                middle = len(inputs) // 2
                return self.score(inputs[:middle]) + self.score(inputs[middle:])
            log().error("judge_failed", candidate_id=inputs[0].candidate_id, error=f"{type(error).__name__}: {error}")
            return to_scores(inputs, self.judge.info, [_reason(error)])


def _reason(error: Exception) -> Unscored:
    if isinstance(error, FashionDPOError):
        return unscored(error)
    return Unscored(f"judge_failed: the model raised {type(error).__name__}", is_final=False)
