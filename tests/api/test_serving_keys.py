"""Keys and scopes at the door; limits per key."""

import hashlib

import pytest
from fastapi.testclient import TestClient

from tests.api.small_service import CHIEF, KEYS, PAINTER, READER, TRAINER, bearer, small_app


@pytest.fixture(scope="module")
def client():
    with TestClient(small_app(api_keys=KEYS)) as client:
        yield client


class TestDoor:
    def test_without_a_key_nobody_comes_in(self, client):
        response = client.post("/orders", json={"count": 1})
        assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "key", ["unknown-0123456789abcdef", READER[:-1], READER + "x", "", "ünïcode-key-0123456789"]
    )
    def test_with_a_key_that_is_not_known_nobody_comes_in(self, client, key):
        headers = [(b"authorization", f"Bearer {key}".encode())]
        assert client.get("/orders/1", headers=headers).status_code == 401

    def test_a_key_in_another_scheme_is_none(self, client):
        assert client.get("/orders/1", headers={"Authorization": f"Basic {READER}"}).status_code == 401

    @pytest.mark.parametrize(
        ("key", "may_read", "may_paint", "may_train"),
        [
            (READER, True, False, False),
            (PAINTER, True, True, False),
            (TRAINER, True, False, True),
            (CHIEF, True, True, True),
        ],
    )
    def test_a_key_opens_what_its_scopes_say(self, client, key, may_read, may_paint, may_train):
        asked = (
            client.get("/orders/1", headers=bearer(key)),
            client.post("/paint", headers=bearer(key)),
            client.post("/orders", json={"count": 1}, headers=bearer(key)),
        )
        assert [r.status_code != 403 for r in asked] == [may_read, may_paint, may_train]

    def test_a_missing_scope_is_named(self, client):
        assert "'train'" in client.post("/orders", json={"count": 1}, headers=bearer(READER)).json()["detail"]

    def test_the_key_is_asked_for_before_the_body_is_looked_at(self, client):
        assert client.post("/orders", json={"count": 0}).status_code == 401

    def test_a_route_learns_whose_key_it_was(self, client):
        assert client.get("/orders/1", headers=bearer(READER)).json()["caller"] == "ann"

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs"])
    def test_probes_figures_and_documents_are_open(self, client, path):
        assert client.get(path).status_code == 200

    def test_without_configured_keys_everybody_comes_in(self):
        with TestClient(small_app()) as client:
            assert client.get("/orders/1").json()["caller"] == "anybody"

    def test_hashed_keys_and_keys_in_a_file_open_too(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text(f"eve:read:sha256-{hashlib.sha256(b'a secret of eve').hexdigest()}\n")
        with TestClient(small_app(api_keys_file=file)) as client:
            assert client.get("/orders/1", headers=bearer("a secret of eve")).json()["caller"] == "eve"


class TestRateLimit:
    def test_beyond_it_the_answer_is_429_with_the_time_to_wait_and_others_are_not_disturbed(self):
        with TestClient(small_app(api_keys=KEYS, rate_limit="3/minute")) as client:
            statuses = [client.get("/orders/1", headers=bearer(READER)).status_code for _ in range(4)]
            refused = client.get("/orders/1", headers=bearer(READER))
            other = client.get("/orders/1", headers=bearer(CHIEF))
        assert statuses == [200, 200, 200, 429]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert other.status_code == 200

    def test_a_counter_that_does_not_answer_refuses_nobody(self):
        with TestClient(small_app(rate_limit="1/minute", rate_limit_url="redis://127.0.0.1:1")) as client:
            assert [client.get("/orders/1").status_code for _ in range(2)] == [200, 200]
