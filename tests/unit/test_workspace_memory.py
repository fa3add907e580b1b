"""A run that is begun on a device with too little memory for its training."""

from __future__ import annotations

import pytest

from fashiondpo.errors import InvalidInput
from fashiondpo.run_settings import RunSettings
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.memory import DeviceMemory
from fashiondpo.workspace import Workspace
from tests.embedded_run import save_tiny_assets

SMALL = RunSettings(outfits=2, candidates=2, gate_outfits=2)
LESS = TrainSettings(visits_per_forward=1, gradient_checkpointing=True)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "run", mini_assets=save_tiny_assets(tmp_path / "assets"))


def on_a_device_with(workspace: Workspace, size: int) -> Workspace:
    workspace.memory_of = lambda _device: DeviceMemory(size, size)
    return workspace


class TestNewRound:
    def test_that_could_not_be_trained_is_refused_and_leaves_the_folder_to_other_settings(self, workspace):
        with pytest.raises(InvalidInput, match="lower visits_per_forward"):
            on_a_device_with(workspace, 1 << 20).next_round(SMALL)
        assert workspace.last_round() is None
        assert on_a_device_with(workspace, 1 << 40).next_round(SMALL).stage == "collect"

    def test_of_an_experiment_is_refused_by_what_it_will_train(self, workspace):
        with pytest.raises(InvalidInput) as refused:
            on_a_device_with(workspace, 1 << 20).next_round(SMALL, [LESS])
        with pytest.raises(InvalidInput) as by_default:
            workspace.next_round(SMALL)
        assert "(2 rows at once)" in str(refused.value)
        assert "(16 rows at once)" in str(by_default.value)
