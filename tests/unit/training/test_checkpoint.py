"""Training state on disk: whole or not there."""

import json

import pytest
import torch
from safetensors.torch import save
from torch import nn

from fashiondpo.errors import Conflict, DataFileError
from fashiondpo.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

RUN = "a" * 64


def state(updates):
    """Parameters and optimiser after some updates of a small problem."""
    parameters = [nn.Parameter(torch.arange(6.0).view(2, 3)), nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.AdamW(parameters, 0.1)
    for _ in range(updates):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()
    return parameters, optimizer


class TestCheckpoint:
    @pytest.mark.parametrize("updates", [0, 1, 3])
    def test_restores_parameters_and_optimiser_to_the_last_bit(self, tmp_path, updates):
        parameters, optimizer = state(updates)
        save_checkpoint(Checkpoint.of(parameters, optimizer, updates, RUN), tmp_path / "run" / "checkpoint")
        found = load_checkpoint(tmp_path / "run" / "checkpoint", RUN)
        others, other_optimizer = state(5)
        found.restore(others, other_optimizer)
        assert found.updates == updates
        for _ in range(2):  # what comes next is the same too
            for some, using in ((parameters, optimizer), (others, other_optimizer)):
                using.zero_grad()
                sum((p**3).sum() for p in some).backward()
                using.step()
            assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True))

    def test_is_a_copy_that_further_training_leaves_alone(self):
        parameters, optimizer = state(1)
        checkpoint = Checkpoint.of(parameters, optimizer, 1, RUN)
        before = checkpoint.parameters[0].clone()
        parameters[0].grad = torch.ones(2, 3)
        optimizer.step()
        assert torch.equal(checkpoint.parameters[0], before)
        assert not torch.equal(parameters[0], before)


class TestLoadCheckpoint:
    def test_finds_nothing_where_nothing_was_saved(self, tmp_path):
        assert load_checkpoint(tmp_path / "checkpoint", RUN) is None

    def test_refuses_the_state_of_another_run(self, tmp_path):
        save_checkpoint(Checkpoint.of(*state(1), 1, RUN), tmp_path / "checkpoint")
        with pytest.raises(Conflict, match="other data or settings; choose another folder"):
            load_checkpoint(tmp_path / "checkpoint", "b" * 64)

    @pytest.mark.parametrize("kept", [0, 4, 20, 200, -1])
    def test_names_a_file_that_was_cut_short(self, tmp_path, kept):
        path = tmp_path / "checkpoint"
        save_checkpoint(Checkpoint.of(*state(1), 1, RUN), path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataFileError, match=r"the checkpoint is damaged .* delete it to start over") as caught:
            load_checkpoint(path, RUN)
        assert caught.value.path == path

    @pytest.mark.parametrize(
        "metadata", [None, {"state": "3"}, {"state": "{}"}, {"state": json.dumps({"fingerprint": RUN})}]
    )
    def test_names_a_file_without_a_state(self, tmp_path, metadata):
        path = tmp_path / "checkpoint"
        path.write_bytes(save({"parameter.0": torch.zeros(1)}, metadata))
        with pytest.raises(DataFileError, match="the checkpoint is damaged"):
            load_checkpoint(path, RUN)

    def test_takes_no_notice_of_one_that_was_never_finished(self, tmp_path):
        path = tmp_path / "checkpoint"
        save_checkpoint(Checkpoint.of(*state(1), 1, RUN), path)
        (tmp_path / "checkpoint.unfinished").write_bytes(b"cut o")
        assert load_checkpoint(path, RUN).updates == 1
        save_checkpoint(Checkpoint.of(*state(2), 2, RUN), path)
        assert load_checkpoint(path, RUN).updates == 2
        assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
