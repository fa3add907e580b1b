"""Judges in trouble: models that answer nonsense or nothing, stores that are down, more requests than there is room for."""

import asyncio
import threading
import time
from collections.abc import Sequence

import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi.testclient import TestClient

from fashiondpo.contracts import JudgeInfo, Score
from fashiondpo.errors import InvalidBundle, Unavailable
from fashiondpo.judges.base import JudgeInput, Outcome, Scored, Unscored, to_scores
from fashiondpo.outfits.model import DataSet
from fashiondpo.serving.judge_settings import JudgeSettings
from fashiondpo.serving.judging import LoadedJudge, create_judge_app
from tests.api.judges.judge_apps import candidates, serving
from tests.api.small_service import KEYS, PAINTER, READER, bearer
from tests.polling import eventually

INFO = JudgeInfo(criterion="quality", version="brightness", low=0, high=255)


class Brightness:
    """Scores by brightness, one candidate after the other; `on_score` may do something first."""

    info = INFO

    def __init__(self, on_score=lambda inputs: None) -> None:
        self.on_score = on_score
        self.batches: list[int] = []

    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        self.batches.append(len(inputs))
        self.on_score(inputs)
        outcomes: list[Outcome] = [Scored(float(one.image.mean())) for one in inputs]
        return to_scores(inputs, INFO, outcomes)


def app_of(judge, **settings):
    return create_judge_app(lambda _: LoadedJudge(judge), JudgeSettings(**settings), title="Brightness")


def score_all(client: TestClient, items: list[dict]) -> list[dict]:
    response = client.post("/score", json={"candidates": items})
    assert response.status_code == 200, response.text
    return response.json()["scores"]


@pytest.fixture
def items(data: DataSet) -> list[dict]:
    return candidates(data, 8)


class TestModelThatFails:
    def test_on_one_candidate_leaves_only_that_one_without_a_score(self, items):
        def refuse(inputs: Sequence[JudgeInput]) -> None:
            if any(one.candidate_id == "c-5" for one in inputs):
                raise RuntimeError("password=hunter2")

        with serving(app_of(Brightness(refuse))) as client:
            scores = score_all(client, items)
        assert [score["value"] is None for score in scores] == [n == 5 for n in range(8)]
        assert scores[5]["reason"] == "judge_failed: the model raised RuntimeError"
        assert scores[5]["is_final"] is False

    def test_on_everything_gives_every_candidate_the_reason_and_no_500(self, items):
        def refuse(_inputs: Sequence[JudgeInput]) -> None:
            raise MemoryError

        with serving(app_of(Brightness(refuse))) as client:
            assert {score["reason"] for score in score_all(client, items)} == {
                "judge_failed: the model raised MemoryError"
            }

    def test_with_an_error_of_ours_gives_its_code(self, items):
        def refuse(_inputs: Sequence[JudgeInput]) -> None:
            raise Unavailable("the language model does not answer")

        with serving(app_of(Brightness(refuse))) as client:
            (score,) = score_all(client, items[:1])
        assert (score["reason"], score["is_final"]) == ("unavailable: the language model does not answer", False)

    def test_by_giving_nan_gives_the_reason_non_finite(self, items):
        class NotANumber(Brightness):
            def score(self, inputs):
                return to_scores(inputs, INFO, [Scored(float("nan"))] * len(inputs))

        with serving(app_of(NotANumber())) as client:
            assert all(score["reason"].startswith("non_finite") for score in score_all(client, items))

    @pytest.mark.parametrize("nonsense", ["nothing", "too few", "others", "in another order"])
    def test_by_answering_nonsense_gives_every_candidate_the_reason(self, items, nonsense):
        class Nonsense(Brightness):
            def score(self, inputs):
                scores = super().score(inputs)
                renamed = [score.model_copy(update={"candidate_id": f"{score.candidate_id}x"}) for score in scores]
                return {"nothing": None, "too few": scores[1:], "others": renamed, "in another order": renamed[::-1]}[
                    nonsense
                ]

        with serving(app_of(Nonsense())) as client:
            assert all(score["reason"].startswith("judge_failed") for score in score_all(client, items))


class TestLoading:
    def test_meanwhile_the_service_lives_and_says_how_far_it_is_and_scores_are_503(self, items):
        begun, may_finish = threading.Event(), threading.Event()

        def load(progress):
            progress(3, 9, {})
            begun.set()
            assert may_finish.wait(30)
            return LoadedJudge(Brightness())

        with TestClient(create_judge_app(load, JudgeSettings(), title="Slow")) as client:
            assert begun.wait(30)
            ready, score, info = (
                client.get("/readyz"),
                client.post("/score", json={"candidates": items}),
                client.get("/info"),
            )
            assert client.get("/livez").status_code == 200
            may_finish.set()
            eventually(lambda: client.get("/readyz").status_code == 200)
            assert client.post("/score", json={"candidates": items}).status_code == 200
        assert (ready.status_code, ready.json()["checks"]["judge"]) == (503, "loading, 3 of 9")
        assert (score.status_code, info.status_code) == (503, 503)
        assert score.json()["code"] == "unavailable" and "retry-after" in score.headers

    def test_that_fails_ends_the_service(self):
        def load(_progress):
            raise InvalidBundle("there are no weights")

        app = create_judge_app(load, JudgeSettings(), title="Broken")
        with TestClient(app) as client:
            eventually(lambda: app.state.lifetime.failure is not None)
            assert client.get("/readyz").json()["checks"]["judge"] == "loading failed"
        assert str(app.state.lifetime.failure) == "there are no weights"

    def test_is_given_up_when_the_service_ends(self):
        stopped = threading.Event()

        def load(progress):
            try:
                while True:
                    progress(0, 1, {})
                    time.sleep(0.005)
            finally:
                stopped.set()

        with TestClient(create_judge_app(load, JudgeSettings(), title="Slow")):
            pass
        assert stopped.wait(10)


class TestArtifactStoreThatIsDown:
    def test_is_named_by_readyz_and_leaves_candidates_open_for_a_later_attempt(self, items, monkeypatch):
        from fsspec.implementations.memory import MemoryFileSystem

        asked = []

        def fail(self, path, **_):
            asked.append(path)
            raise OSError("no route to host")

        with serving(app_of(Brightness(), artifacts_url="memory://store", read_threads=1)) as client:
            monkeypatch.setattr(MemoryFileSystem, "info", fail)
            monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
            ready = client.get("/readyz")
            asked.clear()
            lost = [{**item, "image": None, "artifact": f"{n:064x}.png"} for n, item in enumerate(items)]
            scores = score_all(client, [*lost, {**items[0], "candidate_id": "sent"}])
        assert ready.status_code == 503 and "does not answer" in ready.json()["checks"]["artifacts"]
        assert {(score["reason"].split(":")[0], score["is_final"]) for score in scores[:-1]} == {("unavailable", False)}
        assert scores[-1]["value"] is not None
        assert len(asked) == 1  # not once per candidate


class TestOverload:
    def test_at_five_times_the_room_gives_only_200_and_429_and_every_accepted_score(self, items):
        judge = Brightness(lambda inputs: time.sleep(0.002 * len(inputs)))
        app = app_of(judge, max_queued=64, max_batch=16)

        async def scenario() -> list[httpx.Response]:
            async with (
                LifespanManager(app),
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=60) as client,
            ):
                while (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.01)
                asked = [client.post("/score", json={"candidates": items}) for _ in range(40)]
                return await asyncio.gather(*asked)

        answers = asyncio.run(scenario())
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 8
        assert all(
            answer.json()["scores"][7]["candidate_id"] == "c-7" for answer in answers if answer.status_code == 200
        )
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
        assert app.state.metrics.requests_in_work._value.get() == 0

    def test_requests_that_come_together_share_batches(self, items):
        judge = Brightness(lambda _: time.sleep(0.02))
        app = app_of(judge, max_batch=64)

        async def scenario() -> None:
            async with (
                LifespanManager(app),
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
            ):
                while (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.01)
                await asyncio.gather(*(client.post("/score", json={"candidates": items[:2]}) for _ in range(20)))

        asyncio.run(scenario())
        assert sum(judge.batches) == 40
        assert len(judge.batches) < 15


class TestDoorOfAJudge:
    def test_scoring_needs_the_scope_generate_and_asking_what_it_is_needs_any_key(self, items, open_app):
        with serving(open_app("quality", api_keys=KEYS)) as client:
            statuses = [
                client.request(
                    method, path, headers=headers, json={"candidates": items} if path == "/score" else None
                ).status_code
                for method, path, headers in (
                    ("POST", "/score", {}),
                    ("POST", "/score", bearer(READER)),
                    ("POST", "/score", bearer(PAINTER)),
                    ("GET", "/info", {}),
                    ("GET", "/info", bearer(READER)),
                )
            ]
        assert statuses == [401, 403, 200, 401, 200]


class TestFiguresOfAJudge:
    def test_tell_of_batches_scores_latency_and_the_queue(self, items, open_app):
        with serving(open_app("quality")) as client:
            score_all(client, [*items, {**items[0], "slot": 9}])
            text = client.get("/metrics").text
        assert "fashiondpo_judge_batch_size_sum 9.0" in text
        assert 'fashiondpo_judge_scores_total{outcome="scored"} 8.0' in text
        assert 'fashiondpo_judge_scores_total{outcome="unscored"} 1.0' in text
        assert "fashiondpo_judge_queued_candidates 0.0" in text
        assert "fashiondpo_judge_score_seconds_count 1.0" in text
        assert 'fashiondpo_http_requests_total{method="POST",route="/score",status="200"} 1.0' in text


def test_an_unscored_outcome_is_what_a_reader_gives_for_a_broken_decoder(items, monkeypatch):
    from fashiondpo.serving import judge_inputs

    def broken(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(judge_inputs, "decode_image", broken)
    with serving(app_of(Brightness())) as client:
        (score,) = score_all(client, items[:1])
    assert score["reason"] == "invalid_input: the candidate cannot be read (ZeroDivisionError)"
    assert Unscored(score["reason"]).is_final == score["is_final"]
