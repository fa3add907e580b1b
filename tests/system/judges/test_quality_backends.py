"""The quality judge as a process, with each of its backends, over real HTTP."""

import math
import time

import httpx
import pytest

from fashiondpo.clients.judge import JudgeClient
from fashiondpo.clients.retries import NO_RETRIES
from fashiondpo.messages import ScoreItem
from tests.model_server import completion
from tests.polling import eventually
from tests.service_process import ServiceProcess
from tests.system.judges.test_judge_process import body
from tests.tiny_vlm import save_tiny_vlm
from tests.unit.clients.unruly_server import Asked, answers, answers_with, closed_port, never_answers, unruly

GOOD = completion("H", {"H": math.log(0.5), "J": math.log(0.5)})


def items(count: int) -> list[ScoreItem]:
    return [ScoreItem.model_validate(item) for item in body(count)["candidates"]]


def answering(asked: Asked) -> bytes:
    return b"{}" if asked.method == "GET" else GOOD


class TestMini:
    def test_is_what_one_gets_unless_told_otherwise(self):
        with ServiceProcess("judge_quality") as process, JudgeClient(process.wait_until_ready().url) as client:
            assert client.info().version.startswith("mini-quality-")


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = save_tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny")
    with ServiceProcess("judge_quality", backend="local", weights=folder, levels=5, vlm_batch=4) as process:
        yield process.wait_until_ready()


@pytest.mark.slow
class TestLocal:
    def test_says_which_weights_and_which_rubric_it_has(self, judge):
        with JudgeClient(judge.url) as client:
            info = client.info()
        assert (info.criterion, info.low, info.high) == ("quality", 1, 5)
        assert info.version.startswith("minicpm-v-4.6-")
        assert "+float32+rubric-5-" in info.version

    def test_scores_every_candidate_and_tells_them_apart(self, judge):
        with JudgeClient(judge.url) as client:
            scores = client.score(items(6)).scores
            assert client.score(items(6)).scores == scores
        assert len({score.value for score in scores}) > 1
        assert all(1 <= score.value <= 5 and score.diagnostics["by"] == "probabilities" for score in scores)

    def test_without_its_model_ends_and_says_why(self, tmp_path):
        with ServiceProcess("judge_quality", backend="local", weights=tmp_path) as process:
            assert process.ended() == 1
            assert "config.json" in process.events("failed")[0]["reason"]

    def test_with_the_mini_network_for_a_model_does_not_start(self):
        with ServiceProcess("judge_quality", backend="local") as process:
            assert process.ended() != 0
            assert "JUDGE_QUALITY_WEIGHTS must be the folder" in process.text


class TestRemote:
    def test_asks_the_server_with_its_key_and_shows_neither_key_nor_pictures_in_its_log(self):
        with unruly(answers_with(answering)) as server:
            settings = {
                "vlm_url": server.url,
                "vlm_model": "m",
                "vlm_revision": "r",
                "vlm_api_key": "key-of-the-server",
            }
            with ServiceProcess("judge_quality", backend="remote", log_level="DEBUG", **settings) as process:
                with JudgeClient(process.wait_until_ready().url) as client:
                    answer = client.score(items(5))
                process.terminate()
                assert process.ended() == 0
        assert answer.judge.version.startswith("m@r+vllm+rubric-10-")
        assert [score.value for score in answer.scores] == [9.0] * 5
        questions = [asked for asked in server.asked if asked.method == "POST"]
        assert {asked.headers["authorization"] for asked in questions} == {"Bearer key-of-the-server"}
        assert "key-of-the-server" not in process.text
        assert "base64" not in process.text

    def test_takes_its_key_from_a_file_and_ends_if_that_is_not_there(self, tmp_path):
        with unruly(answers_with(answering)) as server:
            (tmp_path / "key").write_text("from-a-file\n")
            settings = {"backend": "remote", "vlm_url": server.url, "vlm_api_key_file": tmp_path / "key"}
            with (
                ServiceProcess("judge_quality", **settings) as process,
                JudgeClient(process.wait_until_ready().url) as c,
            ):
                c.score(items(1))
        assert server.asked[-1].headers["authorization"] == "Bearer from-a-file"
        with ServiceProcess(
            "judge_quality", backend="remote", vlm_url="http://h", vlm_api_key_file=tmp_path / "no"
        ) as p:
            assert p.ended() != 0
            assert "cannot be read" in p.text

    def test_lives_while_the_server_is_away_and_says_so_and_leaves_candidates_open(self):
        with ServiceProcess("judge_quality", backend="remote", vlm_url=closed_port(), vlm_tries=1) as process:
            eventually(lambda: process.events("loaded"), within_s=60)
            ready = httpx.get(f"{process.url}/readyz", timeout=10)
            assert (ready.status_code, ready.json()["checks"]["judge"]) == (503, "ok")
            assert "does not answer" in ready.json()["checks"]["model_server"]
            assert httpx.get(f"{process.url}/livez", timeout=10).status_code == 200
            with JudgeClient(process.url, retries=NO_RETRIES) as client:
                started = time.monotonic()
                scores = client.score(items(64)).scores
            assert {(score.value, score.is_final) for score in scores} == {(None, False)}
            assert any("in a row and is tried again" in score.reason for score in scores)
            assert time.monotonic() - started < 20
            assert process.events("model_server_left_alone")

    def test_scores_again_once_the_server_is_back(self):
        with unruly(*[answers("loading", 503)] * 4, answers_with(answering)) as server:
            settings = {"backend": "remote", "vlm_url": server.url, "vlm_tries": 1, "vlm_concurrency": 1}
            with ServiceProcess("judge_quality", **settings) as process, JudgeClient(process.url) as client:
                eventually(lambda: process.events("loaded"), within_s=60)
                first = client.score(items(1)).scores[0]
                assert (first.value, first.is_final) == (None, False)
                process.wait_until_ready()
                assert client.score(items(1)).scores[0].value == 9.0

    def test_that_waits_for_a_slow_server_ends_in_time_when_it_is_told_to(self):
        with unruly(answers_with(answering), never_answers) as server:
            settings = {"backend": "remote", "vlm_url": server.url, "vlm_timeout_s": 1.0, "vlm_tries": 1}
            with ServiceProcess("judge_quality", **settings) as process:
                with JudgeClient(process.wait_until_ready().url) as client:
                    scores = client.score(items(2)).scores
                assert {score.reason.split(":")[0] for score in scores} == {"deadline_exceeded"}
                process.terminate()
                assert process.ended(within_s=30) == 0

    def test_without_an_address_does_not_start(self):
        with ServiceProcess("judge_quality", backend="remote") as process:
            assert process.ended() != 0
            assert "JUDGE_QUALITY_VLM_URL is required" in process.text
