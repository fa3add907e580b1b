"""All images together, as docker-compose.yml says: keys, volumes, queue, and a whole round. `make images` runs this."""

import pytest

from tests.deployment.composition import LISTENING
from tests.deployment.running_images import PORTS, Composition, are_there
from tests.polling import eventually

pytestmark = pytest.mark.slow

ROUND = {
    "outfits": 12,
    "candidates": 3,
    "gate_outfits": 8,
    "training": {"passes": 1, "outfits_per_update": 4, "steps_per_outfit": 2},
    "gate": {"min_outfits": 2, "min_win_rate_low": 0.0, "min_diversity_ratio": 0.0, "max_fall": None},
    "sampler": {"num_inference_steps": 4},
}
SLOTS = [{"category_id": 4}, {"item_id": 34010}, {"item_id": 34011}, {"item_id": 34012}]
OUTFIT = {"outfits": [{"user_id": 624, "slots": SLOTS}], "num_candidates": 2}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    if not are_there():
        pytest.skip("needs root, buildah, and the images of `make images`")
    with Composition(tmp_path_factory.mktemp("composition")) as composition:
        yield composition


class TestRunningImages:
    @pytest.mark.parametrize("service", PORTS)
    def test_are_ready(self, running, service):
        status, readiness = running.answer(service, "/readyz")
        assert (status, readiness["is_ready"]) == (200, True)

    def test_let_nobody_in_without_a_key(self, running):
        assert running.answer("generator", "/generate", OUTFIT)[0] == 401
        assert running.answer("trainer", "/train", ROUND)[0] == 401

    def test_complete_an_outfit(self, running):
        status, generation = running.answer("generator", "/generate", OUTFIT, running.operator_key)
        assert status == 200, generation
        assert len(generation["candidate_sets"][0]["candidates"]) == 2

    def test_work_on_a_round_until_its_adapter_serves(self, running):
        status, started = running.answer("trainer", "/train", ROUND, running.operator_key)
        assert status == 202, started

        def ended():
            now = running.answer("trainer", f"/rounds/{started['round_id']}", key=running.operator_key)[1]
            return now if now["state"] in ("succeeded", "failed", "cancelled") else None

        view = eventually(ended, within_s=600)
        assert view["state"] == "succeeded", (view["problem"], running.containers["worker"].log())

        def served():
            return running.answer("generator", "/generate", OUTFIT, running.operator_key)[1]["adapter"]["version"] == 1

        if view["record"]["verdict"]["is_promoted"]:
            assert eventually(served, within_s=30)

    @pytest.mark.parametrize("service", [*reversed(LISTENING), "beat"])
    def test_stop_when_they_are_told_to(self, running, service):
        container = running.containers[service]
        assert container.stop() == 0, container.log()
