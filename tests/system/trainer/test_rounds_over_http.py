"""A whole round over HTTP, with real services, a real queue and a real worker."""

from __future__ import annotations

import httpx

from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S


class TestRoundOverHttp:
    def test_collects_judges_trains_decides_and_publishes_one_adapter_that_the_generator_serves(
        self, deployment, worker
    ):
        round_id = deployment.train()
        with deployment.client as client:
            events = list(client.events(round_id))
        view = deployment.ended(round_id)
        assert view.state == "succeeded", (view.problem, worker.log()[-3000:])
        assert [event.details["state"] for event in events if event.kind == "state"] == [
            "queued",
            "running",
            "succeeded",
        ]
        assert [event.details["stage"] for event in events if event.kind == "stage"] == [
            "judge",
            "pair",
            "train",
            "gate",
            "publish",
            "done",
        ]
        assert len(view.metrics) == 12
        assert view.record.verdict is not None and view.record.verdict.outfits == 8
        assert set(view.record.seconds) == {"collect", "judge", "pair", "train", "gate", "publish"}
        (version,) = deployment.versions_of(round_id)
        assert view.record.published.version == version
        if view.record.verdict.is_promoted:
            active = lambda: httpx.get(f"{deployment.generator.url}/adapters").json()["active"]["version"]  # noqa: E731
            assert eventually(lambda: active() == version, within_s=PATIENCE_S)

    def test_child_of_the_worker_was_spawned_and_its_main_process_never_loads_torch(self, deployment, worker):
        deployment.ended(deployment.train())
        assert any("spawn_main" in word for word in worker.child().cmdline())
        mapped = {region.path for region in worker.child().memory_maps()}
        assert any("libtorch" in path for path in mapped)
        assert not any("libtorch" in region.path for region in worker.main.memory_maps())

    def test_model_stays_loaded_between_rounds(self, deployment, worker):
        before = worker.log().count("bundle loaded")
        deployment.ended(deployment.train())
        assert worker.log().count("bundle loaded") == before
