"""The pipeline's remote parts against services that paint and judge as they are told: well, late, wrong or not at all."""

import base64
from functools import partial

import pytest

from fashiondpo.clients.generator import GeneratorClient
from fashiondpo.clients.judge import JudgeClient
from fashiondpo.clients.retries import Retries
from fashiondpo.contracts import (
    AdapterRef,
    Candidate,
    CandidateRequest,
    CandidateSet,
    JudgeInfo,
    Outfit,
    SamplerSettings,
    Score,
    content_ref,
)
from fashiondpo.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    PolicyMismatch,
    Unauthorized,
    Unavailable,
)
from fashiondpo.messages import GenerateRequest, Generation, GenerationProgress, Problem, ScoreRequest, ScoreResponse
from fashiondpo.remote import RemoteGenerator, RemoteJudge
from fashiondpo.storage.artifacts import MemoryArtifacts
from tests.unit.clients.unruly_server import (
    answers,
    answers_with,
    breaks,
    never_answers,
    problem,
    tells,
    tells_for_ever,
    unruly,
)

QUICK = Retries(attempts=3, first_wait_s=0.01, longest_wait_s=0.02)
SAMPLER = SamplerSettings(num_inference_steps=4)
ADAPTER = AdapterRef(version=2, digest="a" * 64)
BASE = "b" * 64
TRAJECTORY = content_ref(b"trajectory", "safetensors")
PICTURE = content_ref(b"picture", "png")
PROGRESS = GenerationProgress(generation_id="g", status="running", done=3, total=16)


def request(number: int, **changes) -> CandidateRequest:
    outfit = Outfit(outfit_id=number, user_id=1, category_ids=(0, 1, 5), item_ids=(4, None, 7))
    asked = CandidateRequest(set_id=f"set-{number}", outfit=outfit, slot=1, seeds=(number, 2**62), sampler=SAMPLER)
    return asked.model_copy(update=changes)


def made(asked: CandidateRequest, **changes) -> CandidateSet:
    """What a generator that does as it is told makes of it."""
    candidates = tuple(
        Candidate(candidate_id=f"{asked.set_id}-{k}", index=k, seed=seed, image=PICTURE)
        for k, seed in enumerate(asked.seeds)
    )
    answer = CandidateSet(
        set_id=asked.set_id, outfit=asked.outfit, slot=asked.slot, candidates=candidates, sampler=asked.sampler,
        base_digest=BASE, adapter=ADAPTER, trajectory=TRAJECTORY, history=asked.history,
    )  # fmt: skip
    return answer.model_copy(update=changes)


def done(*sets: CandidateSet) -> tuple[str, Generation]:
    return "done", Generation(
        generation_id="g", status="succeeded", created_at="now", base_digest=BASE, rows_per_forward=7,
        candidate_sets=sets,
    )  # fmt: skip


def paints(*sets: CandidateSet):
    return tells(("progress", PROGRESS), *(("set", s) for s in sets), done(*sets))


def generator(url: str, **options) -> RemoteGenerator:
    client = GeneratorClient(url, retries=QUICK, timeout_s=2)
    return RemoteGenerator(client, **{"adapter": ADAPTER, "round_id": "round-1", **options})


class TestRemoteGenerator:
    def test_asks_for_several_outfits_at_once_with_their_own_names_and_seeds(self):
        requests = [request(n) for n in range(5)]
        sets = [made(r) for r in requests]
        with unruly(paints(*sets[:3]), paints(*sets[3:])) as server:
            assert list(generator(server.url, outfits_per_request=3).generate(requests)) == sets
        bodies = [GenerateRequest.model_validate_json(asked.body) for asked in server.asked]
        assert [len(body.outfits) for body in bodies] == [3, 2]
        first = bodies[0].outfits[0]
        assert (first.set_id, first.outfit_id, first.seeds) == ("set-0", 0, ((0, 2**62),))
        assert [slot.item_id for slot in first.slots] == [4, None, 7]

    def test_pins_the_version_and_says_every_setting_of_the_sampler(self):
        with unruly(paints(made(request(1)))) as server:
            list(generator(server.url).generate([request(1)]))
        body = GenerateRequest.model_validate_json(server.asked[0].body)
        assert (body.adapter_version, body.record, body.round_id, body.num_candidates) == (2, True, "round-1", 2)
        assert SamplerSettings.model_validate(body.sampler.model_dump()) == SAMPLER

    def test_gives_sets_in_the_order_of_the_requests_whichever_is_finished_first(self):
        requests = [request(n) for n in range(3)]
        first, second, third = (made(r) for r in requests)
        with unruly(tells(("set", third), ("set", first), ("set", second), done(first, second, third))) as server:
            assert [s.set_id for s in generator(server.url).generate(requests)] == ["set-0", "set-1", "set-2"]

    def test_gives_a_set_before_the_others_are_finished(self):
        with unruly(tells_for_ever(("set", made(request(0))))) as server:
            sets = generator(server.url).generate([request(0), request(1)])
            assert next(sets).set_id == "set-0"
            sets.close()
            assert server.hung_up.wait(5)

    def test_takes_sets_from_the_result_that_no_event_told(self):
        with unruly(tells(done(made(request(0))))) as server:
            assert list(generator(server.url).generate([request(0)])) == [made(request(0))]

    def test_makes_the_same_request_under_the_same_key_and_others_under_others(self):
        with unruly(breaks, paints(made(request(0))), paints(made(request(1)))) as server:
            parts = generator(server.url)
            list(parts.generate([request(0)]))
            list(parts.generate([request(1)]))
        first, again, other = (asked.headers["idempotency-key"] for asked in server.asked)
        assert first == again != other

    def test_asks_only_for_what_is_missing_after_a_broken_connection(self):
        requests = [request(n) for n in range(3)]
        sets = [made(r) for r in requests]
        broken = tells(("set", sets[0]), ("set", sets[2]), is_complete=False)
        with unruly(broken, paints(sets[1])) as server:
            assert list(generator(server.url).generate(requests)) == sets
        again = GenerateRequest.model_validate_json(server.asked[1].body)
        assert [outfit.set_id for outfit in again.outfits] == ["set-1"]

    def test_gives_up_when_nothing_new_comes(self):
        gone = Problem(title="", status=503, detail="draining", code="unavailable")
        with (
            unruly(tells(("progress", PROGRESS), ("error", gone))) as server,
            pytest.raises(Unavailable, match="draining"),
        ):
            list(generator(server.url).generate([request(0)]))
        assert len(server.asked) == 3

    def test_separates_requests_with_other_settings_or_another_number_of_candidates(self):
        other = SAMPLER.model_copy(update={"num_inference_steps": 8})
        requests = [request(0), request(1, sampler=other), request(2, sampler=other, seeds=(1,)), request(3)]
        with unruly(*(paints(made(r)) for r in requests)) as server:
            assert len(list(generator(server.url).generate(requests))) == 4
        assert len(server.asked) == 4

    def test_leaves_the_sampler_to_the_service_where_nobody_said_one(self):
        with unruly(paints(made(request(0)))) as server:
            list(generator(server.url).generate([request(0, sampler=None)]))
        assert server.asked[0].json["sampler"] == {}

    def test_sends_pictures_and_histories_by_reference(self):
        outfit = request(0).outfit.model_copy(update={"item_ids": (4, None, None), "item_images": {2: PICTURE}})
        asked = request(0, outfit=outfit, history=(9, PICTURE))
        with unruly(paints(made(asked))) as server:
            assert list(generator(server.url).generate([asked])) == [made(asked)]
        sent = server.asked[0].json["outfits"][0]
        assert sent["slots"][2] == {"category_id": 5, "item_id": None, "artifact": PICTURE}
        assert sent["history"] == {"1": [{"item_id": 9}, {"artifact": PICTURE}]}

    def test_tells_how_far_the_service_is(self):
        told = []
        with unruly(paints(made(request(0)))) as server:
            parts = generator(server.url, progress=lambda done, total, _figures: told.append((done, total)))
            list(parts.generate([request(0)]))
        assert told == [(3, 16)]

    def test_stops_the_service_when_it_is_told_to_stop(self):
        with unruly(tells_for_ever(("progress", PROGRESS))) as server:
            with pytest.raises(Cancelled, match="0 of 1"):
                list(generator(server.url, should_stop=lambda: True).generate([request(0)]))
            assert server.hung_up.wait(5)

    def test_paints_with_another_version_once_that_is_activated(self):
        with unruly(paints(made(request(0), adapter=AdapterRef()))) as server:
            parts = generator(server.url)
            parts.activate(AdapterRef())
            assert parts.adapter.version == 0
            list(parts.generate([request(0)]))
        assert server.asked[0].json["adapter_version"] == 0

    def test_keeps_no_trajectories_unless_they_are_wanted(self):
        with unruly(paints(made(request(0), trajectory=None))) as server:
            list(generator(server.url, is_recorded=False).generate([request(0)]))
        assert server.asked[0].json["record"] is False
        assert server.asked[0].json["round_id"] is None

    def test_refuses_to_let_recorded_sets_join_the_traffic(self):
        with pytest.raises(InvalidInput, match="round"):
            generator("http://127.0.0.1:1", round_id=None)

    def test_refuses_a_single_slot_of_an_outfit_with_several_empty_ones(self):
        outfit = request(0).outfit.without(0)
        with pytest.raises(InvalidInput, match="2"):
            list(generator("http://127.0.0.1:1").generate([request(0, outfit=outfit)]))

    def test_refuses_a_sampler_that_no_service_offers(self):
        silent = SAMPLER.model_copy(update={"ddim_eta": 0.0})
        with pytest.raises(InvalidInput, match="ddim_eta"):
            list(generator("http://127.0.0.1:1").generate([request(0, sampler=silent)]))

    @pytest.mark.parametrize(
        "changes",
        [
            {"adapter": AdapterRef()},
            {"adapter": AdapterRef(version=2, digest="c" * 64)},
            {"base_digest": "c" * 64},
            {"sampler": SamplerSettings(num_inference_steps=5)},
        ],
    )
    def test_refuses_what_another_policy_made(self, changes):
        with unruly(paints(made(request(0), **changes))) as server, pytest.raises(PolicyMismatch, match="set-0"):
            list(generator(server.url, base_digest=BASE).generate([request(0)]))
        assert len(server.asked) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"set_id": "set-9"},
            {"outfit": request(9).outfit},
            {"history": (1,)},
            {"trajectory": None},
            {"candidates": made(request(0)).candidates[:1]},
            {"candidates": made(request(9)).candidates},
        ],
    )
    def test_never_takes_something_else_for_what_it_asked_for(self, changes):
        with unruly(paints(made(request(0), **changes))) as server, pytest.raises(Unavailable, match="set-"):
            list(generator(server.url).generate([request(0)]))

    def test_notices_that_a_set_is_owed(self):
        with unruly(paints(made(request(0))), paints()) as server, pytest.raises(Unavailable, match="owes 1 of 1"):
            list(generator(server.url).generate([request(0), request(1)]))

    @pytest.mark.parametrize(
        ("behaviour", "kind"),
        [
            (breaks, Unavailable),
            (never_answers, DeadlineExceeded),
            (problem(429, "overloaded", Retry_After="0"), Overloaded),
            (problem(409, "policy_mismatch"), PolicyMismatch),
            (problem(401, "unauthorized"), Unauthorized),
        ],
    )
    def test_raises_what_the_service_has_to_say(self, behaviour, kind):
        with unruly(behaviour) as server:
            client = GeneratorClient(server.url, retries=QUICK, timeout_s=0.3)
            with pytest.raises(kind):
                list(RemoteGenerator(client, adapter=ADAPTER, round_id="round-1").generate([request(0)]))


INFO = JudgeInfo(criterion="compatibility", version="v1", low=-1, high=1)
SETS = [made(request(n)) for n in range(3)]
IDS = [candidate.candidate_id for s in SETS for candidate in s.candidates]


def score(candidate_id: str, **changes) -> Score:
    given = {"candidate_id": candidate_id, "criterion": "compatibility", "judge_version": "v1", "value": 0.5}
    return Score(**{**given, **changes})


def judges(asked, judge=INFO, **changes) -> ScoreResponse:
    """One score per candidate, as a judge that does as it is told gives them."""
    body = ScoreRequest.model_validate_json(asked.body)
    return ScoreResponse(judge=judge, scores=tuple(score(c.candidate_id, **changes) for c in body.candidates))


def judge(url: str, **options) -> RemoteJudge:
    return RemoteJudge(JudgeClient(url, retries=QUICK, timeout_s=0.5), **options)


class TestRemoteJudge:
    def test_gives_one_score_per_candidate_in_order(self):
        with unruly(answers_with(judges), answers(INFO)) as server:
            assert [given.candidate_id for given in judge(server.url).score(SETS)] == IDS

    def test_asks_for_so_many_candidates_at_once(self):
        with unruly(answers_with(judges), answers(INFO), answers_with(judges)) as server:
            assert len(judge(server.url, candidates_per_request=4).score(SETS)) == 6
        assert [asked.path for asked in server.asked] == ["/score", "/info", "/score"]

    def test_asks_once_what_the_judge_is(self):
        with unruly(answers(INFO)) as server:
            parts = judge(server.url)
            assert parts.info == parts.info == INFO
        assert len(server.asked) == 1

    def test_names_pictures_by_reference(self):
        outfit = Outfit(outfit_id=1, user_id=1, category_ids=(0, 1), item_ids=(None, None), item_images={0: PICTURE})
        with unruly(answers_with(judges), answers(INFO)) as server:
            judge(server.url).score([made(request(0, outfit=outfit, history=(3, PICTURE)))])
        sent = server.asked[0].json["candidates"][0]
        assert sent["artifact"] == PICTURE
        assert sent["outfit"]["item_images"] == {"0": PICTURE}
        assert sent["history"] == [{"item_id": 3}, {"artifact": PICTURE}]

    def test_sends_pictures_along_where_the_judge_has_no_artifact_store(self):
        artifacts = MemoryArtifacts()
        artifacts.put(b"picture", "png")
        inline = base64.b64encode(b"picture").decode()
        outfit = Outfit(outfit_id=1, user_id=1, category_ids=(0, 1), item_ids=(None, None), item_images={0: PICTURE})
        with unruly(answers_with(judges), answers(INFO)) as server:
            judge(server.url, artifacts=artifacts).score([made(request(0, outfit=outfit, history=(3, PICTURE)))])
        sent = server.asked[0].json["candidates"][0]
        assert sent["image"] == inline
        assert sent["artifact"] is None
        assert sent["given_images"] == {"0": inline}
        assert sent["history"] == [{"item_id": 3}, {"image": inline}]

    @pytest.mark.parametrize("is_final", [True, False])
    def test_takes_over_that_a_candidate_has_no_score(self, is_final):
        unscored = partial(judges, value=None, reason="no_history", is_final=is_final)
        with unruly(answers_with(unscored), answers(INFO)) as server:
            given = judge(server.url).score(SETS[:1])
        assert {(one.value, one.reason, one.is_final) for one in given} == {(None, "no_history", is_final)}

    @pytest.mark.parametrize(
        "behaviour",
        [
            breaks,
            never_answers,
            problem(503, "unavailable"),
            problem(500, "internal"),
            answers("<html>"),
            answers_with(lambda asked: judges(asked).model_dump_json()[:-3]),
            answers_with(lambda asked: judges(asked).model_dump_json().replace("0.5", "NaN")),
            answers_with(lambda asked: judges(asked).model_dump_json().replace("0.5", "Infinity")),
            answers_with(lambda asked: judges(asked).model_dump_json().replace("0.5", "null")),
            answers_with(partial(judges, value=7.0)),
            answers_with(partial(judges, criterion="quality")),
            answers_with(partial(judges, judge_version="v2")),
            answers_with(partial(judges, judge=INFO.model_copy(update={"version": "v2"}), judge_version="v2")),
            answers_with(lambda asked: ScoreResponse(judge=INFO, scores=judges(asked).scores[1:])),
            answers_with(lambda asked: ScoreResponse(judge=INFO, scores=(*judges(asked).scores, score("x")))),
            answers_with(lambda asked: ScoreResponse(judge=INFO, scores=judges(asked).scores[::-1])),
            answers_with(lambda asked: ScoreResponse(judge=INFO, scores=())),
        ],
        ids=[
            "hangs up", "is silent", "is away", "fails", "another page", "cut short", "NaN", "infinity", "no value",
            "out of range", "another criterion", "another version", "changed", "too few", "too many", "another order",
            "none",
        ],
    )  # fmt: skip
    def test_that_fails_or_talks_nonsense_is_unavailable_and_nothing_is_guessed(self, behaviour):
        with unruly(answers(INFO), behaviour) as server:
            parts = judge(server.url)
            assert parts.info == INFO
            with pytest.raises(Unavailable):
                parts.score(SETS)

    @pytest.mark.parametrize(
        ("behaviour", "kind"),
        [
            (problem(401, "unauthorized"), Unauthorized),
            (problem(400, "invalid_input"), InvalidInput),
            (problem(429, "overloaded", Retry_After="0"), Overloaded),
        ],
    )
    def test_that_refuses_us_says_why(self, behaviour, kind):
        with unruly(behaviour) as server, pytest.raises(kind):
            judge(server.url).score(SETS)

    def test_that_was_busy_is_asked_again(self):
        busy = problem(429, "overloaded", Retry_After="0.05")
        with unruly(busy, busy, answers_with(judges), answers(INFO)) as server:
            assert len(judge(server.url).score(SETS)) == 6
