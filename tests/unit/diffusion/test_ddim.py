import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal
from torch.testing import assert_close

from fashiondpo.diffusion.ddim import (
    NoiseSchedule,
    ddim_std,
    ddim_transition,
    predicted_epsilon,
    transition_log_prob,
)
from fashiondpo.errors import InvalidInput
from fashiondpo.pretraining.bundle import stable_diffusion_scheduler
from tests.reference import diffusion_formulas as reference

SHAPE = (3, 4, 5, 5)
levels = st.floats(1e-3, 1 - 1e-3)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scheduler(prediction_type: str = "epsilon", **changes: object) -> DDIMScheduler:
    return DDIMScheduler.from_config(stable_diffusion_scheduler(prediction_type=prediction_type).config, **changes)


def in_double_precision(peer: DDIMScheduler) -> DDIMScheduler:
    """The peer works in the precision of its tables, which are single."""
    peer.alphas_cumprod = peer.alphas_cumprod.double()
    peer.final_alpha_cumprod = peer.final_alpha_cumprod.double()
    return peer


class TestDdimTransition:
    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    @pytest.mark.parametrize("set_alpha_to_one", [False, True])
    @pytest.mark.parametrize("steps", [1, 4, 7, 20, 50, 333])
    @pytest.mark.parametrize("ddim_eta", [1.0, 0.3])
    def test_goes_the_same_way_as_diffusers_from_noise_to_picture(
        self, prediction_type, set_alpha_to_one, steps, ddim_eta
    ):
        peer = in_double_precision(scheduler(prediction_type, set_alpha_to_one=set_alpha_to_one))
        peer.set_timesteps(steps)
        schedule = NoiseSchedule(scheduler(prediction_type, set_alpha_to_one=set_alpha_to_one))
        ours = theirs = doubles(*SHAPE)
        for step, timestep in enumerate(schedule.timesteps(steps)):
            output = doubles(*SHAPE, seed=2 * step + 1) + 0.3 * ours
            noise = doubles(*SHAPE, seed=2 * step + 2)
            alpha, alpha_next = schedule.step_alphas(timestep.expand(3), steps)
            epsilon = predicted_epsilon(output, ours, alpha, schedule.prediction_type)
            mean, std = ddim_transition(ours, epsilon, alpha, alpha_next, ddim_eta)
            variance = peer._get_variance(timestep, timestep - peer.config.num_train_timesteps // steps)
            assert_close(std, (ddim_eta * variance.sqrt()).expand(3), rtol=1e-12, atol=0)
            theirs = peer.step(output, int(timestep), theirs, eta=ddim_eta, variance_noise=noise).prev_sample
            ours = mean + std.view(-1, 1, 1, 1) * noise
            assert_close(ours, theirs, rtol=1e-11, atol=1e-11)

    def test_agrees_with_diffusers_in_single_precision_too(self):
        peer = scheduler()
        peer.set_timesteps(20)
        schedule = NoiseSchedule(scheduler())
        latents, output, noise = (doubles(*SHAPE, seed=i).float() for i in range(3))
        for timestep in schedule.timesteps(20):
            mean, std = ddim_transition(latents, output, *schedule.step_alphas(timestep.expand(3), 20), 1.0)
            expected = peer.step(output, int(timestep), latents, eta=1.0, variance_noise=noise).prev_sample
            # 1 / sqrt(alpha) is 14 at the noisiest level; single precision carries seven digits
            assert_close(mean + std.view(-1, 1, 1, 1) * noise, expected, rtol=1e-5, atol=1e-5)

    @given(levels, levels, st.floats(0.01, 1))
    def test_is_the_published_formula(self, one, other, ddim_eta):
        alpha, alpha_next = sorted((one, other))
        latents, epsilon = doubles(1, 2, 3, 3), doubles(1, 2, 3, 3, seed=1)
        mean, std = ddim_transition(
            latents, epsilon, torch.tensor([alpha]).double(), torch.tensor([alpha_next]).double(), ddim_eta
        )
        alpha, alpha_next = (float(torch.tensor([x]).double()) for x in (alpha, alpha_next))
        expected_mean, expected_std = reference.ddim_step(latents.numpy(), epsilon.numpy(), alpha, alpha_next, ddim_eta)
        assert_close(mean.numpy(), expected_mean, rtol=1e-7, atol=1e-7)
        assert float(std) == pytest.approx(expected_std, rel=1e-7, abs=1e-9)

    def test_with_full_noise_is_the_posterior_of_ddpm(self):
        clean, epsilon = doubles(*SHAPE), doubles(*SHAPE, seed=1)
        alpha, alpha_next = torch.full((3,), 0.4).double(), torch.full((3,), 0.6).double()
        a, a_next = float(alpha[0]), float(alpha_next[0])
        latents = math.sqrt(a) * clean + math.sqrt(1 - a) * epsilon
        mean, std = ddim_transition(latents, epsilon, alpha, alpha_next, 1.0)
        expected_mean, variance = reference.ddpm_posterior(latents.numpy(), clean.numpy(), a, a_next)
        assert_close(mean.numpy(), expected_mean, rtol=1e-12, atol=1e-12)
        assert_close(std.numpy() ** 2, np.full(3, variance), rtol=1e-12, atol=0)

    def test_without_noise_keeps_picture_and_noise_and_changes_their_shares(self):
        clean, epsilon = doubles(*SHAPE), doubles(*SHAPE, seed=1)
        alpha, alpha_next = torch.full((3,), 0.25).double(), torch.full((3,), 0.64).double()
        latents = 0.5 * clean + math.sqrt(0.75) * epsilon
        mean, std = ddim_transition(latents, epsilon, alpha, torch.full((3,), 0.64).double(), 0.0)
        a_next = float(alpha_next[0])
        assert_close(mean, math.sqrt(a_next) * clean + math.sqrt(1 - a_next) * epsilon, rtol=1e-12, atol=1e-12)
        assert (std == 0).all()

    def test_ends_at_the_denoised_picture_when_no_noise_is_left(self):
        clean, epsilon = doubles(*SHAPE), doubles(*SHAPE, seed=1)
        alpha = torch.full((3,), 0.81).double()
        latents = 0.9 * clean + math.sqrt(1 - float(alpha[0])) * epsilon
        mean, std = ddim_transition(latents, epsilon, alpha, torch.ones(3).double(), 1.0)
        assert_close(mean, clean, rtol=1e-6, atol=1e-6)  # 0.81 and 0.9 squared differ in single precision
        assert (std == 0).all()

    def test_treats_rows_at_different_noise_levels_as_if_each_were_alone(self):
        schedule = NoiseSchedule(scheduler())
        latents, epsilon = doubles(*SHAPE), doubles(*SHAPE, seed=1)
        timesteps, steps = torch.tensor([981, 501, 1]), torch.tensor([50, 20, 4])
        eta = torch.tensor([1.0, 0.5, 0.1]).double()
        mean, std = ddim_transition(latents, epsilon, *schedule.step_alphas(timesteps, steps), eta)
        for i in range(3):
            alphas = schedule.step_alphas(timesteps[i : i + 1], int(steps[i]))
            alone = ddim_transition(latents[i : i + 1], epsilon[i : i + 1], *alphas, float(eta[i]))
            assert_close((mean[i : i + 1], std[i : i + 1]), alone, rtol=1e-15, atol=0)


class TestDdimStd:
    def test_squared_is_the_posterior_variance_of_ddpm_at_every_level(self):
        betas = reference.stable_diffusion_betas()
        alphas = np.cumprod(1 - betas)
        posterior = betas[1:] * (1 - alphas[:-1]) / (1 - alphas[1:])
        std = ddim_std(torch.from_numpy(alphas[1:]), torch.from_numpy(alphas[:-1]), 1.0)
        assert_close(std.numpy() ** 2, posterior, rtol=1e-9, atol=0)

    @given(levels, levels, st.floats(0, 1))
    def test_grows_in_proportion_to_eta(self, one, other, ddim_eta):
        alpha, alpha_next = (torch.tensor([x]).double() for x in sorted((one, other)))
        assert_close(ddim_std(alpha, alpha_next, ddim_eta), ddim_eta * ddim_std(alpha, alpha_next, 1.0))

    def test_is_zero_where_the_noise_level_stays(self):
        alpha = torch.tensor([0.3]).double()
        assert float(ddim_std(alpha, alpha, 1.0)) == 0


class TestPredictedEpsilon:
    @given(levels)
    def test_finds_the_noise_behind_a_velocity(self, level):
        clean, epsilon = doubles(2, 4, 3, 3), doubles(2, 4, 3, 3, seed=1)
        latents = math.sqrt(level) * clean + math.sqrt(1 - level) * epsilon
        velocity = torch.from_numpy(reference.velocity(clean.numpy(), epsilon.numpy(), level))
        alpha = torch.full((2,), level, dtype=torch.float64)
        assert_close(predicted_epsilon(velocity, latents, alpha, "v_prediction"), epsilon, rtol=1e-11, atol=1e-11)

    def test_is_the_output_itself_where_the_network_predicts_noise(self):
        output = doubles(*SHAPE)
        assert predicted_epsilon(output, doubles(*SHAPE, seed=1), torch.rand(3), "epsilon") is output


class TestTransitionLogProb:
    def test_is_the_gaussian_density_averaged_over_elements(self):
        visited, mean = doubles(2, *SHAPE, seed=1)
        std = torch.rand(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
        expected = Normal(mean, std.view(-1, 1, 1, 1)).log_prob(visited).mean((1, 2, 3))
        assert_close(transition_log_prob(visited, mean, std), expected, rtol=1e-12, atol=0)

    def test_is_highest_at_the_mean(self):
        mean, std = doubles(*SHAPE), torch.full((3,), 0.5).double()
        assert_close(transition_log_prob(mean, mean, std), (-std.log() - 0.5 * math.log(2 * math.pi)))
        assert (transition_log_prob(mean + 0.01, mean, std) < transition_log_prob(mean, mean, std)).all()

    def test_does_not_grow_with_the_size_of_the_picture(self):
        small, large = (torch.full((1, 4, side, side), 0.7) for side in (2, 64))
        std = torch.ones(1)
        assert_close(
            transition_log_prob(small, torch.zeros_like(small), std),
            transition_log_prob(large, torch.zeros_like(large), std),
        )

    def test_gradient_pulls_the_mean_towards_what_was_visited(self):
        visited, mean = doubles(*SHAPE), doubles(*SHAPE, seed=1).requires_grad_()
        std = torch.full((3,), 0.5).double()
        transition_log_prob(visited, mean, std).sum().backward()
        assert_close(mean.grad, (visited - mean.detach()) / std.view(-1, 1, 1, 1) ** 2 / visited[0].numel())

    @pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
    def test_of_a_step_without_noise_does_not_exist(self, std):
        latents = doubles(*SHAPE)
        with pytest.raises(ValueError, match="no density; use ddim_eta > 0"):
            transition_log_prob(latents, latents, torch.tensor([1.0, std, 1.0]))


class TestNoiseSchedule:
    def test_has_the_noise_levels_of_stable_diffusion(self):
        alphas = NoiseSchedule(scheduler()).alphas
        expected = np.cumprod(1 - reference.stable_diffusion_betas())
        assert alphas.dtype == torch.float64
        assert_close(alphas.numpy(), expected, rtol=1e-4, atol=0)  # diffusers multiplies in single precision

    @pytest.mark.parametrize("steps", [1, 2, 20, 50, 999])
    def test_visits_the_timesteps_of_diffusers(self, steps):
        peer = scheduler()
        peer.set_timesteps(steps)
        schedule = NoiseSchedule(scheduler())
        assert torch.equal(schedule.timesteps(steps), peer.timesteps)
        assert schedule.scheduler.num_inference_steps is None  # asking leaves the bundle's scheduler alone

    def test_each_step_ends_at_the_level_where_the_next_begins(self):
        schedule = NoiseSchedule(scheduler())
        alpha, alpha_next = schedule.step_alphas(schedule.timesteps(50), 50)
        assert torch.equal(alpha_next[:-1], alpha[1:])

    @pytest.mark.parametrize(("to_one", "last"), [(True, 1.0), (False, 0.99915)])
    def test_the_last_step_ends_where_the_scheduler_says(self, to_one, last):
        schedule = NoiseSchedule(scheduler(set_alpha_to_one=to_one))
        _, alpha_next = schedule.step_alphas(schedule.timesteps(20), 20)
        assert float(alpha_next[-1]) == pytest.approx(last, rel=1e-6)

    @pytest.mark.parametrize("steps", [1000, 1001])
    def test_refuses_more_steps_than_it_has_levels(self, steps):
        with pytest.raises(InvalidInput, match=f"{steps} steps"):
            NoiseSchedule(scheduler()).timesteps(steps)
