"""Parts of a round whose pictures are a few bytes, with lists of what they did, and a breaker that cuts their power."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import save

from fashiondpo.contracts import (
    CRITERIA,
    AdapterRef,
    Candidate,
    CandidateRequest,
    CandidateSet,
    GateVerdict,
    Interval,
    JudgeInfo,
    Outfit,
    RoundRecord,
    Score,
    TrainedAdapter,
    content_digest,
)
from fashiondpo.pipeline import RoundParts, open_round, run_round
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.storage.adapters import MemoryAdapters
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.feedback import MemoryFeedback

BASE = content_digest(b"base")
SETS, CANDIDATES = 5, 3
OUTFITS = [Outfit(outfit_id=i, user_id=i % 2, category_ids=(0, 1, 5, 8), item_ids=(1, None, 3, 4)) for i in range(SETS)]
REQUESTS = [
    CandidateRequest(set_id=f"s{outfit.outfit_id}", outfit=outfit, slot=1, seeds=tuple(range(CANDIDATES)))
    for outfit in OUTFITS
]
SET_IDS = tuple(request.set_id for request in REQUESTS)
RECORD = RoundRecord(round_id="r1", seed=0)
EVERYBODY = {f"{set_id}-{k}" for set_id in SET_IDS for k in range(CANDIDATES)}


def opinion(*what: str) -> float:
    """A number between 0 and 1 that follows from the words."""
    return int.from_bytes(hashlib.sha256("/".join(what).encode()).digest()[:4], "big") / 2**32


@dataclass
class Painter:
    """A generator whose pictures are a few bytes."""

    artifacts: MemoryArtifacts
    adapter: AdapterRef = field(default_factory=AdapterRef)
    painted: list[str] = field(default_factory=list)

    def generate(self, requests) -> Iterator[CandidateSet]:
        for request in requests:
            self.painted.append(request.set_id)
            candidates = tuple(
                Candidate(
                    candidate_id=f"{request.set_id}-{k}",
                    index=k,
                    seed=seed,
                    image=self.artifacts.put(f"{request.set_id}/{seed}".encode(), "png"),
                )
                for k, seed in enumerate(request.seeds)
            )
            yield CandidateSet(
                set_id=request.set_id,
                outfit=request.outfit,
                slot=request.slot,
                candidates=candidates,
                sampler=request.sampler or {},
                base_digest=BASE,
                adapter=self.adapter,
            )


@dataclass
class Critic:
    """A judge with a firm opinion of every candidate; `failing` ones it cannot score for now."""

    criterion: str
    failing: set[str] = field(default_factory=set)
    judged: list[str] = field(default_factory=list)
    version: str = "1"

    @property
    def info(self) -> JudgeInfo:
        return JudgeInfo(criterion=self.criterion, version=self.version, low=0, high=1)

    def score(self, candidate_sets) -> list[Score]:
        ids = [candidate.candidate_id for found in candidate_sets for candidate in found.candidates]
        self.judged += ids
        return [self._score(candidate_id) for candidate_id in ids]

    def _score(self, candidate_id: str) -> Score:
        named = {"candidate_id": candidate_id, "criterion": self.criterion, "judge_version": self.version}
        if candidate_id in self.failing:
            return Score(**named, reason="unavailable: no answer", is_final=False)
        return Score(**named, value=opinion(self.criterion, candidate_id))


@dataclass
class Learner:
    """A trainer whose weights are a digest of what it was shown."""

    artifacts: MemoryArtifacts
    trained: list[str] = field(default_factory=list)

    def train(self, round_id, sets, pairs, parent) -> TrainedAdapter:
        self.trained.append(round_id)
        shown = repr([[found.set_id for found in sets], [pair.model_dump() for pair in pairs], parent])
        weights = np.frombuffer(hashlib.sha256(shown.encode()).digest(), np.uint8)
        return TrainedAdapter(
            weights=self.artifacts.put(save({"weights": weights}), "safetensors"),
            base_digest=BASE,
            rank=4,
            targets=("to_q",),
            figures={"pairs": len(pairs)},
        )


@dataclass
class Doorkeeper:
    """A gate that has made up its mind."""

    is_promoted: bool = True
    decided: list[AdapterRef] = field(default_factory=list)

    def decide(self, parent, trained) -> GateVerdict:
        self.decided.append(parent)
        interval = Interval(mean=0.6, low=0.55, high=0.65)
        return GateVerdict(
            is_promoted=self.is_promoted,
            reasons=("as it was told",),
            win_rate=interval,
            combined_delta=interval,
            diversity_ratio=1.0,
            outfits=50,
        )


class PowerCut(BaseException):
    """The process is gone; nobody catches this."""


@dataclass
class Breaker:
    """Cuts the power at one call of one method, before or after it has had its effect."""

    method: str = ""
    moment: str = ""
    call: int = 0
    seen: list[str] = field(default_factory=list)

    def around(self, method: str, work: Callable[[], Any]) -> Any:
        self.seen.append(method)
        is_now = method == self.method and self.seen.count(method) == self.call
        if is_now and self.moment == "before":
            raise PowerCut(method)
        try:
            return work()
        finally:
            if is_now and self.moment == "after":
                raise PowerCut(method)


class Wired:
    """A part behind a breaker: every call of every method passes it, and every set that a generator yields."""

    def __init__(self, part: object, breaker: Breaker) -> None:
        self._part, self._breaker = part, breaker

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found):
            return found
        method = f"{type(self._part).__name__}.{name}"
        if name == "generate":
            return lambda requests: self._each(method, len(requests), found(requests))
        return lambda *args, **options: self._breaker.around(method, lambda: found(*args, **options))

    def _each(self, method: str, count: int, sets: Iterator[CandidateSet]) -> Iterator[CandidateSet]:
        for _ in range(count):
            yield self._breaker.around(method, lambda: next(sets))


class World:
    """Stores that outlive the process, and workers that keep a list of what they did."""

    def __init__(self, *, is_promoted: bool = True) -> None:
        self.artifacts, self.feedback, self.adapters = MemoryArtifacts(), MemoryFeedback(), MemoryAdapters()
        self.painter, self.learner = Painter(self.artifacts), Learner(self.artifacts)
        self.critics = [Critic(criterion) for criterion in CRITERIA]
        self.gate = Doorkeeper(is_promoted)

    def parts(self, breaker: Breaker | None = None) -> RoundParts:
        def wired(part):
            return part if breaker is None else Wired(part, breaker)

        return RoundParts(
            generator=wired(self.painter),
            judges=[wired(critic) for critic in self.critics],
            trainer=wired(self.learner),
            gate=wired(self.gate),
            artifacts=wired(self.artifacts),
            feedback=wired(self.feedback),
            adapters=wired(self.adapters),
            preferences=PreferenceSettings(),
            sets_per_call=2,
        )

    def run(self, breaker: Breaker | None = None, record: RoundRecord = RECORD, **options) -> RoundRecord:
        parts = self.parts(breaker)
        return run_round(open_round(parts.feedback, record), REQUESTS, parts, **options)

    def work(self) -> dict[str, int]:
        """How much was done, by worker."""
        return {
            "painted": len(self.painter.painted),
            "judged": sum(len(critic.judged) for critic in self.critics),
            "trained": len(self.learner.trained),
            "decided": len(self.gate.decided),
        }


def timeless(record: RoundRecord) -> RoundRecord:
    return record.model_copy(update={"seconds": {}})


def calls_of_a_round() -> dict[str, int]:
    breaker = Breaker()
    World().run(breaker)
    return {method: breaker.seen.count(method) for method in sorted(set(breaker.seen))}
