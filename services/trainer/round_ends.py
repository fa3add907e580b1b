"""The end of a round, and moments as the records of rounds have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fashiondpo.messages import Problem, RoundState
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import log


def end_round(round_id: str, stores: Stores, state: RoundState, problem: Problem | None = None) -> None:
    """Say that nothing more will happen in a round; the traffic that it holds and has not learned from is given back."""
    stores.traffic.give_back(round_id)
    ended = {"state": state, "finished_at": iso_now(), "is_in_slice": False, "not_before": None, "problem": problem}
    stores.jobs.update(round_id, lambda job: job.model_copy(update=ended))
    if problem is not None:
        stores.jobs.append_event(round_id, "problem", problem.model_dump(mode="json"))
    stores.jobs.append_event(round_id, "state", {"state": state})
    log().info("round ended", state=state, problem=problem.detail if problem else None)


def iso_now(delay_s: float = 0.0) -> str:
    """The time in UTC, or so many seconds later, to the millisecond."""
    return (datetime.now(UTC) + timedelta(seconds=delay_s)).isoformat(timespec="milliseconds")


def seconds_since(moment: str) -> float:
    """How long ago that was; negative if it is to come."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
