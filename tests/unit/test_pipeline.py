"""A round over the protocols: interrupted anywhere, it ends the same and does nothing twice."""

from __future__ import annotations

from contextlib import suppress

import pytest

from fashiondpo.contracts import (
    AdapterRef,
    RoundRecord,
    Score,
    content_digest,
)
from fashiondpo.errors import Cancelled, Conflict, NotFound, PolicyMismatch, Unavailable, UnscoredCandidates
from fashiondpo.pipeline import collect_round, open_round, run_round, train_round
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.feedback import MemoryFeedback
from fashiondpo.telemetry import no_progress
from tests.unit.pipeline_world import (
    CANDIDATES,
    EVERYBODY,
    RECORD,
    REQUESTS,
    SET_IDS,
    SETS,
    Breaker,
    Critic,
    Painter,
    PowerCut,
    World,
    calls_of_a_round,
    timeless,
)

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
