"""One forward for all candidates, against each pair by itself with a reference network of its own."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.diffusion.lora import POLICY, add_adapter, load_adapter
from fashiondpo.diffusion.sampling import Visit, replay_log_probs
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.loss import d3po_loss, diffusion_dpo_loss
from fashiondpo.training.objectives import REFERENCE, reference_policy, visit_losses
from tests.tiny_rounds import PAIRS, only, shaken

VISITS = ((0, 0), (1, 2), (2, 3), (0, 1))
KEYS = tuple((0, 0, i) for i in range(len(VISITS)))
DIFFUSION_DPO = TrainSettings(objective="diffusion_dpo", beta=500)
# float32 through some thirty layers, in batches of other sizes
CLOSE = 1e-5


def visits(trajectories):
    return [Visit(trajectories[position], step) for position, step in VISITS]


def gradient(loss, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def reference(bundle):
    """The policy as it was at the start, as a second network."""
    return copy.deepcopy(bundle.unet)


@pytest.fixture
def policy(bundle, reference):
    """The trainable parameters of an adapter that has moved away from the reference."""
    parameters = add_adapter(bundle.unet, rank=2)
    shaken(parameters, 0.1)
    return parameters


def pair_by_pair(bundle, reference, trajectories, settings):
    """Sum of the losses of all pairs; each with a forward of its own through policy and reference for each half."""

    def log_ratio(trajectory, candidate, step):
        visit = [Visit(only(trajectory, candidate), step)]
        (now,) = replay_log_probs(bundle.unet, bundle.schedule, visit)
        with torch.no_grad():
            (then,) = replay_log_probs(reference, bundle.schedule, visit)
        return now - then

    losses = [
        d3po_loss(
            *(log_ratio(trajectories[position], candidate, step) for candidate in pair),
            beta=settings.beta,
            clip_range=settings.clip_range,
            sides=settings.clip_sides,
        )
        for position, step in VISITS
        for pair in PAIRS
    ]
    return torch.cat(losses)


class TestD3PO:
    @pytest.mark.parametrize("sides", ["both", "one"])
    @pytest.mark.parametrize("clip_range", [0.01, 0.999], ids=["clip", "hardly a clip"])
    def test_one_forward_for_all_candidates_gives_the_gradient_of_every_pair_by_itself(
        self, bundle, policy, reference, trajectories, clip_range, sides
    ):
        settings = TrainSettings(clip_range=clip_range, clip_sides=sides, beta=1.0)
        together = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), settings, KEYS)
        alone = pair_by_pair(bundle, reference, trajectories, settings)
        assert_close(together.loss, alone, rtol=CLOSE, atol=0)
        assert distance(gradient(together.loss.sum(), policy), gradient(alone.sum(), policy)) < CLOSE
        assert together.is_clipped.any() == (clip_range == 0.01), "the example must reach the clip, or not"

    def test_recorded_reference_densities_are_those_of_the_reference_network(self, bundle, reference, trajectories):
        for visit, now in zip(
            visits(trajectories), replay_log_probs(reference, bundle.schedule, visits(trajectories)), strict=True
        ):
            assert_close(now.detach(), visit.trajectory.log_probs[:, visit.step], rtol=0, atol=CLOSE)

    def test_is_log_two_everywhere_before_the_first_update(self, bundle, trajectories):
        add_adapter(bundle.unet, rank=2)
        losses = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), TrainSettings(), KEYS)
        assert_close(losses.loss, torch.full((12,), math.log(2)), rtol=0, atol=1e-6)
        assert not losses.is_clipped.any()
        assert losses.kl.max() < 1e-8

    def test_its_figures_say_how_pairs_and_candidates_stand(self, bundle, policy, reference, trajectories):
        losses = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), TrainSettings(), KEYS).detached()
        assert losses.loss.shape == losses.is_right.shape == losses.margin.shape == losses.is_clipped.shape == (12,)
        assert losses.kl.shape == (12,) and losses.kl.min() > 0
        assert torch.equal(losses.is_right, losses.margin > 0)
        assert not losses.loss.requires_grad

    def test_each_visit_has_pairs_of_its_own(self, bundle, policy, trajectories):
        own = [((0, 1),), ((2, 0), (2, 1)), ((1, 0),), ((0, 2),)]
        together = visit_losses(bundle, visits(trajectories), own, TrainSettings(), KEYS).margin
        each = [
            visit_losses(bundle, [visit], [pairs], TrainSettings(), [key]).margin
            for visit, pairs, key in zip(visits(trajectories), own, KEYS, strict=True)
        ]
        assert_close(together, torch.cat(each), rtol=0, atol=CLOSE)


class TestDiffusionDPO:
    def test_is_log_two_everywhere_before_the_first_update(self, bundle, trajectories):
        add_adapter(bundle.unet, rank=2)
        losses = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), DIFFUSION_DPO, KEYS)
        assert_close(losses.loss, torch.full((12,), math.log(2)))

    def test_one_forward_for_all_candidates_gives_the_gradient_of_every_pair_by_itself(
        self, bundle, policy, trajectories
    ):
        together = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), DIFFUSION_DPO, KEYS)
        losses = []
        for visit, key in zip(visits(trajectories), KEYS, strict=True):
            for pair in PAIRS:
                two = [Visit(only(visit.trajectory, *pair), visit.step)]
                losses.append(visit_losses(bundle, two, [[(0, 1)]], DIFFUSION_DPO, [key]).loss)
        alone = torch.cat(losses)
        # beta multiplies the rounding of float32 by 500
        assert_close(together.loss, alone, rtol=1e-3, atol=0)
        assert distance(gradient(together.loss.sum(), policy), gradient(alone.sum(), policy)) < 1e-3

    def test_margin_and_loss_tell_the_same_story(self, bundle, policy, trajectories):
        losses = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), DIFFUSION_DPO, KEYS)
        zeros = torch.zeros_like(losses.margin)
        assert_close(losses.loss, diffusion_dpo_loss(-losses.margin, zeros, zeros, zeros, beta=500), rtol=1e-4, atol=0)

    def test_the_same_key_draws_the_same_noise_and_another_key_another(self, bundle, policy, trajectories):
        def margins(key):
            visit = visits(trajectories)[:1]
            return visit_losses(bundle, visit, [PAIRS], DIFFUSION_DPO, [key]).margin

        assert torch.equal(margins((0, 3, 1)), margins((0, 3, 1)))
        assert not torch.equal(margins((0, 3, 1)), margins((0, 3, 2)))
        assert not torch.equal(margins((0, 3, 1)), margins((1, 3, 1)))


class TestReferencePolicy:
    def output(self, unet):
        generator = torch.Generator().manual_seed(0)
        inputs, prompt = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 24, 16, generator=generator)
        return unet(inputs, torch.tensor([500]), prompt).sample.detach()

    def test_is_the_base_model_where_there_is_no_parent(self, bundle, reference, policy):
        moved = self.output(bundle.unet)
        with reference_policy(bundle.unet):
            assert torch.equal(self.output(bundle.unet), self.output(reference))
        assert torch.equal(self.output(bundle.unet), moved)
        assert not torch.equal(moved, self.output(reference))

    def test_is_the_parent_where_there_is_one(self, bundle, parent):
        parameters = load_adapter(bundle.unet, parent, bundle.digest)
        of_parent = self.output(bundle.unet)
        load_adapter(bundle.unet, parent, bundle.digest, name=REFERENCE)
        bundle.unet.set_adapter(POLICY)
        shaken(parameters, 0.1)
        moved = self.output(bundle.unet)
        with reference_policy(bundle.unet):
            assert torch.equal(self.output(bundle.unet), of_parent)
        assert torch.equal(self.output(bundle.unet), moved)
        assert all(parameter.requires_grad for parameter in parameters)

    def test_gives_the_policy_back_when_something_fails_inside(self, bundle, policy):
        moved = self.output(bundle.unet)
        with pytest.raises(RuntimeError, match="inside"), reference_policy(bundle.unet):
            raise RuntimeError("inside")
        assert torch.equal(self.output(bundle.unet), moved)
