"""Every error leaves as problem+json, with a stable code, the request id, and nothing that is nobody's business."""

import json

import pytest
from fastapi.testclient import TestClient

from fashiondpo.messages import Problem
from tests.api.small_service import small_app

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client():
    with TestClient(small_app(max_body_mb=0.01), raise_server_exceptions=False) as client:
        yield client


def problem(response) -> Problem:
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content)
    assert found.status == response.status_code
    assert found.request_id == response.headers["x-request-id"]
    return found


class TestErrorsOfOurs:
    @pytest.mark.parametrize(
        ("name", "status", "code"),
        [
            ("invalid", 400, "invalid_input"),
            ("missing", 404, "not_found"),
            ("conflict", 409, "conflict"),
            ("overloaded", 429, "overloaded"),
            ("unavailable", 503, "unavailable"),
            ("cancelled", 499, "cancelled"),
            ("corrupt", 500, "corrupt_artifact"),
            ("bug", 500, "internal"),
        ],
    )
    def test_carry_their_status_and_code(self, client, name, status, code):
        found = problem(client.get(f"/fails/{name}"))
        assert (found.status, found.code) == (status, code)

    def test_say_what_is_wrong(self, client):
        assert problem(client.get("/fails/invalid")).detail == "no such colour"

    @pytest.mark.parametrize("name", ["bug", "corrupt"])
    def test_of_the_service_itself_show_neither_traceback_nor_message(self, client, name):
        text = client.get(f"/fails/{name}").text
        assert not any(secret in text for secret in ("Traceback", "hunter2", "/data", "RuntimeError"))

    def test_an_overload_says_when_to_try_again_in_whole_seconds(self, client):
        assert client.get("/fails/overloaded").headers["retry-after"] == "3"

    def test_a_dependency_that_is_down_says_when_to_try_again(self, client):
        assert int(client.get("/fails/unavailable").headers["retry-after"]) >= 1

    def test_an_answer_that_breaks_off_is_cut_and_shows_no_traceback(self):
        with TestClient(small_app()) as strict, pytest.raises(RuntimeError):
            strict.get("/breaks-off")


class TestErrorsOfTheFramework:
    def test_a_path_that_does_not_exist_is_404(self, client):
        assert problem(client.get("/nowhere")).code == "not_found"

    def test_a_method_that_a_path_does_not_take_is_405_and_names_all_it_takes(self, client):
        response = client.put("/orders/1")
        assert problem(response).code == "method_not_allowed"
        assert response.headers["allow"] == "GET, HEAD, OPTIONS"

    def test_a_field_out_of_range_is_422_and_named_but_not_repeated(self, client):
        response = client.post("/orders", json={"count": 4711})
        found = problem(response)
        assert found.code == "malformed"
        assert found.errors[0]["loc"] == ["body", "count"]
        assert "4711" not in response.text

    @pytest.mark.parametrize(
        "content",
        [
            b"{",
            b'{"count": NaN}',
            b"\xff\xfe{}",
            b"[" * 9000,
            b'{"count": ' + b"9" * 5000 + b"}",
            b'{"count": 1, "\\ud800": 1}',
            b'{"count": "\\ud800"}',
            b"null",
            b"[]",
            b"",
        ],
        ids=["cut", "nan", "no_text", "deep", "long_number", "surrogate_name", "surrogate", "null", "list", "nothing"],
    )
    def test_a_body_that_is_no_order_is_422(self, client, content):
        assert problem(client.post("/orders", content=content, headers=JSON)).code == "malformed"

    @pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "image/png", ""])
    def test_a_body_that_is_not_json_is_415(self, client, media_type):
        response = client.post("/orders", content=b'{"count": 1}', headers={"Content-Type": media_type})
        assert problem(response).code == "unsupported_media_type"

    def test_a_body_that_announces_too_much_is_413_and_is_not_read(self, client):
        response = client.post("/orders", content=b"x" * 20_000, headers=JSON)
        assert problem(response).code == "too_large"
        assert response.headers["connection"] == "close"

    def test_a_body_without_announced_length_is_413_when_it_grows_too_large(self, client):
        pieces = (b"x" * 1000 for _ in range(20))
        assert problem(client.post("/orders", content=pieces, headers=JSON)).code == "too_large"

    def test_many_wrong_fields_are_counted_and_the_first_are_named(self, client):
        body = {"count": 1, **{f"unknown{i}": 0 for i in range(50)}}
        found = problem(client.post("/orders", json=body))
        assert len(found.errors) == 20
        assert "49 more problems" in found.detail


class TestMethodsThatAskAboutAPath:
    def test_head_is_get_without_a_body(self, client):
        response = client.head("/orders/3")
        assert (response.status_code, response.content) == (200, b"")

    def test_head_of_an_endless_stream_ends(self, client):
        response = client.head("/stream")
        assert (response.status_code, response.content) == (200, b"")

    def test_options_names_the_methods(self, client):
        response = client.options("/orders/3")
        assert (response.status_code, response.headers["allow"]) == (204, "GET, HEAD, OPTIONS")

    def test_options_of_nothing_names_none_but_itself(self, client):
        assert client.options("/nowhere").headers["allow"] == "OPTIONS"


class TestDocument:
    def test_says_that_errors_are_problems(self, client):
        document = client.get("/openapi.json").json()
        responses = document["paths"]["/orders"]["post"]["responses"]
        assert responses["4XX"] == responses["5XX"] == {"$ref": "#/components/responses/Problem"}
        assert list(document["components"]["responses"]["Problem"]["content"]) == ["application/problem+json"]

    def test_says_nothing_of_the_frameworks_own_errors(self, client):
        assert "HTTPValidationError" not in json.dumps(client.get("/openapi.json").json())

    def test_is_there_for_people_too(self, client):
        page = client.get("/docs")
        assert page.status_code == 200 and "/orders" in page.text
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
