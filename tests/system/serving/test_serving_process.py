"""What every service does as a process: where it may listen, what its log shows, and how it ends."""

import hashlib
import signal
import socket

import httpx
import pytest

from tests.service_process import ServiceProcess

KEY = "0123456789abcdef"


def bare_service(**settings) -> ServiceProcess:
    return ServiceProcess("bare_service", package="tests", **settings)


@pytest.fixture(scope="module")
def process():
    with bare_service() as process:
        yield process.wait_until_ready()


class TestStart:
    def test_without_keys_on_an_open_address_is_refused(self):
        with bare_service(host="0.0.0.0") as process:
            assert process.ended() == 2
            assert "loopback only" in process.events("refused_to_start")[0]["reason"]

    def test_with_a_mistyped_key_ends_without_showing_it(self):
        with bare_service(api_keys="ann:gnerate:hunter2hunter2hunter2") as process:
            assert process.ended() != 0
            assert "unknown scopes" in process.text and "hunter2" not in process.text

    def test_on_a_port_that_is_taken_ends_with_1(self):
        with socket.create_server(("127.0.0.1", 0)) as taken, bare_service(port=taken.getsockname()[1]) as process:
            assert process.ended() == 1

    def test_with_keys_on_an_open_address_guards_it_and_keys_never_show_in_the_log(self):
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        with bare_service(host="0.0.0.0", api_keys=f"ann:read:sha256-{digest}", log_level="DEBUG") as process:
            url = process.wait_until_ready().url.replace("0.0.0.0", "127.0.0.1")
            assert httpx.get(f"{url}/orders/1").status_code == 401
            assert httpx.get(f"{url}/orders/1", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
            process.terminate()
            assert process.ended() == 0
            assert digest not in process.text and KEY not in process.text


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_on_a_signal_is_orderly_and_leaves_0(self, number):
        with bare_service() as process:
            process.wait_until_ready().process.send_signal(number)
            assert process.ended() == 0
            assert process.events("stopped")
            assert "Traceback" not in process.text

    def test_does_not_wait_for_a_stream_without_end_longer_than_it_is_told(self):
        with (
            bare_service(shutdown_timeout_s=1) as process,
            httpx.Client(base_url=process.wait_until_ready().url) as client,
            client.stream("GET", "/stream") as answer,
        ):
            next(answer.iter_raw())
            process.terminate()
            assert process.ended(within_s=20) == 0


class TestRawRequests:
    """What no client library would send."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /orders/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
            b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/9.9\r\n\r\n",
        ],
        ids=["dots", "escaped_dots", "bytes", "negative", "huge", "tls", "version"],
    )
    def test_are_refused_and_the_service_goes_on(self, process: ServiceProcess, sent):
        host, port = process.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(sent)
            answer = connection.recv(65536)
        assert answer == b"" or answer.split(b" ")[1][:1] == b"4"
        assert b"root:" not in answer
        assert httpx.get(f"{process.url}/livez").status_code == 200
