"""Training runs: what they learn, what they refuse, and that stopping them anywhere changes nothing."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.lora import load_adapter
from fashiondpo.diffusion.sampling import Visit, replay_log_probs
from fashiondpo.errors import Cancelled, Conflict, DataFileError, InvalidAdapter, InvalidInput, PolicyMismatch
from fashiondpo.training.config import TrainSettings, paper_settings, step_settings
from fashiondpo.training.metrics import read_metrics
from fashiondpo.training.plan import plan_updates, random_steps
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_models import TINY_SAMPLER, build_tiny_bundle, saved_tiny_bundle
from tests.tiny_rounds import PAIRS, SETTINGS, preference_sets, recorded, same_weights, short_training

DIFFUSION_DPO = SETTINGS.model_copy(update={"objective": "diffusion_dpo", "beta": 500.0})
DIFFUSION_NFT = SETTINGS.model_copy(update={"objective": "diffusion_nft", "beta": 1.0})
OBJECTIVES = pytest.mark.parametrize(
    "settings", [SETTINGS, DIFFUSION_DPO, DIFFUSION_NFT], ids=["d3po", "diffusion_dpo", "diffusion_nft"]
)
UPDATES = 8  # of short_training
KILLED_WHILE_IT_READS = """
import os, signal, sys
from pathlib import Path
from tests.tiny_rounds import short_training

reads = 0

def read():
    global reads
    reads += 1
    if reads == 14:
        os.kill(os.getpid(), signal.SIGKILL)

short_training(Path(sys.argv[1]), Path(sys.argv[2]), on_read=read).run()
"""


def changed(settings=SETTINGS, **changes):
    return TrainSettings.model_validate(settings.model_dump() | changes)


def output(bundle):
    generator = torch.Generator().manual_seed(0)
    inputs, prompt = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 24, 16, generator=generator)
    return bundle.unet(inputs, torch.tensor([500]), prompt).sample.detach()


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    """Saved, so that every process has the same one."""
    folder = tmp_path_factory.mktemp("bundle")
    saved_tiny_bundle(folder)
    return folder


@pytest.fixture
def begin(bundle_folder, tmp_path):
    """Prepares the short training, or picks it up where it was."""
    return lambda: short_training(bundle_folder, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(bundle_folder, tmp_path_factory):
    """The adapter and the metrics of the short training, without any interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    weights = short_training(bundle_folder, folder).run()
    return weights, timeless(folder)


def timeless(folder):
    """The metrics, less what the clock says."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_metrics(folder)]


class TestInterruptedRun:
    @pytest.fixture
    def finish(self, begin, tmp_path, uninterrupted):
        """Brings the run to its end, which is to the last bit the one it would have come to at once."""

        def run():
            trainer = begin()
            assert same_weights(trainer.run(), uninterrupted[0])
            assert timeless(tmp_path) == uninterrupted[1]
            assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, UPDATES + 1))

        return run

    @pytest.mark.parametrize("updates", [1, 3, 4])
    def test_goes_on_after_so_many_updates(self, begin, finish, updates):
        trainer = begin()
        assert trainer.run(max_updates=updates) is None
        assert (trainer.updates_done, trainer.is_finished) == (updates, False)
        assert begin().updates_done == updates
        finish()

    def test_goes_on_in_the_same_process(self, begin, uninterrupted):
        trainer = begin()
        found = [trainer.run(max_updates=1) for _ in range(UPDATES)]
        assert found[:-1] == [None] * (UPDATES - 1)
        assert same_weights(found[-1], uninterrupted[0])

    def test_goes_on_after_it_was_told_to_stop(self, begin, finish):
        trainer = begin()
        with pytest.raises(Cancelled, match="stopped after 3 of 8 updates"):
            trainer.run(should_stop=lambda: trainer.updates_done == 3)
        assert begin().updates_done == 3
        finish()

    def test_can_be_stopped_before_its_first_update(self, begin, finish):
        with pytest.raises(Cancelled, match="after 0 of 8"):
            begin().run(should_stop=lambda: True)
        finish()

    def test_goes_on_from_its_checkpoint_after_kill_9(self, repository, bundle_folder, tmp_path, begin, finish):
        # two reads while it is prepared and two per update, so the 14th is the second of the sixth update
        child = subprocess.run(
            [sys.executable, "-c", KILLED_WHILE_IT_READS, str(bundle_folder), str(tmp_path)],
            cwd=repository,
            env=os.environ | {"PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == -9, child.stderr
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
        assert begin().updates_done == 4, "a checkpoint every second update"
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
        finish()

    def test_makes_rows_after_the_checkpoint_again(self, begin, finish, tmp_path):
        begin().run(max_updates=4)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 5, "loss": 0.1}) + "\n" + '{"step": 6, "lo')
        finish()

    def test_makes_no_row_twice_where_earlier_ones_were_lost(self, begin, tmp_path):
        begin().run(max_updates=4)
        rows = read_metrics(tmp_path)
        lost = [rows[0], rows[3], rows[3] | {"step": 5}]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lost))
        begin().run()
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 4, 5, 6, 7, 8]

    def test_gives_its_adapter_again_once_it_is_finished(self, begin, finish):
        begin().run()
        assert begin().is_finished
        finish()


class TestResume:
    @pytest.fixture
    def begun(self, bundle, trajectories, tmp_path):
        """Opens a run in a folder where another one was begun."""
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), SETTINGS, tmp_path)
        trainer.run(max_updates=2)
        trainer.close()

        def resume(found=trajectories, pairs=PAIRS, settings=SETTINGS):
            return PreferenceTrainer(bundle, preference_sets(found, pairs), settings, tmp_path)

        return resume

    @pytest.mark.parametrize(
        "changes",
        [{"settings": changed(seed=1)}, {"settings": changed(learning_rate=2e-2)}, {"pairs": ((1, 0),)}],
        ids=["seed", "learning rate", "pairs"],
    )
    def test_refuses_the_checkpoint_of_other_data_or_settings(self, begun, changes):
        with pytest.raises(Conflict, match="belongs to a run with other data or settings"):
            begun(**changes)

    def test_refuses_the_checkpoint_of_other_outfits(self, begun, trajectories):
        with pytest.raises(Conflict, match="other data"):
            begun(trajectories[:2])

    def test_may_save_more_often_than_before(self, begun):
        assert begun(settings=changed(checkpoint_every=1)).updates_done == 2

    def test_names_a_damaged_checkpoint(self, begun, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(DataFileError, match=r"checkpoint\.safetensors: the checkpoint is damaged"):
            begun()

    @OBJECTIVES
    def test_leaves_the_base_model_as_it_was_when_it_refuses(
        self, bundle, parent, parent_ref, parent_trajectories, tmp_path, settings
    ):
        before = output(bundle)
        (tmp_path / "checkpoint.safetensors").write_bytes(b"no checkpoint")
        for _ in range(2):
            with pytest.raises(DataFileError):
                PreferenceTrainer(
                    bundle,
                    preference_sets(parent_trajectories),
                    settings,
                    tmp_path,
                    parent=parent,
                    parent_ref=parent_ref,
                )
            assert torch.equal(output(bundle), before)


class TestMicroBatching:
    @OBJECTIVES
    def test_the_adapter_does_not_depend_on_how_visits_are_split_into_forwards(self, trajectories, tmp_path, settings):
        metrics = {}
        for size in (1, 3, 100):
            bundle = build_tiny_bundle()
            trainer = PreferenceTrainer(
                bundle, preference_sets(trajectories), changed(settings, visits_per_forward=size), tmp_path / str(size)
            )
            trainer.run()
            metrics[size] = timeless(tmp_path / str(size))
        for size in (1, 3):
            for row, expected in zip(metrics[size], metrics[100], strict=True):
                # beta multiplies rounding, and Adam every difference in small gradients
                assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=2e-2)
                assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)

    @OBJECTIVES
    def test_the_first_gradient_is_the_same_to_rounding(self, trajectories, tmp_path, settings):
        gradients = []
        for size in (1, 3, 100):
            trainer = PreferenceTrainer(
                build_tiny_bundle(),
                preference_sets(trajectories),
                changed(settings, visits_per_forward=size),
                tmp_path / str(size),
            )
            trainer.run(max_updates=1)
            gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        for gradient in gradients[:2]:
            assert float((gradient - gradients[2]).norm() / gradients[2].norm()) < 1e-4


class TestRefusals:
    def test_nothing_to_learn_from(self, bundle, trajectories, tmp_path):
        with pytest.raises(InvalidInput, match="no preference pair to learn from"):
            PreferenceTrainer(bundle, preference_sets(trajectories, ()), SETTINGS, tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"base_digest": "1" * 64}, "was made by base 111111111111, not 000000000000"),
            (
                {"adapter": AdapterRef(version=3, digest="2" * 64)},
                "adapter version 3, the reference policy is version 0",
            ),
            ({"settings": TINY_SAMPLER.model_copy(update={"mutual_weight": 0.2})}, "other sampler settings than s0"),
        ],
    )
    def test_a_trajectory_of_another_policy(self, bundle, trajectories, tmp_path, changes, message):
        mixed = [trajectories[0], replace(trajectories[1], **changes)]
        trainer = PreferenceTrainer(bundle, preference_sets(mixed), SETTINGS, tmp_path)
        with pytest.raises(PolicyMismatch, match=f"s1 was made.*{message}|{message}"):
            trainer.run()

    def test_candidates_of_the_base_model_for_an_adapter_that_has_a_parent(
        self, bundle, trajectories, parent, parent_ref, tmp_path
    ):
        with pytest.raises(
            PolicyMismatch, match="s0 was made with adapter version 0, the reference policy is version 1"
        ):
            PreferenceTrainer(
                bundle, preference_sets(trajectories), SETTINGS, tmp_path, parent=parent, parent_ref=parent_ref
            )

    def test_a_parent_without_its_version_and_a_version_without_weights(
        self, bundle, parent_trajectories, parent, parent_ref, tmp_path
    ):
        sets = preference_sets(parent_trajectories)
        with pytest.raises(InvalidInput, match="weights of a parent were given, but its version is 0"):
            PreferenceTrainer(bundle, sets, SETTINGS, tmp_path, parent=parent)
        with pytest.raises(InvalidInput, match="no weights of a parent were given, but its version is 1"):
            PreferenceTrainer(bundle, sets, SETTINGS, tmp_path, parent_ref=parent_ref)

    def test_a_parent_for_another_base(self, bundle, parent_trajectories, parent, parent_ref, tmp_path):
        stranger = replace(parent, base_digest="3" * 64)
        with pytest.raises(InvalidAdapter, match="trained on base 333333333333"):
            PreferenceTrainer(
                bundle,
                preference_sets(parent_trajectories),
                SETTINGS,
                tmp_path,
                parent=stranger,
                parent_ref=parent_ref,
            )

    def test_a_pair_that_names_a_candidate_that_is_not_there(self, bundle, trajectories, tmp_path):
        with pytest.raises(InvalidInput, match="s0 has 3 candidates, but a pair names another"):
            PreferenceTrainer(bundle, preference_sets(trajectories, ((0, 3),)), SETTINGS, tmp_path)


class TestParent:
    @OBJECTIVES
    def test_is_where_training_starts_and_what_it_is_compared_with(
        self, bundle, parent_trajectories, parent, parent_ref, tmp_path, settings
    ):
        sets = preference_sets(parent_trajectories)
        trainer = PreferenceTrainer(bundle, sets, settings, tmp_path, parent=parent, parent_ref=parent_ref)
        started_from = torch.cat([p.detach().clone().flatten() for p in trainer.parameters])
        trainer.run()
        of_parent = torch.cat([parent.tensors[key].flatten() for key in sorted(parent.tensors)])
        first = read_metrics(tmp_path)[0]
        assert_close(started_from, of_parent)
        if settings.objective != "diffusion_nft":
            assert first["loss"] == pytest.approx(0.6931, abs=1e-4)
        assert first["margin"] == pytest.approx(0, abs=1e-6)
        assert first["kl"] == pytest.approx(0, abs=1e-6)
        assert read_metrics(tmp_path)[-1]["kl"] > 1e-4

    @OBJECTIVES
    def test_is_not_changed_by_the_training(self, bundle, parent_trajectories, parent, parent_ref, tmp_path, settings):
        before = parent.to_bytes()
        sets = preference_sets(parent_trajectories)
        trainer = PreferenceTrainer(bundle, sets, settings, tmp_path, parent=parent, parent_ref=parent_ref)
        child = trainer.run()
        assert parent.to_bytes() == before
        assert not same_weights(child, parent)


class TestClose:
    @OBJECTIVES
    def test_leaves_the_base_model_computing_exactly_as_before(
        self, bundle, parent_trajectories, parent, parent_ref, tmp_path, settings
    ):
        before = output(bundle)
        sets = preference_sets(parent_trajectories)
        trainer = PreferenceTrainer(bundle, sets, settings, tmp_path, parent=parent, parent_ref=parent_ref)
        trainer.run()
        assert not torch.equal(output(bundle), before)
        trainer.close()
        assert torch.equal(output(bundle), before)
        assert not any(parameter.requires_grad for parameter in bundle.unet.parameters())

    def test_may_be_called_twice_and_makes_room_for_the_next_training(self, bundle, trajectories, tmp_path):
        weights = []
        for name in ("first", "second"):
            trainer = PreferenceTrainer(bundle, preference_sets(trajectories), SETTINGS, tmp_path / name)
            weights.append(trainer.run())
            trainer.close()
            trainer.close()
        assert same_weights(*weights)


class TestLearning:
    @pytest.mark.parametrize(
        "settings",
        [
            step_settings().model_copy(update={"steps_per_outfit": None, "passes": 6, "learning_rate": 1e-2}),
            TrainSettings(objective="diffusion_dpo", beta=500, steps_per_outfit=None, passes=12, rate_decay="none"),
            TrainSettings(steps_per_outfit=None, passes=24),
            paper_settings().model_copy(update={"learning_rate": 3e-3, "passes": 3}),
        ],
        ids=["d3po", "diffusion_dpo", "default", "paper"],
    )
    def test_an_obvious_preference_is_learnt(self, bundle, trajectories, tmp_path, settings):
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories[:2], ((0, 1), (0, 2))), settings, tmp_path)
        trainer.run()
        rows = read_metrics(tmp_path)
        if settings.objective != "diffusion_nft":
            assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
        late = rows[-max(1, len(rows) // 4) :]
        assert sum(row["margin"] for row in late) / len(late) > 1e-3
        assert sum(row["implicit_accuracy"] for row in late) / len(late) > 0.7
        if settings.objective != "diffusion_nft":  # there noise decides how large it is
            assert sum(row["loss"] for row in late) / len(late) < rows[0]["loss"]

    def test_the_adapter_prefers_what_it_was_taught_when_it_is_loaded_again(self, bundle, trajectories, tmp_path):
        settings = step_settings().model_copy(update={"steps_per_outfit": None, "passes": 6, "learning_rate": 1e-2})
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories[:2], ((0, 1), (0, 2))), settings, tmp_path)
        weights = trainer.run()
        trainer.close()
        load_adapter(bundle.unet, weights, bundle.digest)
        visits = [Visit(trajectory, step) for trajectory in trajectories[:2] for step in range(4)]
        with torch.no_grad():
            now = replay_log_probs(bundle.unet, bundle.schedule, visits)
        gains = torch.stack(
            [log_prob - v.trajectory.log_probs[:, v.step] for log_prob, v in zip(now, visits, strict=True)]
        )
        assert gains[:, 0].mean() > gains[:, 1:].mean() + 1e-3

    def test_says_how_far_it_is(self, bundle, trajectories, tmp_path):
        told = []
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), SETTINGS, tmp_path)
        trainer.run(progress=lambda done, total, figures: told.append((done, total, sorted(figures))))
        names = ["clipped_fraction", "grad_norm", "implicit_accuracy", "kl", "loss", "margin", "seconds"]
        assert told == [(i, 4, names) for i in range(1, 5)]


class TestRateDecay:
    def test_falls_in_a_line_from_the_rate_to_nothing(self, bundle, trajectories, tmp_path):
        settings = changed(rate_decay="linear")
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), settings, tmp_path)
        used = []
        trainer.run(progress=lambda *_: used.append(trainer.optimizer.param_groups[0]["lr"]))
        assert used == pytest.approx([1e-2 * part for part in (1, 0.75, 0.5, 0.25)])

    def test_goes_on_where_it_was_after_a_stop(self, bundle, trajectories, tmp_path):
        settings = changed(rate_decay="linear")
        found = []
        for name, steps in (("at once", [4]), ("stopped", [1, 3])):
            for count in steps:
                trainer = PreferenceTrainer(bundle, preference_sets(trajectories), settings, tmp_path / name)
                weights = trainer.run(max_updates=count)
                trainer.close()
            found.append(weights)
        assert same_weights(*found)


class TestRandomSteps:
    def test_are_all_steps_of_the_published_schedule(self, bundle, trajectories):
        assert random_steps(trajectories[0], bundle) == 4

    def test_leave_out_a_last_step_without_noise(self, bundle, tmp_path):
        scheduler = type(bundle.schedule.scheduler).from_config(bundle.schedule.scheduler.config, set_alpha_to_one=True)
        certain = replace(bundle, schedule=NoiseSchedule(scheduler))
        trajectories = recorded(certain, 2)
        assert random_steps(trajectories[0], certain) == 3
        settings = changed(steps_per_outfit=None)
        trainer = PreferenceTrainer(certain, preference_sets(trajectories), settings, tmp_path)
        assert {step for update in trainer.plan for _, step in update.visits} == {0, 1, 2}
        assert trainer.run() is not None


PLANS = st.builds(
    lambda **chosen: TrainSettings(**chosen),
    passes=st.integers(1, 3),
    outfits_per_update=st.integers(1, 5),
    steps_per_outfit=st.none() | st.integers(1, 8),
    is_accumulated=st.booleans(),
    seed=st.integers(0, 5),
)


class TestPlanUpdates:
    @given(st.integers(1, 9), st.integers(1, 6), PLANS)
    def test_uses_every_set_once_per_pass_with_as_many_different_steps_as_asked_for(self, sets, steps, settings):
        wanted = min(steps, settings.steps_per_outfit or steps)
        updates = plan_updates(sets, steps, settings)
        assert len(updates) % settings.passes == 0
        per_pass = len(updates) // settings.passes
        for start in range(0, len(updates), per_pass):
            visits = [visit for update in updates[start : start + per_pass] for visit in update.visits]
            assert len(visits) == len(set(visits)), "no recorded step twice in a pass"
            assert Counter(position for position, _ in visits) == dict.fromkeys(range(sets), wanted)
            assert {step for _, step in visits} <= set(range(steps))

    @given(st.integers(1, 9), st.integers(1, 6), PLANS)
    def test_follows_from_the_seed_alone(self, sets, steps, settings):
        assert plan_updates(sets, steps, settings) == plan_updates(sets, steps, settings)

    @given(st.integers(1, 9), st.integers(1, 6), PLANS)
    def test_an_accumulated_update_is_those_of_its_steps_together(self, sets, steps, settings):
        by_batch = plan_updates(sets, steps, changed(settings, is_accumulated=True))
        by_step = plan_updates(sets, steps, changed(settings, is_accumulated=False))
        assert [v for update in by_batch for v in update.visits] == [v for update in by_step for v in update.visits]
        wanted = min(steps, settings.steps_per_outfit or steps)
        assert len(by_step) == wanted * len(by_batch)
        assert all(len({position for position, _ in update.visits}) == len(update.visits) for update in by_step)

    def test_passes_and_seeds_differ_in_order_and_steps(self):
        def plan(seed):
            return plan_updates(6, 10, TrainSettings(passes=2, outfits_per_update=6, steps_per_outfit=2, seed=seed))

        first, second = plan(0)
        assert len({first.visits, second.visits, *(update.visits for update in plan(1))}) == 4

    def test_the_published_procedure_makes_one_update_per_outfit_and_step(self):
        updates = plan_updates(3, 50, paper_settings())
        assert len(updates) == 150
        assert all(len(update.visits) == 1 for update in updates)


class TestReadMetrics:
    def test_is_empty_where_nothing_was_written(self, tmp_path):
        assert read_metrics(tmp_path) == []

    def test_leaves_out_a_line_that_was_cut_off(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "los')
        assert read_metrics(tmp_path) == [{"step": 1}]
