"""Continuous mode in processes: what people were served is recorded, judged, and learned from, by itself."""

from __future__ import annotations

import httpx

from fashiondpo.messages import FeedbackRequest, Vote
from services.trainer.stores import champion_of
from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S, SMALL, ModuleProcess

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


def test_round_starts_by_itself_when_enough_served_outfits_were_judged_and_learns_from_them(
    deployment, only_own_workers
):
    champion = champion_of(deployment.stores).version
    active = lambda: httpx.get(f"{deployment.generator.url}/adapters").json()["active"]["version"]  # noqa: E731
    eventually(lambda: active() == champion, within_s=PATIENCE_S)
    request = SMALL.model_copy(update={"source": "traffic", "outfits": SETS, "weights": {"quality": 1, "votes": 1}})
    settings = {
        "continuous_sets": SETS,
        "continuous_check_s": 0.5,
        "continuous_request": request.model_dump_json(exclude_unset=True),
    }
    before = {job.round_id for job in deployment.stores.jobs.page(limit=1000).jobs}
    set_ids = served(deployment)
    with deployment.client as client:
        voted = FeedbackRequest(
            set_id=set_ids[0], voter_id="ann", votes=(Vote(candidate_id=f"{set_ids[0]}-0", value=1),)
        )
        assert client.feedback(voted).voters == 1
    environment = deployment.trainer_environment(**settings)
    with (
        ModuleProcess(["services.trainer", "beat"], environment, deployment.folder / "beat-2.log"),
        deployment.worker(**settings) as worker,
    ):

        def new_round() -> str | None:
            newest = deployment.stores.jobs.page(limit=1).jobs
            return newest[0].round_id if newest and newest[0].round_id not in before else None

        view = deployment.ended(eventually(new_round, within_s=PATIENCE_S))
    assert view.state == "succeeded", (view.problem, worker.log()[-3000:])
    assert view.source == "traffic"
    assert set(view.record.set_ids) == set(set_ids)
    assert len(deployment.versions_of(view.round_id)) == 1
    assert deployment.stores.traffic.backlogs() == ()
    assert {score.criterion for score in deployment.stores.feedback.scored(set_ids[0]).scores} >= {"quality", "votes"}
