"""What surrounds every request: ids, log lines, figures, readiness, and the limit on requests at once."""

import asyncio
import io
import json
import sys
import time

import httpx
import pytest
import structlog
from fastapi import APIRouter
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import Gauge

from fashiondpo.errors import Unavailable
from fashiondpo.serving import health, tracing
from fashiondpo.serving.app import create_service
from fashiondpo.serving.metrics import ServiceMetrics
from fashiondpo.serving.settings import ServingSettings
from fashiondpo.telemetry import configure_logging
from tests.api.small_service import small_app

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def client():
    with TestClient(small_app()) as client:
        yield client


@pytest.fixture
def log_lines(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging(form="json")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.reset_defaults()


class TestRequestId:
    def test_comes_back_as_it_was_sent(self, client):
        assert client.get("/orders/1", headers={"X-Request-Id": "round-7.a_b"}).headers["x-request-id"] == "round-7.a_b"

    @pytest.mark.parametrize("sent", ["", "a b", "x" * 200, "<script>", 'a"b'])
    def test_that_is_no_id_is_replaced(self, client, sent):
        found = client.get("/orders/1", headers={"X-Request-Id": sent}).headers["x-request-id"]
        assert found != sent and len(found) == 32

    def test_and_the_senders_trace_are_on_every_log_line_of_the_request(self, client, log_lines):
        client.get("/orders/5", headers={"X-Request-Id": "here", "traceparent": TRACEPARENT})
        lines = log_lines()
        assert [line["event"] for line in lines] == ["order_read", "request"]
        assert all((line["request_id"], line["trace_id"]) == ("here", TRACE) for line in lines)

    def test_is_on_the_log_line_of_a_bug_together_with_its_traceback(self, client, log_lines):
        client.get("/fails/bug", headers={"X-Request-Id": "there"})
        bug = next(line for line in log_lines() if line["event"] == "request_failed")
        assert bug["request_id"] == "there"
        assert "RuntimeError" in bug["exception"]


class TestFigures:
    def test_count_requests_by_route_and_status_and_not_by_what_was_asked_for(self, client):
        for number in (1, 2, 3):
            client.get(f"/orders/{number}")
            client.get(f"/nowhere/{number}")
        text = client.get("/metrics").text
        assert 'fashiondpo_http_requests_total{method="GET",route="/orders/{number}",status="200"}' in text
        assert 'fashiondpo_http_requests_total{method="GET",route="unmatched",status="404"}' in text
        assert "nowhere" not in text

    def test_of_strange_methods_are_one(self, client):
        client.request("BREW", "/orders/1")
        client.request("M-X", "/orders/1")
        text = client.get("/metrics").text
        assert 'method="OTHER"' in text and "BREW" not in text

    def test_include_memory_and_those_of_the_service(self):
        metrics = ServiceMetrics()
        Gauge("fashiondpo_hats", "Hats.", registry=metrics.registry).set(3)
        app = create_service(title="t", description="d", settings=ServingSettings(), metrics=metrics)
        with TestClient(app) as client:
            text = client.get("/metrics").text
        assert "fashiondpo_hats 3.0" in text and "process_resident_memory_bytes" in text


class TestReadiness:
    def app(self, **checks):
        return create_service(title="t", description="d", settings=ServingSettings(), readiness=checks)

    def asked(self, **checks):
        with TestClient(self.app(**checks)) as client:
            return client.get("/readyz")

    def test_is_there_when_every_check_passes(self):
        async def later() -> None:
            await asyncio.sleep(0)

        response = self.asked(model=lambda: None, redis=later)
        assert response.status_code == 200
        assert response.json() == {"is_ready": True, "checks": {"model": "ok", "redis": "ok"}}

    def test_names_what_is_missing(self):
        def broken() -> None:
            raise Unavailable("redis does not answer")

        def bug() -> None:
            raise RuntimeError("password=hunter2")

        response = self.asked(model=lambda: "loading, 3 of 9", redis=broken, store=bug, fine=lambda: None)
        assert response.status_code == 503
        assert response.json()["checks"] == {
            "model": "loading, 3 of 9",
            "redis": "redis does not answer",
            "store": "the check failed: RuntimeError",
            "fine": "ok",
        }

    def test_does_not_wait_for_a_check_that_hangs(self, monkeypatch):
        monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.05)

        async def hangs() -> None:
            await asyncio.sleep(60)

        started = time.monotonic()
        assert "no answer" in self.asked(redis=hangs).json()["checks"]["redis"]
        assert time.monotonic() - started < 5

    def test_does_not_matter_to_livez(self):
        with TestClient(self.app(model=lambda: "loading")) as client:
            assert client.get("/livez").json() == {"status": "ok"}


class TestRequestsAtOnce:
    def test_beyond_the_limit_are_429_at_once_while_probes_are_answered(self):
        release, router = asyncio.Event(), APIRouter()

        @router.get("/waits")
        async def waits() -> dict[str, str]:
            await release.wait()
            return {}

        app = create_service(title="t", description="d", settings=ServingSettings(max_requests=3), routers=[router])

        async def scenario() -> tuple[httpx.Response, httpx.Response, list[httpx.Response]]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                waiting = [asyncio.create_task(client.get("/waits")) for _ in range(3)]
                await asyncio.sleep(0)
                while app.state.metrics.requests_in_work._value.get() < 3:
                    await asyncio.sleep(0)
                refused, probe = await client.get("/waits"), await client.get("/readyz")
                release.set()
                return refused, probe, await asyncio.gather(*waiting)

        refused, probe, accepted = asyncio.run(scenario())
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert "retry-after" in refused.headers
        assert probe.status_code == 200
        assert [response.status_code for response in accepted] == [200] * 3


class TestTraces:
    def test_go_on_from_the_sender_and_are_on_the_log_lines(self, monkeypatch, log_lines):
        exporter = InMemorySpanExporter()
        monkeypatch.setattr(tracing, "OTLPSpanExporter", lambda endpoint: exporter)
        with TestClient(small_app(otel_endpoint="http://collector:4318")) as client:
            client.get("/orders/5", headers={"traceparent": TRACEPARENT})
            client.get("/livez")
        (span,) = exporter.get_finished_spans()
        assert span.name == "GET /orders/{number}"
        assert format(span.context.trace_id, "032x") == TRACE
        assert {line["trace_id"] for line in log_lines() if "trace_id" in line} == {TRACE}
