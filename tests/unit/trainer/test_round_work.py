"""What a worker does with a round before it asks anybody for anything."""

from __future__ import annotations

import pytest

from fashiondpo.contracts import AdapterRef
from fashiondpo.run_settings import RunSettings
from fashiondpo.training.memory import DeviceMemory
from services.trainer.models import WorkerModels
from services.trainer.opening import open_ordered_round
from services.trainer.orders import RoundOrder
from services.trainer.peers import Peers
from services.trainer.round_work import RoundWorker
from services.trainer.settings import TrainerSettings
from tests.small_catalogue import save_small_catalogue
from tests.tiny_models import saved_tiny_bundle
from tests.unit.clients.unruly_server import closed_port
from tests.unit.trainer.errands import Shop

SMALL = RunSettings(outfits=2, candidates=2, gate_outfits=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    saved_tiny_bundle(folder / "bundle")
    save_small_catalogue(folder / "catalogue")
    return WorkerModels(TrainerSettings(bundle=str(folder / "bundle"), data_set=str(folder / "catalogue")))


@pytest.fixture
def shop(tmp_path):
    return Shop.at(tmp_path)


@pytest.fixture
def worked(models, shop, tmp_path):
    """Lets a worker on a device with so much memory work on a new round; nobody paints or judges for it."""
    nobody = closed_port()

    def work(memory: DeviceMemory | None):
        order = RoundOrder(asked={}, settings=SMALL, adapter=AdapterRef(), key="one")
        round_id = open_ordered_round(order, stores=shop.stores, queue=shop.queue).round_id
        worker = RoundWorker(models, Peers(nobody, (nobody,)), tmp_path, 8, str(tmp_path), lambda _device: memory)
        end = shop.advance(round_id, worker)
        return end, shop.job(round_id)

    return work


class TestRoundThatHasPaintedNothing:
    def test_fails_at_once_if_its_training_would_not_fit_into_the_device(self, worked):
        end, job = worked(DeviceMemory(free=1 << 20, whole=1 << 20))
        assert (end.kind, job.state, job.problem.code) == ("failed", "failed", "invalid_input")
        assert "but the device has 1.0 MiB: lower visits_per_forward" in job.problem.detail

    @pytest.mark.parametrize("memory", [DeviceMemory(free=1 << 40, whole=1 << 40), None])
    def test_goes_to_the_generator_if_it_would_fit_or_the_device_does_not_say(self, worked, memory):
        end, job = worked(memory)
        assert (end.kind, job.state, job.problem.code) == ("wait", "running", "unavailable")
