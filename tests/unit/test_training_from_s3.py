"""Recorded runs, parents and adapters in S3, training folders on this machine: over HTTP, by the trainers' own code."""

from __future__ import annotations

import pytest

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.offline import LocalTrainer
from fashiondpo.storage.artifacts import FolderArtifacts
from services.generator.candidate_writer import CandidateWriter
from tests.joint_rounds import DEFAULT, joint_round
from tests.tiny_engines import ask, fill_in, paint, running_engine
from tests.tiny_models import build_tiny_bundle
from tests.tiny_rounds import same_weights


@pytest.fixture
def stored_in_s3(s3_url, tmp_path):
    return joint_round(tmp_path, FolderArtifacts(s3_url))


class TestTraining:
    def test_reads_from_s3_and_ends_with_the_bits_that_it_has_from_a_folder(self, stored_in_s3, tmp_path):
        adapter = stored_in_s3.alone(DEFAULT, tmp_path / "training")
        assert (tmp_path / "training" / "round-0001" / "checkpoint.safetensors").exists()
        assert adapter.weights in set(stored_in_s3.artifacts.refs())
        local = FolderArtifacts(tmp_path / "local")
        for ref in stored_in_s3.artifacts.refs():
            local.put(stored_in_s3.artifacts.get(ref), ref.rpartition(".")[2])
        trainer = LocalTrainer(stored_in_s3.bundle, local, stored_in_s3.adapters, DEFAULT, tmp_path / "again")
        again = trainer.train("round-0001", stored_in_s3.sets, stored_in_s3.pairs, AdapterRef())
        assert again.weights == adapter.weights

    @pytest.mark.slow
    def test_by_two_processes_finds_endpoint_and_keys_in_the_environment(self, stored_in_s3, tmp_path):
        together = stored_in_s3.together(DEFAULT, tmp_path / "together")
        again = stored_in_s3.together(DEFAULT, tmp_path / "again")
        assert same_weights(stored_in_s3.weights(together), stored_in_s3.weights(again))


class TestGeneratorsWriter:
    def test_puts_pictures_and_trajectories_into_s3(self, s3_url, painted):
        store = FolderArtifacts(s3_url)
        written = CandidateWriter(store).write(painted, is_recorded=True, joins_traffic=False)
        assert set(store.refs()) == {written.trajectory, *(c.image for c in written.candidates)}
        assert Trajectory.from_bytes(store.get(written.trajectory)).seeds == painted.trajectory.seeds


@pytest.fixture
def painted():
    """What an engine has finished."""
    with running_engine(build_tiny_bundle()) as engine:
        return paint(engine, ask("request", fill_in(0, (1, 2))))[0]
