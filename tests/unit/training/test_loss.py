"""The preference objectives against formulas written a second way."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fashiondpo.training.loss import (
    clipped_log_ratios,
    d3po_loss,
    diffusion_dpo_loss,
    diffusion_nft_loss,
    kl_estimate,
    win_shares,
)
from tests.reference import preference_loss_formulas as formulas

SIDES = ("both", "one")
LOG_TWO = math.log(2)


def random_pairs(scale=0.2, count=200):
    rng = np.random.default_rng(0)
    return rng.normal(0, scale, (2, count))


def differentiable(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


class TestD3POLoss:
    @pytest.mark.parametrize("sides", SIDES)
    def test_is_log_two_while_policy_equals_reference(self, sides):
        zeros = torch.zeros(3)
        assert_close(d3po_loss(zeros, zeros, beta=0.1, clip_range=0.1, sides=sides), torch.full((3,), LOG_TWO))

    @pytest.mark.parametrize("sides", SIDES)
    def test_gradient_raises_the_chosen_step_and_lowers_the_rejected_one(self, sides):
        chosen, rejected = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
        d3po_loss(chosen, rejected, beta=0.1, clip_range=0.1, sides=sides).sum().backward()
        assert (chosen.grad < 0).all() and (rejected.grad > 0).all()

    @pytest.mark.parametrize("sides", SIDES)
    @pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
    def test_is_the_probability_that_the_chosen_one_wins(self, sides, beta):
        chosen, rejected = (differentiable(values) for values in random_pairs())
        loss = d3po_loss(chosen, rejected, beta=beta, clip_range=0.1, sides=sides)
        expected, _, _ = formulas.d3po(*random_pairs(), beta, 0.1, sides)
        assert_close(loss.detach(), torch.from_numpy(expected), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("sides", SIDES)
    def test_has_the_gradient_of_that_probability_and_none_beyond_the_clip(self, sides):
        chosen, rejected = (differentiable(values) for values in random_pairs())
        d3po_loss(chosen, rejected, beta=2.0, clip_range=0.1, sides=sides).sum().backward()
        _, by_chosen, by_rejected = formulas.d3po(*random_pairs(), 2.0, 0.1, sides)
        assert (by_chosen == 0).any() and (by_rejected == 0).any(), "the example must reach the clip"
        assert_close(chosen.grad, torch.from_numpy(by_chosen), rtol=1e-12, atol=0)
        assert_close(rejected.grad, torch.from_numpy(by_rejected), rtol=1e-12, atol=0)

    def test_a_step_that_went_the_wrong_way_is_stuck_with_two_sides_and_comes_back_with_one(self):
        gradients = {}
        for sides in SIDES:
            chosen, rejected = differentiable([-0.5]), differentiable([0.5])
            d3po_loss(chosen, rejected, beta=1.0, clip_range=0.1, sides=sides).sum().backward()
            gradients[sides] = float(chosen.grad), float(rejected.grad)
        assert gradients["both"] == (0, 0)
        assert gradients["one"][0] < 0 < gradients["one"][1]

    @pytest.mark.parametrize("sides", SIDES)
    def test_a_step_that_went_far_enough_is_let_go(self, sides):
        chosen, rejected = differentiable([0.5]), differentiable([-0.5])
        d3po_loss(chosen, rejected, beta=1.0, clip_range=0.1, sides=sides).sum().backward()
        assert float(chosen.grad) == float(rejected.grad) == 0

    def test_refuses_log_ratios_of_other_shapes(self):
        with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
            d3po_loss(torch.zeros(3), torch.zeros(2), beta=0.1, clip_range=0.1)

    @pytest.mark.parametrize("beta", [0, -1])
    def test_refuses_a_beta_that_is_not_positive(self, beta):
        with pytest.raises(ValueError, match=f"beta must be positive, got {beta}"):
            d3po_loss(torch.zeros(1), torch.zeros(1), beta=beta, clip_range=0.1)

    @pytest.mark.parametrize("clip_range", [0, 1, -0.1, 1.5])
    def test_refuses_a_clip_range_outside_zero_to_one(self, clip_range):
        with pytest.raises(ValueError, match=f"clip_range must lie between 0 and 1, got {clip_range}"):
            d3po_loss(torch.zeros(1), torch.zeros(1), beta=0.1, clip_range=clip_range)


class TestClippedLogRatios:
    def test_both_sides_hold_the_ratio_itself_within_the_range(self):
        chosen, rejected = clipped_log_ratios(*torch.from_numpy(random_pairs(1.0)), clip_range=0.1, sides="both")
        ratios = torch.cat([chosen, rejected]).exp()
        assert_close(ratios.min(), torch.tensor(0.9, dtype=torch.float64))
        assert_close(ratios.max(), torch.tensor(1.1, dtype=torch.float64))

    def test_one_side_leaves_what_went_the_wrong_way(self):
        given = torch.tensor([-3.0, 3.0])
        chosen, rejected = clipped_log_ratios(given, given, clip_range=0.1, sides="one")
        assert chosen[0] == -3.0 and rejected[1] == 3.0
        assert_close(torch.stack([chosen[1], rejected[0]]).exp(), torch.tensor([1.1, 0.9]))


class TestDiffusionDPOLoss:
    def test_is_log_two_while_policy_equals_reference(self):
        chosen, rejected = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
        loss = diffusion_dpo_loss(chosen, chosen, rejected, rejected, beta=500)
        assert_close(loss, torch.full((5,), LOG_TWO))

    @pytest.mark.parametrize("beta", [1.0, 100.0, 2000.0])
    def test_is_the_probability_that_more_error_is_saved_on_the_chosen_one(self, beta):
        errors = np.random.default_rng(1).uniform(0.9, 1.0, (4, 50))
        loss = diffusion_dpo_loss(*torch.from_numpy(errors), beta=beta)
        # the second form takes the logarithm of a number next to 1, so it knows no loss below 1e-16
        assert_close(loss, torch.from_numpy(formulas.diffusion_dpo(*errors, beta)), rtol=1e-9, atol=1e-15)

    def test_gradient_lowers_the_chosen_error_and_raises_the_rejected_one(self):
        chosen, rejected = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        diffusion_dpo_loss(chosen, torch.ones(2), rejected, torch.ones(2), beta=500).sum().backward()
        assert (chosen.grad > 0).all() and (rejected.grad < 0).all()

    def test_refuses_errors_of_other_shapes(self):
        with pytest.raises(ValueError, match=r"errors differ in shape: \(2,\), \(2,\), \(1,\), \(2,\)"):
            diffusion_dpo_loss(torch.ones(2), torch.ones(2), torch.ones(1), torch.ones(2), beta=500)

    def test_refuses_a_beta_that_is_not_positive(self):
        with pytest.raises(ValueError, match="beta must be positive, got 0"):
            diffusion_dpo_loss(*torch.ones(4, 2), beta=0)


class TestWinShares:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
    def test_are_the_rows_of_the_table_of_who_beat_whom(self, found):
        pairs = {frozenset(pair): pair for pair in found if pair[0] != pair[1]}.values()
        assert_close(win_shares(tuple(pairs), 5).double(), torch.from_numpy(formulas.win_shares(pairs, 5)))

    def test_of_a_full_ranking_are_evenly_spaced(self):
        assert_close(win_shares([(0, 1), (0, 2), (1, 2)], 3), torch.tensor([1.0, 0.5, 0.0]))

    def test_of_no_comparison_are_one_half(self):
        assert_close(win_shares((), 7), torch.full((7,), 0.5))

    def test_refuse_a_single_candidate(self):
        with pytest.raises(ValueError, match="at least two candidates, got 1"):
            win_shares((), 1)


class TestDiffusionNFTLoss:
    @pytest.fixture
    def batch(self):
        rng = np.random.default_rng(2)
        return *rng.normal(size=(3, 5, 4, 2, 2)), rng.uniform(size=5)

    @pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
    def test_is_the_two_squares_multiplied_out(self, batch, beta):
        loss = diffusion_nft_loss(*map(torch.from_numpy, batch), beta=beta)
        assert_close(loss, torch.from_numpy(formulas.diffusion_nft(*batch, beta)), rtol=1e-12, atol=0)

    def test_is_the_error_of_the_reference_while_the_policy_equals_it(self, batch):
        _, reference, target, share = map(torch.from_numpy, batch)
        loss = diffusion_nft_loss(reference, reference, target, share, beta=1.0)
        assert_close(loss, (reference - target).pow(2).flatten(1).mean(1))

    def test_gradient_goes_towards_what_won_and_away_from_what_lost(self):
        prediction = torch.zeros(3, 1, 1, 1, requires_grad=True)
        zeros, target = torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
        share = torch.tensor([1.0, 0.5, 0.0])
        diffusion_nft_loss(prediction, zeros, target, share, beta=1.0).sum().backward()
        assert_close(prediction.grad.flatten(), torch.tensor([-2.0, 0.0, 2.0]))

    @pytest.mark.parametrize("beta", [0.5, 2.0])
    def test_is_smallest_where_the_step_is_the_lean_over_beta(self, beta):
        target, share = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
        prediction = torch.full((1, 1, 1, 1), (2 * 0.8 - 1) / beta, dtype=torch.float64, requires_grad=True)
        diffusion_nft_loss(prediction, torch.zeros_like(target), target, share, beta=beta).sum().backward()
        assert abs(float(prediction.grad)) < 1e-12

    def test_refuses_shapes_that_do_not_go_together(self):
        picture = torch.zeros(2, 4, 8, 8)
        with pytest.raises(ValueError, match=r"\(2, 4, 8, 8\), \(3,\)"):
            diffusion_nft_loss(picture, picture, picture, torch.zeros(3), beta=1)

    def test_refuses_a_beta_that_is_not_positive(self):
        picture = torch.zeros(2, 4, 8, 8)
        with pytest.raises(ValueError, match="beta must be positive, got 0"):
            diffusion_nft_loss(picture, picture, picture, torch.zeros(2), beta=0)


class TestKLEstimate:
    @given(st.floats(-5, 5, width=32))
    def test_is_never_negative(self, log_ratio):
        assert float(kl_estimate(torch.tensor(log_ratio))) >= 0

    @given(st.floats(-0.01, 0.01))
    def test_is_half_the_square_of_a_small_log_ratio(self, log_ratio):
        estimate = float(kl_estimate(torch.tensor(log_ratio, dtype=torch.float64)))
        # the next term of the series is a sixth of the cube; differences of 1e-18 are float64's own
        assert abs(estimate - log_ratio**2 / 2) <= abs(log_ratio) ** 3 / 5 + 1e-17

    def test_averages_to_the_divergence_from_the_reference(self):
        # steps of a unit Gaussian under a policy whose mean is 0.3 away: the divergence is 0.3² / 2
        steps = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        log_ratio = -((steps - 0.3) ** 2) / 2 + steps**2 / 2
        assert float(kl_estimate(log_ratio).mean()) == pytest.approx(0.3**2 / 2, rel=0.02)
