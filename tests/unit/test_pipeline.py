"""A round over the protocols: interrupted anywhere, it ends the same and does nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
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
from fashiondpo.errors import Cancelled, Conflict, NotFound, PolicyMismatch, Unavailable, UnscoredCandidates
from fashiondpo.pipeline import RoundParts, collect_round, open_round, run_round, train_round
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.storage.adapters import MemoryAdapters
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.feedback import MemoryFeedback
from fashiondpo.telemetry import no_progress

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


CALLS = calls_of_a_round()
WORK_OF_A_ROUND = {"painted": SETS, "judged": SETS * CANDIDATES * 3, "trained": 1, "decided": 1}
# How much one call does: what is under way when the power is cut is lost, and no more.
WORK_OF_A_CALL = {"painted": 1, "judged": 2 * CANDIDATES, "trained": 1, "decided": 1}


class TestRound:
    def test_publishes_one_adapter_which_becomes_the_champion(self):
        world = World()
        record = world.run()
        assert record.stage == "done"
        assert world.adapters.versions() == (1,)
        assert world.adapters.alias("champion") == 1
        assert record.published == world.adapters.manifest(1).ref

    def test_does_everything_once(self):
        world = World()
        world.run()
        assert world.work() == WORK_OF_A_ROUND
        assert set(world.critics[0].judged) == EVERYBODY

    def test_is_stored_with_what_became_of_it(self):
        world = World()
        record = world.run()
        assert world.feedback.round("r1") == record
        assert record.set_ids == SET_IDS == world.feedback.set_ids("r1")
        assert set(record.seconds) == {"collect", "judge", "pair", "train", "gate", "publish"}
        manifest = world.adapters.manifest(1)
        assert manifest.training == {"pairs": len(world.feedback.pairs("r1"))}
        assert (manifest.verdict, manifest.parent, manifest.round_id) == (record.verdict, AdapterRef(), "r1")

    def test_that_is_done_stays_as_it_is(self):
        world = World()
        record = world.run()
        assert world.run() == record
        assert world.work() == WORK_OF_A_ROUND

    def test_tells_how_far_each_stage_is(self):
        told = []
        World().run(progress=lambda stage: lambda done, total, _: told.append((stage, done, total)))
        assert [(done, total) for stage, done, total in told if stage == "collect"] == [(i, 5) for i in range(1, 6)]
        assert [done for stage, done, _ in told if stage == "judge"] == [2, 4, 5, 7, 9, 10, 12, 14, 15]

    def test_starts_where_the_one_before_ended(self):
        world = World()
        first = world.run()
        world.painter.adapter = first.published
        requests = [request.model_copy(update={"set_id": f"second-{request.set_id}"}) for request in REQUESTS]
        record = RoundRecord(round_id="r2", seed=0, adapter=first.published)
        second = run_round(open_round(world.feedback, record), requests, world.parts())
        assert second.published.version == 2
        assert world.adapters.manifest(2).parent == first.published
        assert (world.adapters.alias("champion"), world.adapters.alias("previous")) == (2, 1)


class TestInterruptedRound:
    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("method", CALLS)
    def test_ends_the_same_and_loses_only_what_was_under_way(self, method, moment):
        expected = World()
        end = timeless(expected.run())
        for call in range(1, CALLS[method] + 1):
            world, where = World(), f"{moment} call {call} of {method}"
            with pytest.raises(PowerCut):
                world.run(Breaker(method, moment, call))
            kept = world.feedback.set_ids("r1")
            assert timeless(world.run()) == end, where
            assert world.adapters.versions() == (1,), where
            assert world.adapters.alias("champion") == 1, where
            assert len(world.adapters.alias_history()) == 1, where
            assert world.feedback.set_ids("r1")[: len(kept)] == kept, where
            assert list(world.feedback.scored_sets("r1")) == list(expected.feedback.scored_sets("r1")), where
            assert world.feedback.pairs("r1") == expected.feedback.pairs("r1"), where
            again = {name: amount - WORK_OF_A_ROUND[name] for name, amount in world.work().items()}
            assert sum(amount > 0 for amount in again.values()) <= 1, where
            assert all(amount <= WORK_OF_A_CALL[name] for name, amount in again.items()), where

    def test_was_interrupted_at_every_kind_of_call_there_is(self):
        assert set(CALLS) == {
            "Critic.score",
            "Doorkeeper.decide",
            "Learner.train",
            "MemoryAdapters.activate",
            "MemoryAdapters.publish",
            "MemoryArtifacts.get",
            "MemoryFeedback.pairs",
            "MemoryFeedback.put_pairs",
            "MemoryFeedback.put_round",
            "MemoryFeedback.put_scores",
            "MemoryFeedback.put_set",
            "MemoryFeedback.round",
            "MemoryFeedback.scored",
            "MemoryFeedback.set",
            "MemoryFeedback.set_ids",
            "Painter.generate",
        }

    def test_paints_no_kept_set_and_judges_no_scored_candidate_again(self):
        world = World()
        with pytest.raises(PowerCut):
            world.run(Breaker("MemoryFeedback.put_set", "after", 3))
        world.run()
        assert sorted(world.painter.painted) == sorted(SET_IDS)
        with pytest.raises(PowerCut):
            (other := World()).run(Breaker("Critic.score", "before", 5))
        before = [list(critic.judged) for critic in other.critics]
        other.run()
        assert all(set(critic.judged) == EVERYBODY for critic in other.critics)
        assert all(len(critic.judged) == len(EVERYBODY) for critic in other.critics)
        assert [len(judged) for judged in before] == [15, 6, 0]

    def test_may_be_interrupted_over_and_over(self):
        world = World()
        for method in ("Painter.generate", "Critic.score", "Learner.train", "Doorkeeper.decide") * 3:
            with suppress(PowerCut):
                world.run(Breaker(method, "after", 1))
        assert world.run().published.version == 1
        assert world.adapters.versions() == (1,)


class TestStop:
    @pytest.mark.parametrize("asked", range(1, 19))  # six stages, three batches to paint, nine to judge
    def test_keeps_what_was_finished_whenever_it_is_asked_for(self, asked):
        answers = iter(range(1, 100))
        world = World()
        with pytest.raises(Cancelled, match="round r1 was stopped"):
            world.run(should_stop=lambda: next(answers) == asked)
        assert world.run().stage == "done"
        assert world.work() == WORK_OF_A_ROUND
        assert world.adapters.versions() == (1,)

    def test_comes_before_the_first_set_is_painted(self):
        world = World()
        with pytest.raises(Cancelled, match="stopped before stage 'collect'"):
            world.run(should_stop=lambda: True)
        assert world.painter.painted == []

    def test_says_how_many_sets_are_kept(self):
        world = World()
        with pytest.raises(Cancelled, match="stopped while collecting; 2 sets are kept"):
            world.run(should_stop=lambda: len(world.painter.painted) == 2)


class TestFailingJudge:
    def test_leaves_the_round_waiting_for_its_scores(self):
        world = World()
        world.critics[1].failing = {"s1-0", "s1-2", "s4-1"}
        with pytest.raises(UnscoredCandidates, match="2 candidate sets wait for scores of compatibility: s1, s4"):
            world.run()
        assert world.feedback.round("r1").stage == "judge"
        assert world.learner.trained == []

    def test_is_asked_again_for_what_is_missing_and_nobody_else_for_anything(self):
        world = World()
        world.critics[1].failing = {"s1-0", "s1-2", "s4-1"}
        with pytest.raises(UnscoredCandidates):
            world.run()
        for critic in world.critics:
            critic.judged.clear()
        world.critics[1].failing = {"s4-1"}
        with pytest.raises(UnscoredCandidates, match="1 candidate sets wait"):
            world.run()
        world.critics[1].failing = set()
        assert timeless(world.run()) == timeless(World().run())
        assert [critic.judged for critic in world.critics] == [[], ["s1-0", "s1-2", "s4-1", "s4-1"], []]

    def test_that_comes_back_as_another_version_judges_all_of_the_round_again_and_nobody_else_does(self):
        world = World()
        critic = world.critics[1]
        critic.failing = {"s1-0"}
        with pytest.raises(UnscoredCandidates):
            world.run()
        critic.failing, critic.version = set(), "2"
        assert world.run().stage == "done"
        scores = [score for scored in world.feedback.scored_sets("r1") for score in scored.scores]
        assert {s.judge_version for s in scores if s.criterion == critic.criterion} == {"2"}
        assert [len(other.judged) for other in world.critics] == [15, 30, 15]

    def test_that_does_not_answer_ends_the_attempt_and_not_the_round(self):
        class Away(Critic):
            def score(self, candidate_sets):
                raise Unavailable("no connection")

        world = World()
        there, world.critics[2] = world.critics[2], Away("personalization")
        with pytest.raises(Unavailable, match="no connection"):
            world.run()
        assert world.feedback.round("r1").stage == "judge"
        world.critics[2] = there
        assert world.run().stage == "done"
        assert world.work() == WORK_OF_A_ROUND

    def test_whose_reason_is_final_is_not_waited_for(self):
        class WithoutHistory(Critic):
            def _score(self, candidate_id):
                named = {"candidate_id": candidate_id, "criterion": self.criterion, "judge_version": "1"}
                return Score(**named, reason="no_history")

        world = World()
        world.critics[2] = WithoutHistory("personalization")
        assert world.run().stage == "done"
        assert len(world.critics[2].judged) == len(EVERYBODY)


class TestVerdict:
    def test_against_an_adapter_publishes_it_and_leaves_the_champion(self):
        world = World()
        world.run()
        world.gate.is_promoted = False
        requests = [request.model_copy(update={"set_id": f"second-{request.set_id}"}) for request in REQUESTS]
        record = open_round(world.feedback, RoundRecord(round_id="r2", seed=1))
        second = run_round(record, requests, world.parts())
        assert second.published.version == 2
        assert not world.adapters.manifest(2).verdict.is_promoted
        assert world.adapters.alias("champion") == 1

    def test_against_the_first_adapter_leaves_the_base_model(self):
        world = World(is_promoted=False)
        assert world.run().published.version == 1
        assert world.adapters.alias("champion") is None
        with pytest.raises(Conflict, match="the gate rejected it"):
            world.adapters.activate(1)

    def test_in_its_favour_can_be_taken_back(self):
        world = World()
        world.run()
        assert world.adapters.rollback() == 0
        assert world.adapters.alias("champion") == 0
        world.run()  # is done, so it does not put its adapter forward again
        assert world.adapters.alias("champion") == 0


class TestOpenRound:
    def test_stores_a_new_record(self):
        feedback = MemoryFeedback()
        assert open_round(feedback, RECORD) == RECORD == feedback.round("r1")

    def test_returns_the_record_that_is_there(self):
        feedback = MemoryFeedback()
        there = RECORD.model_copy(update={"stage": "train", "seed": 7})
        feedback.put_round(there)
        assert open_round(feedback, RECORD) == there == feedback.round("r1")


class TestStages:
    def test_candidates_of_another_adapter_are_refused_before_they_are_kept(self):
        world = World()
        world.painter.adapter = AdapterRef(version=3, digest=content_digest(b"other"))
        with pytest.raises(PolicyMismatch, match="s0 was made with adapter version 3, the round starts from version 0"):
            collect_round(RECORD, REQUESTS, world.parts(), no_progress, lambda: False)
        assert world.feedback.set_ids("r1") == ()

    def test_sets_that_nobody_asked_for_take_no_part(self):
        world, other = World(), Painter(MemoryArtifacts())
        stray = REQUESTS[0].model_copy(update={"set_id": "stray"})
        world.feedback.put_set("r1", next(other.generate([stray])))
        assert timeless(world.run()) == timeless(World().run())

    def test_training_needs_pairs_that_were_made(self):
        with pytest.raises(NotFound, match="no preference pairs were made for round 'r1'"):
            train_round(RECORD, World().parts())
