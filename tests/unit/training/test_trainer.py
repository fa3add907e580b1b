"""Training runs: what they learn, what they refuse, and what they leave as it was."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.lora import load_adapter
from fashiondpo.diffusion.sampling import Visit, replay_log_probs
from fashiondpo.errors import InvalidAdapter, InvalidInput, PolicyMismatch
from fashiondpo.training.config import TrainSettings, paper_settings, step_settings
from fashiondpo.training.metrics import read_metrics
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_models import TINY_SAMPLER, build_tiny_bundle
from tests.tiny_rounds import SETTINGS, changed, preference_sets, same_weights
from tests.unit.training.small_runs import OBJECTIVES, output, timeless


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
