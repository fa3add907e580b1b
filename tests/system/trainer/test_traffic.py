"""What happens by itself, in processes: recorded traffic is judged and learned from, and old rounds are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from fashiondpo.messages import FeedbackRequest, Vote
from fashiondpo.storage.redis_connection import PREFIX, connect
from services.trainer.opening import all_jobs
from services.trainer.queue import UPKEEP
from services.trainer.stores import champion_of
from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S, SMALL, ModuleProcess, WorkerProcess

SETS = 6


def served(deployment) -> list[str]:
    """Ids of sets that people asked for, and that were recorded."""
    outfits = [
        {"user_id": user, "slots": [{"category_id": 0}, {"item_id": user + 1}, {"item_id": user + 7}]}
        for user in range(SETS)
    ]
    body = {"outfits": outfits, "num_candidates": 3, "record": True}
    answer = httpx.post(f"{deployment.generator.url}/generate", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return [candidate_set["set_id"] for candidate_set in answer.json()["candidate_sets"]]


@pytest.fixture(scope="module")
def continuous() -> dict[str, object]:
    """Settings of a trainer that starts rounds over traffic by itself."""
    request = SMALL.model_copy(update={"source": "traffic", "outfits": SETS, "weights": {"quality": 1, "votes": 1}})
    return {
        "continuous_sets": SETS,
        "continuous_check_s": 0.5,
        "continuous_request": request.model_dump_json(exclude_unset=True),
        "keep_rounds": 1,
        "keep_check_s": 1,
    }


@pytest.fixture(scope="module")
def learner(deployment, continuous) -> Iterator[WorkerProcess]:
    """A worker with those settings."""
    deployment.end_shared_worker()
    with deployment.worker(**continuous) as worker:
        yield worker


@pytest.fixture
def beat(deployment, continuous) -> Iterator[ModuleProcess]:
    """A beat with those settings."""
    environment = deployment.trainer_environment(**continuous)
    with ModuleProcess(["services.trainer", "beat"], environment, deployment.folder / "beat-2.log") as started:
        yield started


@pytest.fixture
def new_round(deployment) -> Callable[[], str | None]:
    """The newest round, once there is one that was not there before the test."""
    before = {job.round_id for job in deployment.stores.jobs.page(limit=1000).jobs}

    def look() -> str | None:
        newest = deployment.stores.jobs.page(limit=1).jobs
        return newest[0].round_id if newest and newest[0].round_id not in before else None

    return look


def serve_with_the_champion(deployment) -> list[str]:
    """Traffic of the version that rounds learn from."""
    champion = champion_of(deployment.stores).version
    active = lambda: httpx.get(f"{deployment.generator.url}/adapters").json()["active"]["version"]  # noqa: E731
    eventually(lambda: active() == champion, within_s=PATIENCE_S)
    return served(deployment)


def test_round_starts_by_itself_when_enough_served_outfits_were_judged_and_learns_from_them(
    deployment, learner, beat, new_round
):
    set_ids = serve_with_the_champion(deployment)
    with deployment.client as client:
        voted = FeedbackRequest(
            set_id=set_ids[0], voter_id="ann", votes=(Vote(candidate_id=f"{set_ids[0]}-0", value=1),)
        )
        assert client.feedback(voted).voters == 1
    view = deployment.ended(eventually(new_round, within_s=PATIENCE_S))
    assert view.state == "succeeded", (view.problem, learner.log()[-3000:])
    assert view.source == "traffic"
    assert set(view.record.set_ids) == set(set_ids)
    assert len(deployment.versions_of(view.round_id)) == 1
    assert deployment.stores.traffic.backlogs() == ()
    assert {score.criterion for score in deployment.stores.feedback.scored(set_ids[0]).scores} >= {"quality", "votes"}


@pytest.mark.slow
def test_continuous_mode_goes_on_with_a_beat_that_was_killed_and_one_that_was_told_to_end(
    deployment, learner, beat, mortal_beat, new_round
):
    for one in (beat, mortal_beat):
        one.kill9()
    reminders = connect(deployment.valkey.url)
    eventually(lambda: not reminders.llen(f"{PREFIX}:queue:{UPKEEP}"), within_s=PATIENCE_S)
    set_ids = serve_with_the_champion(deployment)
    assert new_round() is None and deployment.stores.traffic.backlogs() == ()
    beat.start()
    round_id = eventually(new_round, within_s=PATIENCE_S)
    beat.terminate()
    assert beat.ended() == 0
    mortal_beat.start()
    view = deployment.ended(round_id)
    assert (view.state, view.source) == ("succeeded", "traffic"), (view.problem, learner.log()[-3000:])
    assert set(view.record.set_ids) == set(set_ids)
    assert len(deployment.versions_of(round_id)) == 1


def test_old_rounds_are_removed_by_a_worker_and_the_champion_s_round_and_the_newest_stay(deployment, learner, beat):
    rounds = [deployment.train() for _ in range(2)]
    for round_id in rounds:
        assert deployment.ended(round_id).state == "succeeded", learner.log()[-3000:]
    adapters, feedback = deployment.stores.adapters, deployment.stores.feedback
    versions = adapters.versions()
    aliases = (adapters.alias("champion"), adapters.alias("previous"))
    staying = {rounds[-1], *(adapters.manifest(version).round_id for version in aliases if version)}
    eventually(lambda: {job.round_id for job in all_jobs(deployment.stores)} == staying, within_s=PATIENCE_S)
    assert set(feedback.round_ids()) == staying
    assert {path.name for path in (deployment.folder / "training").iterdir()} <= staying
    assert adapters.versions() == versions and all(adapters.weights(version) for version in versions)
    with deployment.client as client:
        assert {view.round_id for view in client.all_rounds()} == staying
