"""The method at the size of Stable Diffusion 2, on latents of 8 x 8 so that a CPU can do it."""

import resource
import sys

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.contracts import SamplerSettings
from fashiondpo.diffusion.conditions import ConditionEncoder, Conditions
from fashiondpo.diffusion.lora import AdapterWeights, adapter_weights, add_adapter, load_adapter, remove_adapter
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import SlotTask, Visit, replay_log_probs, sample_trajectories
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.pretraining.bundle import build_sd2_bundle
from fashiondpo.training.loss import d3po_loss
from tests.tiny_rounds import Squares

ONE_STEP = SamplerSettings(num_inference_steps=1)
WEIGHTS_BYTES = 2 * 865_922_244  # bfloat16


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.fixture(scope="module")
def peak_before() -> int:
    return peak_bytes()


@pytest.fixture(scope="module")
def real(peak_before: int) -> DiFashion:
    return build_sd2_bundle(CATEGORIES, sample_size=8, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def trajectory(real: DiFashion) -> Trajectory:
    squares = Squares()
    squares.image_size = real.image_size
    encoder = ConditionEncoder(real, squares, CATEGORIES)
    null = encoder.null_latents
    conditions = Conditions(encoder.prompt_embeds(3), encoder.prompt_embeds(None), null + 0.1, null - 0.1, null)
    return sample_trajectories(real, [SlotTask(conditions, (1, 2))], ONE_STEP)[0]


class TestRealSize:
    def test_the_unet_has_the_published_number_of_parameters(self, real):
        assert sum(p.numel() for p in real.unet.parameters()) == 865_922_244
        assert {p.dtype for p in real.unet.parameters()} == {torch.bfloat16}

    def test_conditions_have_the_published_shapes(self, trajectory):
        assert trajectory.conditions.prompt_embeds.shape == (77, 1024)
        assert trajectory.latents.shape == (2, 2, 4, 8, 8)

    def test_paints(self, real, trajectory):
        assert torch.isfinite(trajectory.final_latents).all()
        assert not torch.equal(trajectory.final_latents[0], trajectory.final_latents[1])
        assert real.decode_latents(trajectory.final_latents[:1])[0].shape == (64, 64, 3)

    def test_trains_an_adapter_that_can_be_kept(self, real, trajectory):
        parameters = add_adapter(real.unet, rank=4)
        try:
            assert sum(p.numel() for p in parameters) == 829_952
            optimizer = torch.optim.AdamW(parameters, 1e-3)
            (densities,) = replay_log_probs(real.unet, real.schedule, [Visit(trajectory, 0)])
            ratios = densities - trajectory.log_probs[:, 0]
            assert_close(ratios.detach(), torch.zeros(2), rtol=0, atol=1e-5)
            d3po_loss(ratios[:1], ratios[1:], beta=0.1, clip_range=0.1).sum().backward()
            optimizer.step()
            with torch.no_grad():
                (trained,) = replay_log_probs(real.unet, real.schedule, [Visit(trajectory, 0)])
            content = adapter_weights(real.unet, real.digest).to_bytes()
        finally:
            remove_adapter(real.unet)
        assert not torch.equal(trained, densities.detach())
        assert len(content) < 4 * 829_952 + 100_000
        load_adapter(real.unet, AdapterWeights.from_bytes(content), real.digest)
        try:
            with torch.no_grad():
                (again,) = replay_log_probs(real.unet, real.schedule, [Visit(trajectory, 0)])
        finally:
            remove_adapter(real.unet)
        assert torch.equal(again, trained)

    def test_holds_the_weights_once(self, real, trajectory, peak_before):
        assert peak_bytes() - peak_before < 1.8 * WEIGHTS_BYTES
