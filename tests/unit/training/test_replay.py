"""Recorded densities against those of the policy that made them, and what a training does where they differ."""

from dataclasses import replace

import pytest
import torch
from structlog.testing import capture_logs

from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.errors import PolicyMismatch
from fashiondpo.training.metrics import read_metrics
from fashiondpo.training.replay import NOTED, REFUSED, check_replay, largest_log_ratio
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_models import build_tiny_bundle
from tests.tiny_rounds import NFT, SETTINGS, changed, preference_sets, recorded, shaken

STEPS = 4


def recorded_in(dtype):
    """Runs of the tiny bundle computed in this type, as a generator on a GPU does."""
    bundle = build_tiny_bundle()
    bundle.unet.to(dtype)
    return recorded(bundle)


class TestLargestLogRatio:
    def test_is_zero_to_rounding_for_the_policy_that_sampled(self, bundle, trajectories):
        add_adapter(bundle.unet, rank=4)
        # float32 carries seven digits of densities of about 1
        assert largest_log_ratio(bundle, trajectories[0], STEPS) < 1e-5

    def test_is_that_of_the_candidate_and_step_that_differ_most(self, bundle, trajectories):
        log_probs = trajectories[0].log_probs.clone()
        log_probs[1, STEPS - 1] += 0.03
        log_probs[2, 0] -= 0.02
        changed_record = replace(trajectories[0], log_probs=log_probs)
        assert largest_log_ratio(bundle, changed_record, STEPS) == pytest.approx(0.03, abs=1e-5)

    @pytest.mark.parametrize(
        ("dtype", "least", "most"), [(torch.float16, 0, NOTED), (torch.bfloat16, NOTED, REFUSED)], ids=["f16", "bf16"]
    )
    def test_of_densities_from_a_generator_in_lower_precision_is_noise(self, bundle, dtype, least, most):
        share = largest_log_ratio(bundle, recorded_in(dtype)[0], STEPS) / SETTINGS.clip_range
        assert least < share < most


class TestCheckReplay:
    def test_says_nothing_of_rounding(self):
        with capture_logs() as logs:
            check_replay("s0", 1e-6, SETTINGS)
        assert logs == []

    def test_warns_of_noise_and_says_what_to_do(self):
        with capture_logs() as logs:
            check_replay("s0", 0.2 * SETTINGS.clip_range, SETTINGS)
        (line,) = logs
        assert (line["log_level"], line["candidates"]) == ("warning", "s0")
        assert "GENERATOR_DTYPE=float32" in line["advice"]

    @pytest.mark.parametrize("apart", [0.06, 3.0, float("nan")])
    def test_refuses_what_the_loss_would_clip(self, apart):
        with pytest.raises(PolicyMismatch, match=r"s0 are not those of the policy.*clips them at 0\.1.*diffusion_nft"):
            check_replay("s0", apart, SETTINGS)


class TestTraining:
    @pytest.fixture
    def wrong(self, trajectories):
        """Densities of somebody else under the right name."""
        return [replace(t, log_probs=t.log_probs + 1) for t in trajectories]

    def test_by_d3po_on_other_densities_than_the_policys_is_refused_before_it_begins(self, bundle, wrong, tmp_path):
        trainer = PreferenceTrainer(bundle, preference_sets(wrong), SETTINGS, tmp_path)
        with pytest.raises(PolicyMismatch, match="s0"):
            trainer.run()
        assert read_metrics(tmp_path) == []

    def test_by_an_objective_that_does_not_look_at_densities_takes_them(self, bundle, wrong, tmp_path):
        trainer = PreferenceTrainer(bundle, preference_sets(wrong), changed(NFT, passes=1), tmp_path)
        assert trainer.run() is not None

    def test_that_goes_on_is_compared_with_nothing(self, bundle, trajectories, tmp_path):
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), SETTINGS, tmp_path)
        trainer.run(max_updates=1)
        shaken(trainer.parameters, 1.0)
        trainer.run(max_updates=1)
        assert trainer.updates_done == 2
