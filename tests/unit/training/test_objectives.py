"""One forward for all candidates, against each pair by itself with a reference network of its own."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.diffusion.ddim import predicted_epsilon
from fashiondpo.diffusion.lora import POLICY, add_adapter, load_adapter
from fashiondpo.diffusion.sampling import Visit, replay_log_probs
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.loss import d3po_loss, diffusion_dpo_loss
from fashiondpo.training.objectives import (
    REFERENCE,
    denoised_error_weights,
    loss_terms,
    reference_policy,
    visit_losses,
)
from tests.tiny_rounds import PAIRS, only, shaken

VISITS = ((0, 0), (1, 2), (2, 3), (0, 1))
KEYS = tuple((0, 0, i) for i in range(len(VISITS)))
D3PO = TrainSettings(objective="d3po", beta=0.1)
DIFFUSION_DPO = TrainSettings(objective="diffusion_dpo", beta=500)
DIFFUSION_NFT = TrainSettings(objective="diffusion_nft", beta=1)
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
        settings = TrainSettings(objective="d3po", clip_range=clip_range, clip_sides=sides, beta=1.0)
        together = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), settings, KEYS)
        alone = pair_by_pair(bundle, reference, trajectories, settings)
        assert_close(together.loss, alone, rtol=CLOSE, atol=0)
        # gradients of twelve pairs cancel in part, and their rounding does not: 1.4e-5 on some processors
        assert distance(gradient(together.loss.sum(), policy), gradient(alone.sum(), policy)) < 5 * CLOSE
        assert together.is_clipped.any() == (clip_range == 0.01), "the example must reach the clip, or not"

    def test_recorded_reference_densities_are_those_of_the_reference_network(self, bundle, reference, trajectories):
        for visit, now in zip(
            visits(trajectories), replay_log_probs(reference, bundle.schedule, visits(trajectories)), strict=True
        ):
            assert_close(now.detach(), visit.trajectory.log_probs[:, visit.step], rtol=0, atol=CLOSE)

    def test_is_log_two_everywhere_before_the_first_update(self, bundle, trajectories):
        add_adapter(bundle.unet, rank=2)
        losses = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), D3PO, KEYS)
        assert_close(losses.loss, torch.full((12,), math.log(2)), rtol=0, atol=1e-6)
        assert not losses.is_clipped.any()
        assert losses.kl.max() < 1e-8

    def test_its_figures_say_how_pairs_and_candidates_stand(self, bundle, policy, reference, trajectories):
        losses = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), D3PO, KEYS).detached()
        assert losses.loss.shape == losses.is_right.shape == losses.margin.shape == losses.is_clipped.shape == (12,)
        assert losses.kl.shape == (12,) and losses.kl.min() > 0
        assert torch.equal(losses.is_right, losses.margin > 0)
        assert not losses.loss.requires_grad

    def test_each_visit_has_pairs_of_its_own(self, bundle, policy, trajectories):
        own = [((0, 1),), ((2, 0), (2, 1)), ((1, 0),), ((0, 2),)]
        together = visit_losses(bundle, visits(trajectories), own, D3PO, KEYS).margin
        each = [
            visit_losses(bundle, [visit], [pairs], D3PO, [key]).margin
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


class TestDiffusionNFT:
    def test_is_the_error_of_the_denoised_picture_before_the_first_update(self, bundle, trajectories):
        add_adapter(bundle.unet, rank=2)
        losses = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), DIFFUSION_NFT, KEYS)
        assert losses.loss.shape == losses.kl.shape == (12,) and losses.loss.min() > 0
        assert losses.kl.max() == 0
        assert_close(losses.margin, torch.zeros(12))

    def test_one_forward_for_all_candidates_gives_the_gradient_of_every_outfit_by_itself(
        self, bundle, policy, trajectories
    ):
        together = visit_losses(bundle, visits(trajectories), [PAIRS] * len(VISITS), DIFFUSION_NFT, KEYS)
        alone = torch.cat(
            [
                visit_losses(bundle, [visit], [PAIRS], DIFFUSION_NFT, [key]).loss
                for visit, key in zip(visits(trajectories), KEYS, strict=True)
            ]
        )
        assert_close(together.loss, alone, rtol=CLOSE, atol=0)
        assert distance(gradient(together.loss.sum(), policy), gradient(alone.sum(), policy)) < CLOSE

    def test_its_first_step_is_that_of_diffusion_dpo_where_every_pair_counts_alike(self, bundle, trajectories):
        # both pull the chosen error down and the rejected one up; one weighs errors of the prediction, one of the picture
        parameters = add_adapter(bundle.unet, rank=2)
        for visit, key in zip(visits(trajectories), KEYS, strict=True):
            steps = []
            for settings in (DIFFUSION_DPO, DIFFUSION_NFT):
                loss = visit_losses(bundle, [visit], [PAIRS], settings, [key]).loss.sum()
                steps.append(gradient(loss, parameters))
            assert torch.cosine_similarity(*steps, dim=0) > 0.999

    def test_margin_is_positive_after_a_step_down_the_gradient(self, bundle, trajectories):
        parameters = add_adapter(bundle.unet, rank=2)
        some = visits(trajectories), [PAIRS] * len(VISITS), DIFFUSION_NFT, KEYS
        step = torch.autograd.grad(visit_losses(bundle, *some).loss.sum(), parameters)
        with torch.no_grad():
            for parameter, slope in zip(parameters, step, strict=True):
                parameter.sub_(1e-2 * slope)
        assert visit_losses(bundle, *some).margin.mean() > 0

    def test_has_as_many_losses_as_candidates_and_the_others_as_pairs(self):
        assert [loss_terms(PAIRS[:2], 3, settings) for settings in (D3PO, DIFFUSION_DPO, DIFFUSION_NFT)] == [2, 2, 3]


class TestDenoisedErrorWeights:
    @pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
    def test_turn_an_error_of_the_prediction_into_one_of_the_denoised_latents(self, prediction_type):
        generator = torch.Generator().manual_seed(0)
        latents, right, wrong = torch.randn(3, 2, 1, 1, 1, dtype=torch.float64, generator=generator)
        alpha = torch.tensor([0.3, 0.9], dtype=torch.float64)

        def denoised(output):
            epsilon = predicted_epsilon(output, latents, alpha, prediction_type)
            return (latents - (1 - alpha).sqrt().view(-1, 1, 1, 1) * epsilon) / alpha.sqrt().view(-1, 1, 1, 1)

        expected = (denoised(wrong) - denoised(right)).pow(2).flatten()
        found = denoised_error_weights(alpha, prediction_type) * (wrong - right).pow(2).flatten()
        assert_close(found, expected, rtol=1e-12, atol=0)

    def test_are_bounded_where_hardly_any_signal_is_left(self):
        assert float(denoised_error_weights(torch.tensor([0.005]), "epsilon")) == 5


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
