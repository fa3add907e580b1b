"""What happens in a slice: the round's work, under a lease, until it is done, stopped, or something fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from fashiondpo.contracts import ROUND_STAGES, RoundRecord, RoundStage
from fashiondpo.errors import (
    Cancelled,
    Conflict,
    FashionDPOError,
    Forbidden,
    InvalidInput,
    LeaseLost,
    Overloaded,
    TrainingDiverged,
    Unauthorized,
    Unavailable,
)
from fashiondpo.messages import Problem, RoundProgress
from fashiondpo.pipeline import Stop, open_round
from fashiondpo.serving.problems import problem_of
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import Progress, log
from services.trainer.heartbeat import Heartbeat
from services.trainer.orders import first_record
from services.trainer.round_ends import end_round, iso_now, seconds_since
from services.trainer.slice_contract import OpenWork, SliceEnd, SliceLimits

PERMANENT = (InvalidInput, Conflict, TrainingDiverged, Unauthorized, Forbidden)
"""What fails again however often it is tried."""

KEPT_METRICS = 200
"""Updates of the training of which the round's readers see the figures; all of them are in the training's folder."""


class RoundSlice:
    """One slice under its lease, and the hooks of its work."""

    def __init__(
        self,
        round_id: str,
        stores: Stores,
        heartbeat: Heartbeat,
        limits: SliceLimits,
        is_draining: Stop,
        clock: Callable[[], float],
    ) -> None:
        self._round_id, self._stores, self._heartbeat = round_id, stores, heartbeat
        self._limits, self._is_draining, self._clock = limits, is_draining, clock
        self._worked_from = clock()
        self._has_moved = False
        self._asked_at, self._told_at = float("-inf"), float("-inf")
        self._is_cancelled = False
        self._furthest = (0, 0)
        self._untold: RoundProgress | None = None
        self._untold_metrics: list[dict[str, float]] = []

    def run(self, open_work: OpenWork) -> SliceEnd:
        """Work until the slice is over; raises LeaseLost, and Unavailable if the stores do not answer."""
        job = self._begin()
        if job.is_cancel_requested:
            return self._ended("cancelled")
        if job.attempts >= self._limits.max_attempts:
            return self._ended("failed", job.problem or _crashed(job.attempts))
        try:
            record = open_round(self._stores.feedback, first_record(job))
            with open_work(job, self._stores, self._heartbeat.lease, self) as work:
                self._worked_from = self._clock()
                work(record)
        except Cancelled:
            self._heartbeat.check()
            return self._ended("cancelled") if self._cancel_requested() else self._continued()
        except LeaseLost:
            raise
        except (Unavailable, Overloaded) as error:
            return self._waited(error)
        except PERMANENT as error:
            log().error("round failed", reason=str(error), exc_info=error)
            return self._ended("failed", problem_of(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the round is tried again, but not for ever
            log().error("slice failed", exc_info=error)
            return self._failed(error)
        return self._ended("succeeded")

    def should_stop(self) -> bool:
        """Asked at every step."""
        self._heartbeat.check()
        is_over = self._has_moved and self._clock() - self._worked_from > self._limits.slice_s
        return is_over or self._is_draining() or self._cancel_requested()

    def progress(self, stage: RoundStage) -> Progress:
        """Whom to tell about a stage."""

        def tell(done: int, total: int, figures: Mapping[str, float]) -> None:
            self._has_moved = True
            self._untold = RoundProgress(stage=stage, done=done, total=total, figures=dict(figures))
            self._furthest = max(self._furthest, (ROUND_STAGES.index(stage), done))
            if stage == "train":
                self._untold_metrics = [row for row in self._untold_metrics if row["step"] < done]
                self._untold_metrics.append({"step": done, **figures})
            if done >= total or self._clock() - self._told_at >= self._limits.tell_s:
                self._tell()

        return tell

    def training_goes_on(self, metrics: Sequence[dict[str, float]]) -> None:
        """What a training has measured so far: updates are told of again if nobody was told."""
        self._untold_metrics = list(metrics[-KEPT_METRICS:])

    def stage_finished(self, record: RoundRecord) -> None:
        """A stage is done and its record stored."""
        self._has_moved = True
        self._furthest = max(self._furthest, (ROUND_STAGES.index(record.stage), 0))
        self._tell()
        self._stores.jobs.append_event(
            self._round_id, "stage", {"stage": record.stage, "seconds": dict(record.seconds)}
        )
        if record.verdict is not None and record.stage == "publish":
            self._stores.jobs.append_event(self._round_id, "verdict", record.verdict.model_dump(mode="json"))

    def _begin(self) -> RoundJob:
        def begun(job: RoundJob) -> RoundJob:
            # one that began a slice and never ended it has died, or was killed, in it
            died = {"attempts": job.attempts + 1} if job.is_in_slice else {}
            changes = {"state": "running", "started_at": job.started_at or iso_now(), "is_in_slice": True}
            return job.model_copy(update=changes | died)

        was_queued = self._stores.jobs.get(self._round_id).state == "queued"
        job = self._stores.jobs.update(self._round_id, begun)
        if was_queued:
            self._stores.jobs.append_event(self._round_id, "state", {"state": "running"})
        self._furthest = job.furthest
        return job

    def _tell(self) -> None:
        """Write how far it is; whatever failed before is forgotten once the round is further than ever."""
        self._told_at = self._clock()
        told, furthest, metrics = self._untold, self._furthest, tuple(self._untold_metrics)

        def moved(job: RoundJob) -> RoundJob:
            changes: dict[str, object] = {} if told is None else {"progress": told}
            if metrics:
                kept = [row for row in job.metrics if row["step"] < metrics[0]["step"]]
                changes["metrics"] = (*kept, *metrics)[-KEPT_METRICS:]
            if furthest > job.furthest:
                changes |= {"furthest": furthest, "attempts": 0, "problem": None, "unavailable_since": None}
            return job.model_copy(update=changes)

        self._stores.jobs.update(self._round_id, moved)
        if told is not None:
            self._stores.jobs.append_event(self._round_id, "progress", told.model_dump(mode="json"))
            self._untold = None
            self._untold_metrics.clear()

    def _cancel_requested(self) -> bool:
        if not self._is_cancelled and self._clock() - self._asked_at >= self._limits.poll_s:
            self._asked_at = self._clock()
            self._is_cancelled = self._stores.jobs.get(self._round_id).is_cancel_requested
        return self._is_cancelled

    def _continued(self) -> SliceEnd:
        self._tell()
        job = self._next_slice(enqueued_at=iso_now(), not_before=None)
        return SliceEnd("continue", job.slice_number)

    def _waited(self, error: Unavailable | Overloaded) -> SliceEnd:
        """Something does not answer: pause for as long as it has been so, within limits, and at last give up."""
        self._tell()
        since = self._stores.jobs.get(self._round_id).unavailable_since or iso_now()
        waited_s = seconds_since(since)
        problem = problem_of(error)
        if waited_s > self._limits.give_up_after_s:
            return self._ended("failed", problem)
        asked_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
        pause_s = min(max(self._limits.retry_first_s, waited_s, asked_s), self._limits.retry_longest_s)
        log().warning("round waits", reason=str(error), pause_s=round(pause_s, 1))
        return self._paused(problem, pause_s, unavailable_since=since)

    def _failed(self, error: Exception) -> SliceEnd:
        """Nobody foresaw this: try again some times."""
        self._tell()
        attempts = self._stores.jobs.get(self._round_id).attempts + 1
        problem = problem_of(error).model_copy(update={"detail": _told(error)})
        if attempts >= self._limits.max_attempts:
            self._stores.jobs.update(self._round_id, lambda job: job.model_copy(update={"attempts": attempts}))
            return self._ended("failed", problem)
        pause_s = min(self._limits.retry_first_s * 2 ** (attempts - 1), self._limits.retry_longest_s)
        return self._paused(problem, pause_s, attempts=attempts)

    def _paused(self, problem: Problem, pause_s: float, **changes: object) -> SliceEnd:
        self._next_slice(problem=problem, not_before=iso_now(pause_s), enqueued_at=None, **changes)
        self._stores.jobs.append_event(self._round_id, "problem", problem.model_dump(mode="json"))
        return SliceEnd("wait")

    def _next_slice(self, **changes: object) -> RoundJob:
        return self._stores.jobs.update(
            self._round_id,
            lambda job: job.model_copy(
                update={"is_in_slice": False, "slice_number": job.slice_number + 1, **changes},
            ),
        )

    def _ended(self, state: Literal["succeeded", "failed", "cancelled"], problem: Problem | None = None) -> SliceEnd:
        if self._untold is not None:
            self._tell()
        end_round(self._round_id, self._stores, state, problem)
        return SliceEnd(state)


def _told(error: Exception) -> str:
    """For the round's owner: the kind of failure, and what is known of it."""
    text = str(error) if isinstance(error, FashionDPOError) else "the worker's log says more under this round's id"
    return f"{type(error).__name__}: {text}"


def _crashed(attempts: int) -> Problem:
    detail = f"its worker ended {attempts} times in a row while it worked on this round, without bringing it forward"
    return Problem(title="Internal Server Error", status=500, detail=detail, code="internal")
