"""Recorded traffic is judged here, a portion at a time, so that rounds can learn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fashiondpo.contracts import RoundRecord, ScoredSet
from fashiondpo.errors import LeaseLost, NotFound
from fashiondpo.pipeline import SetJudge, judge_round
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import log, no_progress
from services.trainer.heartbeat import Heartbeat
from services.trainer.orders import order_of
from services.trainer.stores import champion_of

SCORER = "scorer"
"""Who holds recorded sets while they are judged, and the lease that lets only one worker do it."""


@dataclass(frozen=True)
class ScoringParts:
    """Who judges, and where scores are kept."""

    judges: Sequence[SetJudge]
    feedback: FeedbackStore
    sets_per_call: int = 8


def score_traffic(
    stores: Stores, judges: Sequence[SetJudge], *, holder: str, count: int, sets_per_call: int, lease_s: float
) -> int:
    """Have a portion of the recorded sets judged.

    Args:
        stores: where they are.
        judges: who is asked.
        holder: who asks, for people to read.
        count: the most sets to judge now.
        sets_per_call: sets judged by one request.
        lease_s: of the lease that lets only one worker do this.

    Returns:
        How many sets rounds may learn from now; 0 also if another worker is doing this.

    Raises:
        Unavailable: if a judge does not answer; its sets are asked about again next time.
    """
    lease = stores.leases.acquire(SCORER, holder, lease_s)
    if lease is None:
        return 0
    try:
        with Heartbeat(stores.leases, lease, ttl_s=lease_s) as heartbeat:
            fenced = stores.fenced(lease)
            set_ids = _known([entry.set_id for entry in fenced.traffic.claim_recorded(SCORER, count)], fenced)
            record = RoundRecord(round_id=SCORER, seed=0, stage="judge", set_ids=tuple(set_ids))

            def is_lost() -> bool:
                heartbeat.check()
                return False

            judge_round(record, ScoringParts(judges, fenced.feedback, sets_per_call), no_progress, is_lost)
            settled = [set_id for set_id in set_ids if _is_settled(fenced.feedback.scored(set_id))]
            return fenced.traffic.mark_scored(SCORER, settled)
    except LeaseLost as error:
        log().warning("scoring lost its lease", reason=str(error))
        return 0


def discard_stale_traffic(stores: Stores) -> int:
    """Forget scored sets that a former champion has made, unless a round is about to learn from them.

    A policy learns from what it made itself; returns how many sets were dropped.
    """
    champion = champion_of(stores)
    wanted = [order_of(job).made_by for job in stores.jobs.unfinished()]
    stale = [b for b in stores.traffic.backlogs() if b.made_by.adapter != champion and b.made_by not in wanted]
    dropped = sum(stores.traffic.discard(backlog.made_by) for backlog in stale if backlog.waiting)
    if dropped:
        log().info("stale traffic dropped", sets=dropped, champion=champion.version)
    return dropped


def _known(set_ids: Sequence[str], stores: Stores) -> list[str]:
    """Those that are in the feedback store; one that got lost there is not waited for."""
    known = []
    for set_id in set_ids:
        try:
            stores.feedback.set(set_id)
            known.append(set_id)
        except NotFound:
            stores.traffic.acknowledge(SCORER, [set_id])
            log().warning("recorded set is gone", set_id=set_id)
    return known


def _is_settled(scored: ScoredSet) -> bool:
    return not any(score.value is None and not score.is_final for score in scored.scores)
