"""The remote quality judge against a real HTTP server that misbehaves."""

import json
import math
import threading
import time
import zlib

import numpy as np
import pytest

from fashiondpo.clients.retries import Retries
from fashiondpo.clients.vlm import ModelServerClient
from fashiondpo.contracts import Score
from fashiondpo.errors import DeadlineExceeded, ModelRefused, Unavailable
from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.judges.circuit import CircuitBreaker
from fashiondpo.judges.remote_quality import RemoteQualityJudge
from fashiondpo.judges.rubric import quality_rubric
from tests.model_server import completion, decision
from tests.unit.clients.unruly_server import (
    Behaviour,
    UnrulyServer,
    answers,
    answers_with,
    breaks,
    breaks_within,
    closed_port,
    drips,
    never_answers,
    unruly,
)
from tests.unit.judges.small_world import garment, outfit

RUBRIC = quality_rubric(5)
QUICK = Retries(attempts=3, first_wait_s=0.01, longest_wait_s=0.02)
GOOD = completion("D", {"D": math.log(0.75), "B": math.log(0.25)})
PATH = "/v1/chat/completions"


def client(url: str, **options) -> ModelServerClient:
    return ModelServerClient(url, **{"timeout_s": 5, "retries": QUICK, **options})


def judge(url: str, *, breaker: CircuitBreaker | None = None, timeout_s: float = 5, **options) -> RemoteQualityJudge:
    given = {"model": "minicpm", "rubric": RUBRIC, "dialect_name": "vllm", "concurrency": 1, **options}
    return RemoteQualityJudge(client(url, timeout_s=timeout_s), breaker=breaker, **given)


def inputs(count: int) -> list[JudgeInput]:
    return [JudgeInput(f"c-{n}", outfit(None, 1, 2, 3), 0, garment((n, 0, 0))) for n in range(count)]


def judged(*behaviours: Behaviour, count: int = 1, **options) -> tuple[list[Score], UnrulyServer]:
    """What a judge makes of a server that answers so."""
    with unruly(*behaviours) as server:
        return judge(server.url, **options).score(inputs(count)), server


class TestRemoteQualityJudge:
    def test_is_a_judge_whose_version_names_model_revision_dialect_rubric_and_levels(self):
        named = judge("http://127.0.0.1:9", revision="r1")
        assert isinstance(named, Judge)
        assert named.info.version == f"minicpm@r1+vllm+{RUBRIC.version}"
        assert (named.info.criterion, named.info.low, named.info.high) == ("quality", 1, 5)
        assert judge("http://127.0.0.1:9").info.version.startswith("minicpm@unknown+")

    def test_gives_the_expected_level_where_log_probabilities_come_back(self):
        ((score,), server) = judged(answers(GOOD))
        assert score.value == pytest.approx(4 * 0.75 + 2 * 0.25)
        assert score.diagnostics["by"] == "probabilities"
        assert (server.asked[0].method, server.asked[0].path) == ("POST", PATH)
        assert server.asked[0].json["structured_outputs"] == {"choice": list(RUBRIC.labels)}

    def test_gives_the_level_of_the_label_where_they_do_not(self):
        ((score,), _) = judged(answers(completion("D")))
        assert (score.value, score.diagnostics["by"]) == (4.0, "label")

    def test_keeps_the_order_however_long_each_answer_takes(self):
        count, lock, seen = 12, threading.Lock(), []

        def by_picture(handler, asked, is_over) -> None:
            with lock:
                seen.append(asked)
            picture = asked.json["messages"][0]["content"][0]["image_url"]["url"]
            time.sleep(0.01 * max(0, count - len(seen)))
            answers(completion("ABCDE"[zlib.crc32(picture.encode()) % 5]))(handler, asked, is_over)

        with unruly(by_picture) as server:
            scores = judge(server.url, concurrency=6).score(inputs(count))
            alone = [judge(server.url).score([one])[0] for one in inputs(count)]
        assert [score.candidate_id for score in scores] == [f"c-{n}" for n in range(count)]
        assert scores == alone
        assert len({score.value for score in scores}) > 1

    def test_never_has_more_questions_on_their_way_than_it_may(self):
        lock, now, most = threading.Lock(), [0], [0]

        def counted(handler, asked, is_over) -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.05)
            with lock:
                now[0] -= 1
            answers(GOOD)(handler, asked, is_over)

        judged(counted, count=12, concurrency=3)
        assert most[0] == 3

    def test_a_candidate_that_is_no_picture_is_not_asked_about_and_leaves_the_others_alone(self):
        bad = JudgeInput("bad", outfit(None, 1, 2, 3), 0, np.zeros((4, 4), np.uint8))
        with unruly(answers(GOOD)) as server:
            scores = judge(server.url).score([bad, *inputs(1)])
        assert [(score.value is None, score.is_final) for score in scores] == [(True, True), (False, True)]
        assert len(server.asked) == 1

    def test_nothing_in_nothing_out(self):
        assert judge(closed_port()).score([]) == []


class TestAnswerThatIsNone:
    def test_is_asked_for_again_with_a_reminder_and_counts_if_it_comes(self):
        ((score,), server) = judged(answers(completion("A lovely shirt.")), answers(GOOD), dialect_name="none")
        assert score.value is not None
        again = server.asked[1].json["messages"]
        assert [message["role"] for message in again] == ["user", "assistant", "user"]
        assert again[1]["content"] == "A lovely shirt."

    @pytest.mark.parametrize("told", [completion("A lovely shirt."), completion("F"), completion("C", {"C": math.nan})])
    def test_however_often_it_is_asked_for_leaves_the_candidate_finally_without_a_score(self, told):
        ((score,), server) = judged(answers(told), tries=4)
        assert (score.value, score.is_final) == (None, True)
        assert score.reason.startswith("unparseable_answer: asked 4 times")
        assert len(server.asked) == 4

    def test_does_not_spoil_the_other_candidates(self):
        prose = completion("I cannot judge this.")
        scores, _ = judged(answers(prose), answers(prose), answers(GOOD), tries=2, count=3)
        assert [score.value is None for score in scores] == [True, False, False]


class TestServerThatFails:
    @pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 429])
    def test_for_a_moment_is_asked_again(self, status):
        ((score,), server) = judged(answers("broken", status), answers("broken", status), answers(GOOD))
        assert score.value is not None
        assert len(server.asked) == 3

    @pytest.mark.parametrize("failure", [breaks, breaks_within(GOOD)], ids=["breaks", "breaks within"])
    def test_by_cutting_the_connection_is_asked_again(self, failure):
        ((score,), _) = judged(failure, answers(GOOD))
        assert score.value is not None

    def test_by_sending_half_of_the_json_is_asked_again_and_is_unavailable_if_it_stays_so(self):
        half = GOOD[: len(GOOD) // 2]
        ((score,), _) = judged(answers(half), answers(GOOD))
        assert score.value is not None
        ((score,), server) = judged(answers(half))
        assert (score.value, score.is_final) == (None, False)
        assert "no JSON" in score.reason
        assert len(server.asked) == 3

    def test_for_good_leaves_candidates_open_for_a_later_attempt_with_its_words(self):
        ((score,), server) = judged(answers(json.dumps({"error": {"message": "CUDA out of memory"}}), 500))
        assert (score.value, score.is_final) == (None, False)
        assert score.reason == "unavailable: the model server failed with status 500: CUDA out of memory"
        assert len(server.asked) == 3

    def test_by_being_busy_is_not_asked_before_the_time_that_it_names(self):
        with unruly(answers("busy", 429, Retry_After="0.4"), answers(GOOD)) as server:
            started = time.monotonic()
            (score,) = judge(server.url).score(inputs(1))
        assert score.value is not None
        assert time.monotonic() - started >= 0.4

    def test_by_staying_busy_is_unavailable(self):
        ((score,), _) = judged(answers("busy", 429))
        assert (score.value, score.is_final) == (None, False)
        assert score.reason.startswith("unavailable:")

    @pytest.mark.parametrize("slow", [never_answers, drips])
    def test_by_being_slow_is_given_up_in_time(self, slow):
        started = time.monotonic()
        ((score,), _) = judged(slow, timeout_s=0.3)
        assert time.monotonic() - started < 5
        assert (score.value, score.is_final) == (None, False)
        assert score.reason.startswith("deadline_exceeded:")

    def test_by_not_being_there_is_unavailable(self):
        (score,) = judge(closed_port()).score(inputs(1))
        assert score.is_final is False
        assert "does not answer" in score.reason

    def test_by_answering_something_else_is_unavailable(self):
        ((score,), _) = judged(answers('{"hello": "I am another service"}'))
        assert score.is_final is False
        assert "the model server's answer is none" in score.reason


class TestServerThatRefuses:
    UNKNOWN_FIELD = json.dumps(
        {"error": {"message": "structured_outputs: extra inputs are not permitted", "code": 400}}
    )

    def test_the_constraint_leaves_candidates_open_until_the_settings_are_right(self):
        scores, server = judged(answers(self.UNKNOWN_FIELD, 400), count=2)
        assert {score.is_final for score in scores} == {False}
        assert scores[0].reason == (
            "model_refused: the model server refuses the request with status 400: "
            "structured_outputs: extra inputs are not permitted"
        )
        assert len(server.asked) == 2  # not worth repeating

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_key_or_model_leaves_candidates_open_though_it_took_others_before(self, status):
        scores, _ = judged(answers(GOOD), answers("no", status), count=2)
        assert (scores[1].value, scores[1].is_final) == (None, False)
        assert scores[1].reason.startswith("model_refused:")

    def test_one_picture_but_takes_others_leaves_that_one_finally_without_a_score(self):
        scores, _ = judged(answers(GOOD), answers("cannot identify image file", 400), answers(GOOD), count=3)
        assert [score.value is None for score in scores] == [False, True, False]
        assert scores[1].is_final
        assert scores[1].reason.startswith("invalid_input: the model server takes others but not this picture")

    def test_by_sending_elsewhere_is_told_and_not_followed(self):
        ((score,), server) = judged(answers("", 307, Location="http://elsewhere.example/"))
        assert score.is_final is False
        assert "redirection" in score.reason
        assert len(server.asked) == 1


class TestServerThatDoesNotLook:
    """As `transformers serve` does with classes of models whose last position it cannot ask for."""

    def test_leaves_all_candidates_open_and_is_looked_at_again(self):
        same = decision([0.1, 0.2, 0.3, 0.2, 0.2])
        other = decision([0.2, 0.2, 0.3, 0.2, 0.1])
        with unruly(*[answers(same)] * 3, answers(other)) as server:
            asking = judge(server.url, dialect_name="transformers")
            blind = asking.score(inputs(4))
            assert len(server.asked) == 2  # about none of the candidates
            seeing = asking.score(inputs(4))
        assert {score.is_final for score in blind} == {False}
        assert blind[0].reason.startswith("model_refused: the model server answers the same to the last digit")
        assert all(score.value is not None for score in seeing)
        assert len(server.asked) == 2 + 2 + 4

    def test_is_not_suspected_while_nobody_can_tell(self):
        ((score,), _) = judged(answers("broken", 500), dialect_name="transformers")
        assert score.reason == "unavailable: the model server failed with status 500: broken"


class TestCircuitBreaker:
    def test_leaves_a_server_alone_that_keeps_failing_and_candidates_unscored_at_once(self):
        breaker = CircuitBreaker("the model server", failures=2, pause_s=60)
        scores, server = judged(answers("broken", 500), count=20, breaker=breaker)
        assert len(server.asked) == 2 * QUICK.attempts
        assert {score.is_final for score in scores} == {False}
        assert all("failed 2 times in a row and is tried again in 60 s" in score.reason for score in scores[2:])

    def test_tries_one_candidate_after_its_pause_and_goes_on_if_the_server_is_back(self):
        now = [0.0]
        breaker = CircuitBreaker("the model server", failures=1, pause_s=10, clock=lambda: now[0])
        with unruly(*[answers("broken", 500)] * QUICK.attempts, answers(GOOD)) as server:
            asking = judge(server.url, breaker=breaker)
            assert [score.value for score in asking.score(inputs(3))] == [None] * 3
            now[0] += 10
            assert all(score.value is not None for score in asking.score(inputs(3)))
        assert len(server.asked) == QUICK.attempts + 3

    def test_is_not_opened_by_a_model_that_only_talks(self):
        breaker = CircuitBreaker("the model server", failures=2, pause_s=60)
        scores, server = judged(answers(completion("well")), count=6, tries=2, breaker=breaker)
        assert len(server.asked) == 12
        assert {score.reason.split(":")[0] for score in scores} == {"unparseable_answer"}


class TestModelServerClient:
    @pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
    def test_takes_the_address_with_and_without_v1(self, suffix):
        with unruly(answers(GOOD)) as server, client(server.url + suffix) as asking:
            assert asking.ask(PATH, {}) == GOOD
        assert server.asked[0].path == PATH

    def test_sends_the_key_and_never_shows_it(self):
        with unruly(answers("no", 401)) as server, client(server.url, key="secret-of-ours") as asking:
            with pytest.raises(ModelRefused) as caught:
                asking.ask(PATH, {})
            assert "secret-of-ours" not in (asking.problem("/health") or "secret-of-ours")
        assert server.asked[0].headers["authorization"] == "Bearer secret-of-ours"
        assert "secret-of-ours" not in str(caught.value)

    def test_says_when_the_server_is_there_and_when_it_is_not(self):
        with unruly(answers_with(lambda asked: b"" if asked.path == "/health" else b"{")) as server:
            asking = client(server.url)
            assert asking.problem("/health") is None
        away = client(server.url)
        assert "does not answer" in away.problem("/health")
        away.close()
        asking.close()

    def test_says_what_is_wrong_with_a_server_that_is_there(self):
        with unruly(answers("loading model", 503)) as server, client(server.url) as asking:
            assert "loading model" in asking.problem("/health")
        assert len(server.asked) == 1

    def test_raises_nothing_but_what_may_pass(self):
        for behaviour, kind in (
            (never_answers, DeadlineExceeded),
            (breaks, Unavailable),
            (answers("x", 422), ModelRefused),
        ):
            with (
                unruly(behaviour) as server,
                client(server.url, timeout_s=0.2) as asking,
                pytest.raises(kind) as caught,
            ):
                asking.ask(PATH, {})
            assert isinstance(caught.value, Unavailable)
