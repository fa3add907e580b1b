"""Streams of events: the grammar of bytes, and what becomes of streams that break."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiondpo.clients.events import EventParser, ServerEvent
from fashiondpo.clients.generator import AsyncGeneratorClient, GeneratorClient
from fashiondpo.clients.retries import Retries
from fashiondpo.clients.trainer import AsyncTrainerClient, TrainerClient
from fashiondpo.errors import Cancelled, DeadlineExceeded, NotFound, Overloaded, Unavailable
from fashiondpo.messages import GenerateRequest, Generation, GenerationProgress, Problem, RoundEvent
from tests.unit.clients.unruly_server import (
    breaks,
    closed_port,
    event_bytes,
    never_answers,
    problem,
    tells,
    tells_for_ever,
    unruly,
)

QUICK = Retries(attempts=3, first_wait_s=0.01, longest_wait_s=0.02)
REQUEST = GenerateRequest(outfits=({"user_id": 1, "slots": ({"item_id": 3}, {"category_id": 1})},))
PROGRESS = GenerationProgress(generation_id="g", status="running", done=1, total=4)
DONE = Generation(
    generation_id="g", status="succeeded", created_at="now", base_digest="0" * 64, rows_per_forward=7, done=4, total=4
)
GONE = Problem(title="gone", status=503, detail="draining", code="unavailable")


def parsed(*pieces: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def round_event(number: int, **details: str) -> bytes:
    kind = "state" if details else "progress"
    event = RoundEvent(event_id=str(number), at="now", kind=kind, details=details)
    return event_bytes(kind, event, str(number))


class TestEventParser:
    def test_reads_name_data_and_id(self):
        assert parsed(b"id: 7\nevent: set\ndata: {}\n\n") == [ServerEvent("set", "{}", "7")]

    def test_joins_lines_of_data(self):
        assert parsed(b"data: a\ndata:b\ndata:  c\n\n") == [ServerEvent("message", "a\nb\n c")]

    def test_passes_over_comments_unknown_fields_and_events_without_data(self):
        assert parsed(b": keepalive\n\nfoo: bar\nretry: 10\n\nevent: x\n\ndata: y\n\n") == [ServerEvent("message", "y")]

    def test_keeps_the_last_id_for_events_without_one(self):
        assert [event.event_id for event in parsed(b"id: 1\ndata: a\n\ndata: b\n\n")] == ["1", "1"]

    def test_gives_nothing_for_an_event_that_is_not_finished(self):
        assert parsed(b"data: half") == []

    def test_refuses_what_is_no_text(self):
        with pytest.raises(Unavailable, match="no text"):
            parsed(b"data: \xff\xff\n\n")

    def test_refuses_a_line_that_never_ends(self, monkeypatch):
        monkeypatch.setattr("fashiondpo.clients.events.LONGEST_LINE", 100)
        with pytest.raises(Unavailable, match="more than 100"):
            parsed(b"data: " + b"x" * 60, b"x" * 60)

    @given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=("Cs",)))), st.data())
    def test_reads_the_same_wherever_the_bytes_are_cut(self, texts, data):
        ends = [data.draw(st.sampled_from(["\n", "\r", "\r\n"])) for _ in texts]
        whole = "".join(f"data:{' '}{text}{end}{end}" for text, end in zip(texts, ends, strict=True)).encode()
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        # the end of a line that is cut within \r\n is only known with the next byte
        assert [event.text for event in parsed(*pieces, b"\n")] == texts


def generate(url: str, timeout_s: float = 5.0) -> list:
    with GeneratorClient(url, timeout_s=timeout_s, retries=QUICK) as client:
        return list(client.generate_stream(REQUEST, key="k"))


def generate_awaiting(url: str, timeout_s: float = 5.0) -> list:
    async def main():
        async with AsyncGeneratorClient(url, timeout_s=timeout_s, retries=QUICK) as client:
            return [news async for news in client.generate_stream(REQUEST, key="k")]

    return asyncio.run(main())


@pytest.fixture(params=[generate, generate_awaiting])
def painted(request):
    """Everything that a stream of a new generation tells, with one of the two runners."""
    return request.param


class TestGenerateStream:
    def test_tells_progress_and_then_the_result(self, painted):
        with unruly(tells(("progress", PROGRESS), b": keepalive\n\n", ("news", "{}"), ("done", DONE))) as server:
            assert painted(server.url) == [PROGRESS, DONE]
        assert server.asked[0].headers["accept"] == "text/event-stream"

    def test_ends_with_the_result_whatever_follows(self, painted):
        with unruly(tells(("done", DONE), ("progress", PROGRESS))) as server:
            assert painted(server.url) == [DONE]

    def test_raises_the_problem_that_ended_it(self, painted):
        with (
            unruly(tells(("progress", PROGRESS), ("error", GONE))) as server,
            pytest.raises(Unavailable, match="draining"),
        ):
            painted(server.url)
        assert len(server.asked) == 1

    def test_raises_that_somebody_cancelled_it(self, painted):
        cancelled = DONE.model_copy(update={"status": "cancelled"})
        with unruly(tells(("done", cancelled))) as server, pytest.raises(Cancelled):
            painted(server.url)

    def test_is_begun_again_with_the_same_key_if_nothing_has_come(self, painted):
        with unruly(breaks, problem(503, "unavailable"), tells(("done", DONE))) as server:
            assert painted(server.url) == [DONE]
        assert {asked.headers["idempotency-key"] for asked in server.asked} == {"k"}

    def test_that_breaks_later_is_unavailable(self, painted):
        with (
            unruly(tells(("progress", PROGRESS), is_complete=False), tells(("done", DONE))) as server,
            pytest.raises(Unavailable, match="broke"),
        ):
            painted(server.url)

    def test_that_ends_without_a_result_is_unavailable(self, painted):
        with unruly(tells(("progress", PROGRESS))) as server, pytest.raises(Unavailable, match="before its last"):
            painted(server.url)

    def test_of_nonsense_is_unavailable(self, painted):
        with unruly(tells(("progress", "{}"))) as server, pytest.raises(Unavailable, match="no GenerationProgress"):
            painted(server.url)

    def test_that_is_silent_for_too_long_is_given_up(self, painted):
        with unruly(never_answers) as server, pytest.raises(DeadlineExceeded):
            painted(server.url, timeout_s=0.2)

    def test_is_refused_like_any_call(self, painted):
        with unruly(problem(429, "overloaded", Retry_After="0")) as server, pytest.raises(Overloaded):
            painted(server.url)
        assert len(server.asked) == QUICK.attempts

    def test_of_a_service_that_is_not_there_is_unavailable(self, painted):
        with pytest.raises(Unavailable, match="does not answer"):
            painted(closed_port())

    def test_hangs_up_when_nobody_reads_on(self):
        with unruly(tells_for_ever(("progress", PROGRESS))) as server, GeneratorClient(server.url) as client:
            stream = client.generate_stream(REQUEST)
            assert next(stream) == PROGRESS
            stream.close()
            assert server.hung_up.wait(5)


def watch(url: str, after: str | None = None) -> list:
    with TrainerClient(url, retries=QUICK) as client:
        return [event.event_id for event in client.events("round-1", after=after)]


def watch_awaiting(url: str, after: str | None = None) -> list:
    async def main():
        async with AsyncTrainerClient(url, retries=QUICK) as client:
            return [event.event_id async for event in client.events("round-1", after=after)]

    return asyncio.run(main())


@pytest.fixture(params=[watch, watch_awaiting])
def watched(request):
    """The ids of everything that happens in a round, with one of the two runners."""
    return request.param


class TestRoundEvents:
    def test_go_on_behind_the_last_one_after_a_broken_connection(self, watched):
        first = tells(round_event(1), round_event(2), is_complete=False)
        with unruly(first, breaks, tells(round_event(3), round_event(4, state="succeeded"))) as server:
            assert watched(server.url) == ["1", "2", "3", "4"]
        assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "2", "2"]

    def test_go_on_where_a_service_that_ends_closed_the_stream(self, watched):
        with unruly(tells(round_event(1)), tells(round_event(2, state="failed"))) as server:
            assert watched(server.url) == ["1", "2"]

    def test_do_not_end_with_a_state_that_is_none_of_an_end(self, watched):
        with unruly(tells(round_event(1, state="running"), round_event(2, state="cancelled"))) as server:
            assert watched(server.url) == ["1", "2"]

    def test_are_given_up_after_so_many_openings_without_news(self, watched):
        with unruly(tells(round_event(1)), breaks) as server, pytest.raises(Unavailable):
            watched(server.url)
        assert len(server.asked) == 3

    def test_begin_behind_the_event_that_is_named(self, watched):
        with unruly(tells(round_event(6, state="succeeded"))) as server:
            assert watched(server.url, "5") == ["6"]
        assert server.asked[0].headers["last-event-id"] == "5"

    def test_of_a_round_that_is_not_there_are_not_found(self, watched):
        with unruly(problem(404, "not_found")) as server, pytest.raises(NotFound):
            watched(server.url)
