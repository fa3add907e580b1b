"""Old rounds are removed: their records, scores, votes and events, recorded trajectories, and checkpoints.

What serves is not touched: adapters with their manifests and weights stay, pictures stay since others may show them, and
so do rounds whose adapter is champion or could be rolled back to, and the newest round, from which numbers go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.errors import LeaseLost, NotFound
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.stores import Stores
from fashiondpo.storage.traffic import TRAFFIC_ROUND
from fashiondpo.telemetry import log
from services.trainer.opening import all_jobs
from services.trainer.orders import gate_name
from services.trainer.round_ends import seconds_since
from services.trainer.training_folders import remove_training

MOST_AT_ONCE = 20
"""Rounds removed in one go: the worker that does it has rounds to work on as well."""

DAY_S = 86_400.0


@dataclass(frozen=True)
class Retention:
    """Which ended rounds are kept: the newest ones, and those that ended lately. With neither limit set, all are.

    Attributes:
        newest: so many; 0 sets no such limit.
        days: those that ended no longer ago; 0 sets no such limit.
    """

    newest: int = 0
    days: float = 0.0

    def keeps(self, place: int, ended_s: float) -> bool:
        """Whether the place-th newest ended round, counted from 0, is kept, having ended so many seconds ago."""
        if not self.newest and not self.days:
            return True
        return place < self.newest or ended_s <= self.days * DAY_S


def remove_old_rounds(
    stores: Stores, training_folder: Path, retention: Retention, *, holder: str, lease_s: float
) -> list[str]:
    """Remove rounds that need not be kept, oldest first. Interrupted anywhere, it is finished the next time.

    Args:
        stores: where rounds are kept.
        training_folder: where their checkpoints are.
        retention: what is kept.
        holder: who does it, for people to read.
        lease_s: of the lease under which a round is removed.

    Returns:
        Ids of the rounds that were removed.

    Raises:
        Unavailable: if a store does not answer.
    """
    removed: list[str] = []
    old = _old(stores, retention)[:MOST_AT_ONCE]
    uses = _uses(stores.feedback) if old else Counter()
    for job in old:
        lease = stores.leases.acquire(job.round_id, holder, lease_s)
        if lease is None:
            continue
        try:
            _remove(job, stores.fenced(lease), training_folder, uses)
            removed.append(job.round_id)
        except LeaseLost:
            continue  # it took too long; whoever has the lease now goes on
        finally:
            stores.leases.release(lease)
    if removed:
        log().info("old rounds removed", rounds=removed)
    return removed


def _old(stores: Stores, retention: Retention) -> list[RoundJob]:
    """Rounds that may go, oldest first."""
    jobs = list(all_jobs(stores))
    ended = [job for job in jobs if job.is_finished]
    served = _rounds_of_aliases(stores)
    old = [
        job
        for place, job in enumerate(ended)
        if not retention.keeps(place, seconds_since(job.finished_at or job.created_at))
        and job.round_id != jobs[0].round_id
        and job.round_id not in served
    ]
    return old[::-1]


def _rounds_of_aliases(stores: Stores) -> set[str]:
    versions = [stores.adapters.alias("champion"), stores.adapters.alias("previous")]
    return {stores.adapters.manifest(version).round_id for version in versions if version}


def _remove(job: RoundJob, stores: Stores, training_folder: Path, uses: Counter[str]) -> None:
    """Forget the round, last of all that there was one: until then it is found again."""
    feedback = stores.feedback
    owners = (job.round_id, gate_name(job.round_id, "before"), gate_name(job.round_id, "after"))
    sets = {owner: feedback.set_ids(owner) for owner in owners} | {TRAFFIC_ROUND: _learnt_from(job, feedback)}
    going = [set_id for set_ids in sets.values() for set_id in set_ids]
    uses.subtract(_trajectories(feedback, going))
    for ref in set(_trajectories(feedback, going)):
        if uses[ref] <= 0:
            stores.artifacts.delete(ref)
    remove_training(training_folder, job.round_id)
    for set_id in going:
        stores.votes.remove(set_id)
    for owner, set_ids in sets.items():
        feedback.remove_sets(owner, set_ids)
    for owner in owners:
        feedback.remove_round(owner)
    stores.jobs.remove(job.round_id)


def _learnt_from(job: RoundJob, feedback: FeedbackStore) -> tuple[str, ...]:
    """Recorded traffic that the round has used up; what it did not learn from, it has given back to others."""
    if job.source != "traffic" or job.state != "succeeded":
        return ()
    try:
        return feedback.round(job.round_id).set_ids
    except NotFound:
        return ()


def _uses(feedback: FeedbackStore) -> Counter[str]:
    """How many sets every trajectory is kept for: what is painted twice alike is stored once."""
    owners = (*feedback.round_ids(), TRAFFIC_ROUND)
    return Counter(ref for owner in owners for ref in _trajectories(feedback, feedback.set_ids(owner)))


def _trajectories(feedback: FeedbackStore, set_ids: Iterable[str]) -> Iterator[str]:
    """What was recorded of these sets; those that are gone by now have nothing."""
    for set_id in set_ids:
        try:
            trajectory = feedback.set(set_id).trajectory
        except NotFound:
            continue
        if trajectory is not None:
            yield trajectory
