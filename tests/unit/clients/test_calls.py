"""Calls over real connections, waiting and awaiting alike: every fact holds for both runners."""

import asyncio
import json
import time

import pytest

from fashiondpo import errors
from fashiondpo.clients.generator import AsyncGeneratorClient, GeneratorClient
from fashiondpo.clients.http import AsyncServiceClient, ServiceClient
from fashiondpo.clients.judge import JudgeClient
from fashiondpo.clients.problems import error_classes
from fashiondpo.clients.retries import NO_RETRIES, Retries
from fashiondpo.clients.trainer import TrainerClient
from fashiondpo.contracts import AdapterRef, JudgeInfo, content_digest, content_ref
from fashiondpo.errors import (
    Conflict,
    DeadlineExceeded,
    FashionDPOError,
    InvalidInput,
    NotFound,
    Overloaded,
    Unavailable,
)
from fashiondpo.messages import AdapterRegistration, AdapterState, FeedbackRequest, Readiness
from fashiondpo.telemetry import log_context
from tests.unit.clients.unruly_server import (
    answers,
    breaks,
    breaks_within,
    closed_port,
    drips,
    never_answers,
    problem,
    unruly,
)

INFO = JudgeInfo(criterion="quality", version="q1", low=1, high=5)
STATE = AdapterState(active={"version": 0}, champion=None, previous=None, loaded=(), versions=())
QUICK = Retries(attempts=4, first_wait_s=0.01, longest_wait_s=0.02, budget_s=5)


def waits(url, ask, retries=QUICK, timeout_s=5.0, key=None):
    with JudgeClient(url, key, timeout_s=timeout_s, retries=retries) as client:
        return client.run(ask)


def awaits(url, ask, retries=QUICK, timeout_s=5.0, key=None):
    async def main():
        async with AsyncGeneratorClient(url, key, timeout_s=timeout_s, retries=retries) as client:
            return await client.run(ask)

    return asyncio.run(main())


def info():
    from fashiondpo.clients import judge

    return judge.info()


def rollback():
    from fashiondpo.clients import generator

    return generator.rollback()


def weights(ref):
    from fashiondpo.clients import generator

    return generator.weights(ref)


@pytest.fixture(params=[waits, awaits])
def ask(request):
    """Makes a call with one of the two runners."""
    return request.param


class TestAnswer:
    def test_becomes_the_record_it_is(self, ask):
        with unruly(answers(INFO)) as server:
            assert ask(server.url, info()) == INFO

    @pytest.mark.parametrize(
        "body", [INFO.model_dump_json()[:-9], "", "null", "[]", "<html>", '{"criterion": "quality"}', b"\xff\xfe"]
    )
    def test_that_is_no_such_record_is_unavailable(self, ask, body):
        with unruly(answers(body)) as server, pytest.raises(Unavailable, match="is no JudgeInfo"):
            ask(server.url, info())

    def test_that_is_cut_short_is_asked_for_again(self, ask):
        with unruly(breaks_within(INFO), answers(INFO)) as server:
            assert ask(server.url, info()) == INFO

    def test_that_leads_elsewhere_is_refused_so_that_no_key_goes_there(self, ask):
        with unruly(answers("", 307, Location="http://127.0.0.1:1/info")) as server, pytest.raises(InvalidInput):
            ask(server.url, info())
        assert len(server.asked) == 1


class TestProblem:
    @pytest.mark.parametrize(("code", "kind"), sorted(error_classes().items()))
    def test_of_every_code_becomes_the_error_with_that_code(self, ask, code, kind):
        with (
            unruly(problem(kind.status, code, "the words of the service")) as server,
            pytest.raises(FashionDPOError, match="the words of the service") as caught,
        ):
            ask(server.url, info(), NO_RETRIES)
        assert type(caught.value) is kind
        assert "request r1" in caught.value.__notes__

    def test_every_error_of_the_tree_has_a_code_of_its_own(self):
        classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FashionDPOError)]
        assert sorted(error_classes().values(), key=repr) == sorted(classes, key=repr)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(404, NotFound), (418, InvalidInput), (500, FashionDPOError), (502, Unavailable), (504, Unavailable)],
    )
    def test_without_a_document_is_told_by_its_status(self, ask, status, kind):
        with unruly(answers("<h1>proxy</h1>", status)) as server, pytest.raises(kind, match="proxy") as caught:
            ask(server.url, info(), NO_RETRIES)
        assert type(caught.value) is kind

    def test_of_a_malformed_payload_names_the_fields(self, ask):
        body = {"title": "t", "status": 422, "detail": "malformed", "code": "malformed"}
        body["errors"] = [{"loc": ["body", "seed"], "msg": "must be positive"}]
        with (
            unruly(answers(json.dumps(body), 422)) as server,
            pytest.raises(InvalidInput, match=r"body\.seed: must be positive"),
        ):
            ask(server.url, info())

    def test_of_the_caller_is_not_asked_again(self, ask):
        with unruly(problem(404, "not_found"), answers(INFO)) as server, pytest.raises(NotFound):
            ask(server.url, info())
        assert len(server.asked) == 1


class TestRetry:
    @pytest.mark.parametrize(
        "failure", [problem(503, "unavailable"), problem(429, "overloaded"), answers("", 502), breaks]
    )
    def test_follows_a_failure_that_may_pass(self, ask, failure):
        with unruly(failure, failure, answers(INFO)) as server:
            assert ask(server.url, info()) == INFO
        assert len(server.asked) == 3

    def test_ends_after_so_many_attempts_with_the_last_failure(self, ask):
        with (
            unruly(problem(503, "unavailable", "redis is away")) as server,
            pytest.raises(Unavailable, match="redis is away"),
        ):
            ask(server.url, info())
        assert len(server.asked) == QUICK.attempts

    def test_waits_as_long_as_the_service_says(self, ask):
        with unruly(problem(429, "overloaded", Retry_After="0.3"), answers(INFO)) as server:
            started = time.monotonic()
            assert ask(server.url, info()) == INFO
        assert time.monotonic() - started >= 0.3

    def test_does_not_wait_longer_than_its_patience(self, ask):
        with (
            unruly(problem(429, "overloaded", Retry_After="3600"), answers(INFO)) as server,
            pytest.raises(Overloaded) as caught,
        ):
            ask(server.url, info())
        assert caught.value.retry_after_s == 3600

    @pytest.mark.parametrize("header", ["soon", "-1", "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT"])
    def test_does_without_a_time_that_is_none(self, ask, header):
        with unruly(problem(503, "unavailable", Retry_After=header), answers(INFO)) as server:
            assert ask(server.url, info()) == INFO

    def test_keeps_the_request_id_and_the_idempotency_key(self):
        with (
            unruly(problem(503, "unavailable"), answers("{}", 400)) as server,
            TrainerClient(server.url, retries=QUICK) as client,
            pytest.raises(InvalidInput),
        ):
            client.train(AdapterRegistration(artifact=content_ref(b"x", "safetensors"), round_id="any-body"))
        first, second = (asked.headers for asked in server.asked)
        assert first["idempotency-key"] == second["idempotency-key"]
        assert first["x-request-id"] == second["x-request-id"]

    def test_of_what_must_not_happen_twice_needs_that_it_cannot_have_begun(self, ask):
        with unruly(problem(503, "unavailable"), answers(STATE)) as server:
            assert ask(server.url, rollback()) == STATE
        with unruly(breaks, answers(STATE)) as server, pytest.raises(Unavailable, match="broke"):
            ask(server.url, rollback())
        assert len(server.asked) == 1

    def test_does_not_follow_a_deadline_that_has_passed(self, ask):
        with unruly(problem(503, "deadline_exceeded"), answers(INFO)) as server, pytest.raises(DeadlineExceeded):
            ask(server.url, info())
        assert len(server.asked) == 1


class TestPatience:
    @pytest.mark.parametrize("slow", [never_answers, drips])
    def test_ends_at_the_timeout_however_the_time_is_wasted(self, ask, slow):
        with unruly(slow) as server:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
                ask(server.url, info(), timeout_s=0.2)
        assert time.monotonic() - started < 2

    def test_a_service_that_is_not_there_is_unavailable(self, ask):
        with pytest.raises(Unavailable, match="does not answer"):
            ask(closed_port(), info())


class TestPause:
    def test_grows_up_to_its_limit_and_no_two_clients_need_agree(self):
        retries = Retries(first_wait_s=1, longest_wait_s=8)
        for attempt, ceiling in ((1, 1), (2, 2), (4, 8), (50, 8)):
            pauses = {retries.pause_s(attempt, None) for _ in range(20)}
            assert len(pauses) > 1
            assert all(ceiling / 2 <= pause <= ceiling for pause in pauses)

    def test_is_never_shorter_than_the_service_asked_for(self):
        assert Retries().pause_s(1, 3.0) >= 3.0


class TestRequest:
    def test_carries_the_key_as_a_bearer_token(self, ask):
        with unruly(answers(INFO)) as server:
            ask(server.url, info(), key="secret-of-ours")
        assert server.asked[0].headers["authorization"] == "Bearer secret-of-ours"

    def test_carries_no_token_without_a_key(self, ask):
        with unruly(answers(INFO)) as server:
            ask(server.url, info())
        assert "authorization" not in server.asked[0].headers

    def test_carries_the_id_of_the_request_that_it_serves(self, ask):
        with unruly(answers(INFO)) as server, log_context(request_id="abc-1"):
            ask(server.url, info())
        assert server.asked[0].headers["x-request-id"] == "abc-1"

    def test_names_the_round_that_it_serves(self, ask):
        with unruly(answers(INFO)) as server, log_context(round_id="round-0007"):
            ask(server.url, info())
        assert server.asked[0].headers["x-request-id"].startswith("round-0007-")

    def test_goes_below_the_path_of_the_address(self, ask):
        with unruly(answers(INFO)) as server:
            ask(f"{server.url}/judges/quality/", info())
        assert server.asked[0].path == "/judges/quality/info"

    @pytest.mark.parametrize("name", ["../adapters", "a/b", "", "..", "a b", "a%2fb"])
    def test_never_takes_a_name_for_a_path(self, name):
        with GeneratorClient("http://127.0.0.1:1", retries=NO_RETRIES) as client, pytest.raises(InvalidInput):
            client.generation(name)

    @pytest.mark.parametrize("url", ["", "generator:8000", "ftp://host/x", "/path", "http://", "file:///etc/passwd"])
    @pytest.mark.parametrize("kind", [ServiceClient, AsyncServiceClient])
    def test_needs_an_address(self, url, kind):
        with pytest.raises(InvalidInput, match="no address of a service"):
            kind(url)

    def test_with_a_key_that_no_header_can_hold_is_refused(self, ask):
        with unruly(answers(INFO)) as server, pytest.raises(InvalidInput):
            ask(server.url, info(), key="two\nlines")


class TestReadiness:
    def test_of_a_service_that_is_not_ready_is_an_answer_and_not_asked_twice(self):
        away = Readiness(is_ready=False, checks={"redis": "does not answer"})
        with unruly(answers(away, 503)) as server, ServiceClient(server.url, retries=QUICK) as client:
            assert client.readiness() == away
        assert len(server.asked) == 1


class TestImage:
    def test_is_checked_against_its_digest(self):
        ref = content_ref(b"picture", "png")
        with unruly(answers(b"picture"), answers(b"another")) as server, GeneratorClient(server.url) as client:
            assert client.image(ref) == b"picture"
            with pytest.raises(Unavailable, match="another digest"):
                client.image(ref)


class TestWeights:
    def test_are_checked_against_their_digest(self, ask):
        ref = AdapterRef(version=3, digest=content_digest(b"weights"))
        with unruly(answers(b"weights"), answers(b"others")) as server:
            assert ask(server.url, weights(ref)) == b"weights"
            with pytest.raises(Unavailable, match=r"not adapter version 3.*another digest"):
                ask(server.url, weights(ref), NO_RETRIES)
        assert [asked.path for asked in server.asked] == ["/adapters/3/weights"] * 2


class TestFeedback:
    def test_conflicts_as_the_service_says(self):
        votes = FeedbackRequest(set_id="s1", voter_id="v", votes=({"candidate_id": "s1-0", "value": 1},))
        with (
            unruly(problem(409, "conflict")) as server,
            TrainerClient(server.url) as client,
            pytest.raises(Conflict),
        ):
            client.feedback(votes)
        assert server.asked[0].json["votes"] == [{"candidate_id": "s1-0", "value": 1.0}]
