"""A judge is slow or talks nonsense in the middle of a round: nothing is guessed, and every candidate is scored once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.bending_proxy import Bend, BendingProxy, instead, rewritten
from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S, WorkerProcess

TIMEOUT_S = 3.0
PAGE = "<!doctype html><title>Welcome</title><p>It works!</p>"
PROBLEM = json.dumps({"type": "about:blank", "title": "Service Unavailable", "status": 503, "code": "unavailable"})


def of_scores(change: Callable[[list[dict[str, Any]]], object]) -> Bend:
    """A bend of the list of scores alone."""

    def changed(text: str) -> str:
        body = json.loads(text)
        change(body["scores"])
        return json.dumps(body)

    return rewritten(changed)


NONSENSE: dict[str, tuple[Bend, str]] = {
    "a value that is no number": (of_scores(lambda scores: scores[0].update(value=float("nan"))), "finite"),
    "a value out of its range": (of_scores(lambda scores: scores[-1].update(value=1e9)), "outside"),
    "a score too few": (of_scores(lambda scores: scores.pop()), "got 5"),
    "a score too many": (of_scores(lambda scores: scores.append(dict(scores[0]))), "got 7"),
    "another order": (of_scores(lambda scores: scores.reverse()), "asked for the score of"),
    "the score of another's candidate": (
        of_scores(lambda scores: scores[0].update(candidate_id="a-stranger")),
        "'a-stranger'",
    ),
    "another judge's scores": (
        of_scores(lambda scores: [score.update(judge_version="of-before") for score in scores]),
        "another judge's",
    ),
    "half an answer": (rewritten(lambda text: text[: len(text) // 2]), "ScoreResponse"),
    "a page for people": (instead(PAGE, media_type="text/html"), "ScoreResponse"),
    "a problem that calls itself well": (instead(PROBLEM, media_type="application/problem+json"), "ScoreResponse"),
}
"""How a judge answers wrongly with status 200, and what the round says of it. Two sets of three are judged at once."""


@pytest.fixture(scope="module")
def faulty(deployment) -> Iterator[BendingProxy]:
    """The first judge, as the worker of this module sees it."""
    with BendingProxy(deployment.judges[0].url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def impatient(deployment, faulty) -> Iterator[WorkerProcess]:
    """A worker that waits only shortly for the judges, one of which it sees through the proxy."""
    deployment.end_shared_worker()
    urls = json.dumps([faulty.url, *(judge.url for judge in deployment.judges[1:])])
    with deployment.worker(judge_urls=urls, service_timeout_s=TIMEOUT_S) as worker:
        yield worker


def check_scored_once_and_published_once(deployment, round_id: str, log: str) -> None:
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), log[-3000:]
    assert len(deployment.versions_of(round_id)) == 1
    scored = list(deployment.stores.feedback.scored_sets(round_id))
    assert len(scored) == 12
    for found in scored:
        counted = Counter((score.candidate_id, score.criterion) for score in found.scores if score.value is not None)
        assert set(counted.values()) == {1} and len(counted) == 9


def scores_of(deployment, sets: str) -> list[str]:
    """Criteria of all scores kept so far."""
    return [score.criterion for scored in deployment.stores.feedback.scored_sets(sets) for score in scored.scores]


def versions_of_scores(deployment, sets: str) -> Counter[str]:
    """How many scores each version of the first judge has given."""
    scored = deployment.stores.feedback.scored_sets(sets)
    return Counter(s.judge_version for found in scored for s in found.scores if s.criterion == "quality")


def waits_because(deployment, round_id: str, words: str) -> None:
    def says() -> bool:
        view = deployment.round(round_id)
        assert view.state in ("queued", "running"), view.problem
        return view.problem is not None and words in (view.problem.detail or "")

    eventually(says, within_s=PATIENCE_S)
    assert deployment.round(round_id).problem.status == 503


def test_judge_that_talks_nonsense_of_every_kind_is_asked_until_it_makes_sense(deployment, faulty, impatient):
    faulty.bend(NONSENSE["half an answer"][0], "/score")
    round_id = deployment.train()
    for bend, words in NONSENSE.values():
        faulty.bend(bend, "/score")
        waits_because(deployment, round_id, words)
        assert scores_of(deployment, round_id) == []
    faulty.heal()
    check_scored_once_and_published_once(deployment, round_id, impatient.log())


@pytest.mark.slow
def test_judge_that_answers_too_late_for_a_while_is_waited_for_and_what_it_said_before_is_kept(
    deployment, faulty, impatient
):
    faulty.bend(faulty.late, "/score", after=2)
    round_id = deployment.train()
    waits_because(deployment, round_id, "gave no answer within")
    kept = scores_of(deployment, round_id)
    assert kept == ["quality"] * 12
    faulty.heal()
    check_scored_once_and_published_once(deployment, round_id, impatient.log())


@pytest.mark.slow
def test_judge_that_talks_nonsense_while_the_gate_asks_it_is_asked_again_and_nothing_is_decided_before(
    deployment, faulty, impatient
):
    faulty.bend(NONSENSE["a value that is no number"][0], "/score", after=6)
    round_id = deployment.train()
    waits_because(deployment, round_id, "finite")
    assert deployment.round(round_id).record.stage == "gate"
    faulty.bend(NONSENSE["a page for people"][0], "/score")
    waits_because(deployment, round_id, "ScoreResponse")
    assert scores_of(deployment, f"gate-{round_id}-before") == []
    assert deployment.versions_of(round_id) == []
    faulty.heal()
    check_scored_once_and_published_once(deployment, round_id, impatient.log())


@pytest.mark.slow
def test_judge_that_is_replaced_by_a_retrained_one_judges_all_of_the_round_again(deployment, faulty, impatient):
    version = httpx.get(f"{faulty.url}/info").json()["version"]
    retrained = rewritten(lambda text: text.replace(f'"{version}"', '"retrained"'))
    faulty.bend(retrained, "/score", after=1)
    round_id = deployment.train()
    waits_because(deployment, round_id, "do not compare")
    assert versions_of_scores(deployment, round_id) == {version: 6}
    faulty.bend(retrained, "/score", "/info")
    check_scored_once_and_published_once(deployment, round_id, impatient.log())
    assert versions_of_scores(deployment, round_id) == {"retrained": 36}
