"""What Accept and Prefer ask for."""

import pytest

from services.generator.negotiation import prefers_async, wants_events


class TestPrefer:
    @pytest.mark.parametrize("text", ["respond-async", "Respond-Async", "wait=5, respond-async", "respond-async; x=1"])
    def test_asks_for_an_answer_at_once(self, text):
        assert prefers_async(text)

    @pytest.mark.parametrize("text", [None, "", "wait=5", "respond-asynchronously", "return=minimal"])
    def test_asks_for_no_such_thing(self, text):
        assert not prefers_async(text)


class TestAccept:
    @pytest.mark.parametrize(
        "text",
        [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "application/json;q=0.5, text/event-stream",
            "*/*, text/event-stream",
        ],
    )
    def test_asks_for_events(self, text):
        assert wants_events(text)

    @pytest.mark.parametrize(
        "text",
        [None, "", "*/*", "application/json", "text/*", "text/event-stream;q=0", "text/event-stream;q=0.4, application/json",
         "text/event-stream;q=much"],
    )  # fmt: skip
    def test_asks_for_the_whole(self, text):
        assert not wants_events(text)
