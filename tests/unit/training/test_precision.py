"""Training in lower precision, and with less of a forward kept for the way back."""

from __future__ import annotations

import pytest
import torch

from fashiondpo.errors import TrainingDiverged
from fashiondpo.training.optimizer import PolicyOptimizer
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_models import build_tiny_bundle
from tests.tiny_rounds import NFT, SETTINGS, changed, preference_sets, same_weights, trained

OBJECTIVES = pytest.mark.parametrize("settings", [SETTINGS, NFT], ids=["d3po", "diffusion_nft"])


def first_gradient(trajectories, settings, folder):
    trainer = PreferenceTrainer(build_tiny_bundle(), preference_sets(trajectories), settings, folder)
    trainer.run(max_updates=1)
    gradient = torch.cat([p.grad.flatten() for p in trainer.parameters])
    trainer.close()
    return gradient


class TestPrecision:
    @OBJECTIVES
    @pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.3), ("float16", 0.04)])
    def test_lower_gives_nearly_the_same_gradient(self, trajectories, tmp_path, settings, precision, tolerance):
        whole = first_gradient(trajectories, settings, tmp_path / "float32")
        lower = first_gradient(trajectories, changed(settings, precision=precision), tmp_path / precision)
        assert not torch.equal(whole, lower)
        # 8 and 11 bits of mantissa, carried through some twenty layers
        assert float((whole - lower).norm() / whole.norm()) < tolerance

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_lower_keeps_adapter_and_optimiser_in_float32_and_casts_the_products(
        self, trajectories, tmp_path, precision
    ):
        bundle, seen = build_tiny_bundle(), set()
        settings = changed(NFT, precision=precision)
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), settings, tmp_path)
        bundle.unet.conv_in.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        trainer.run(max_updates=1)
        assert seen == {getattr(torch, precision)}
        assert {p.dtype for p in trainer.parameters} == {p.grad.dtype for p in trainer.parameters} == {torch.float32}
        state = trainer.optimizer.state[trainer.parameters[0]]
        assert state["exp_avg"].dtype == torch.float32
        seen.clear()
        trainer.close()
        with torch.no_grad():
            bundle.unet(torch.zeros(1, 8, 8, 8), torch.tensor([1]), torch.zeros(1, 24, 16))
        assert seen == {torch.float32}, "afterwards the UNet computes as before"

    def test_float16_goes_on_exactly_with_the_scale_that_it_had(self, trajectories, tmp_path):
        settings = changed(NFT, precision="float16", ema_decay=0.5)
        whole = trained(trajectories, settings, tmp_path / "whole")
        assert trained(trajectories, settings, tmp_path / "halves", max_updates=2) is None
        assert same_weights(trained(trajectories, settings, tmp_path / "halves"), whole)

    def test_float16_lowers_the_scale_of_a_loss_that_overflows_and_loses_no_update(self):
        parameter = torch.nn.Parameter(torch.ones(3))
        steps = PolicyOptimizer([parameter], changed(NFT, precision="float16"), torch.device("cpu"))
        tries = 0
        while True:
            tries += 1
            steps.adamw.zero_grad()
            # as a product in float16 would be: too large at first
            steps.backward((parameter.half() * 10.0).float().sum())
            parameter.grad = parameter.grad.half().float() * 2 / steps._scaler.get_scale() * steps._scaler.get_scale()
            norm = steps.clipped_norm()
            if bool(torch.isfinite(norm)) or not steps.lowers_scale():
                break
        assert tries > 1 and bool(torch.isfinite(norm))
        steps.step(0.1)
        assert float(parameter[0].detach()) < 1

    def test_a_gradient_that_no_scale_makes_finite_is_the_end(self, trajectories, tmp_path, monkeypatch):
        settings = changed(NFT, precision="float16")
        trainer = PreferenceTrainer(build_tiny_bundle(), preference_sets(trajectories), settings, tmp_path)
        with torch.no_grad():
            trainer.parameters[0].fill_(float("nan"))
        with pytest.raises(TrainingDiverged, match="not finite"):
            trainer.run()


class TestGradientCheckpointing:
    @OBJECTIVES
    def test_gives_the_same_gradients(self, trajectories, tmp_path, settings):
        kept = first_gradient(trajectories, settings, tmp_path / "kept")
        again = first_gradient(trajectories, changed(settings, gradient_checkpointing=True), tmp_path / "again")
        torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-9)

    def test_is_over_with_the_training(self, trajectories, tmp_path):
        bundle = build_tiny_bundle()
        settings = changed(NFT, gradient_checkpointing=True)
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), settings, tmp_path)
        assert bundle.unet.is_gradient_checkpointing
        trainer.close()
        assert not bundle.unet.is_gradient_checkpointing
