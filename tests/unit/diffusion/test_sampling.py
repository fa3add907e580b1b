from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.contracts import AdapterRef, GuidanceScales, SamplerSettings
from fashiondpo.diffusion.conditions import condition_rows
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import (
    SlotTask,
    Visit,
    guided_epsilon,
    needed_branches,
    replay_log_probs,
    sample_trajectories,
    visit_conditions,
)
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import Cancelled, InvalidInput
from tests.reference import diffusion_formulas as reference
from tests.tiny_models import TINY_SAMPLER, adapted, random_conditions

SEEDS = tuple(range(100, 107))
HALF = TINY_SAMPLER.model_copy(update={"state_dtype": "float16"})
NOISELESS = TINY_SAMPLER.model_copy(update={"ddim_eta": 0.0})


def paint(bundle: DiFashion, settings: SamplerSettings = TINY_SAMPLER, seeds: tuple[int, ...] = SEEDS) -> Trajectory:
    return sample_trajectories(bundle, [SlotTask(random_conditions(), seeds)], settings)[0]


def four_branches(bundle: DiFashion, latents, timesteps, conditions, weight: float) -> list[torch.Tensor]:
    """The UNet asked four times, each time with one condition more."""

    def ask(mutual, history, prompt):
        mixed = (1 - weight) * latents + weight * mutual
        inputs = torch.cat([mixed, history.expand_as(latents)], 1)
        return bundle.unet(inputs, timesteps, prompt.expand(len(latents), -1, -1)).sample

    c = conditions
    with torch.no_grad():
        return [
            ask(c.null_latents, c.null_latents, c.null_prompt_embeds),
            ask(c.null_latents, c.null_latents, c.prompt_embeds),
            ask(c.mutual_latents, c.null_latents, c.prompt_embeds),
            ask(c.mutual_latents, c.history_latents, c.prompt_embeds),
        ]


class TestGuidedEpsilon:
    @pytest.mark.parametrize("name", ["bundle", "velocity_bundle"])
    def test_adds_the_conditions_one_after_the_other(self, name, request):
        bundle = request.getfixturevalue(name)
        latents = torch.randn(2, *bundle.latent_shape, generator=torch.Generator().manual_seed(3))
        timesteps = torch.tensor([700, 20])
        conditions = random_conditions()
        rows = condition_rows([conditions] * 2, TINY_SAMPLER, torch.device("cpu"))
        with torch.no_grad():
            made = guided_epsilon(bundle.unet, bundle.schedule, latents, timesteps, rows)
        alone = [b.double().numpy() for b in four_branches(bundle, latents, timesteps, conditions, 0.3)]
        expected = torch.from_numpy(reference.guided(*alone, (3.0, 2.0, 2.0)))
        if name == "velocity_bundle":
            alpha = bundle.schedule.alphas[timesteps].view(-1, 1, 1, 1)
            expected = alpha.sqrt() * expected + (1 - alpha).sqrt() * latents
        assert_close(made.double(), expected, rtol=1e-4, atol=1e-5)

    def test_a_branch_without_weight_may_be_left_out(self, bundle):
        rows = condition_rows([random_conditions()] * 2, TINY_SAMPLER, torch.device("cpu"))
        latents = torch.randn(2, *bundle.latent_shape, generator=torch.Generator().manual_seed(3))
        asked = bundle.unet, bundle.schedule, latents, torch.tensor([700, 20]), rows
        used = needed_branches(TINY_SAMPLER.guidance)
        assert used == (0, 1, 3)
        with torch.no_grad():
            # batches of other sizes differ in the last bits
            assert_close(guided_epsilon(*asked, used), guided_epsilon(*asked), rtol=1e-4, atol=1e-5)

    def test_the_published_scales_need_every_branch(self):
        assert needed_branches(GuidanceScales()) == (0, 1, 2, 3)

    def test_every_condition_counts(self, bundle):
        rows = condition_rows([random_conditions()], TINY_SAMPLER, torch.device("cpu"))
        latents, timesteps = torch.zeros(1, *bundle.latent_shape), torch.tensor([500])
        with torch.no_grad():
            usual = guided_epsilon(bundle.unet, bundle.schedule, latents, timesteps, rows)
            for name in ("prompt_embeds", "mutual_latents", "history_latents", "null_latents"):
                changed = replace(rows, **{name: getattr(rows, name) + 1})
                other = guided_epsilon(bundle.unet, bundle.schedule, latents, timesteps, changed)
                assert (other - usual).abs().max() > 1e-3, name


class TestReplay:
    @pytest.mark.parametrize("settings", [TINY_SAMPLER, HALF], ids=["float32", "float16"])
    @pytest.mark.parametrize("is_adapted", [False, True], ids=["base", "adapter"])
    def test_with_the_policy_that_sampled_gives_ratio_one(self, bundle, adapter, settings, is_adapted):
        with adapted(bundle, adapter if is_adapted else None), torch.no_grad():
            stored = paint(bundle, settings).to_bytes()
            trajectory = Trajectory.from_bytes(stored)
            for step in range(trajectory.num_steps):
                (replayed,) = replay_log_probs(bundle.unet, bundle.schedule, [Visit(trajectory, step)])
                assert_close(replayed, trajectory.log_probs[:, step], rtol=0, atol=1e-5)

    def test_with_another_policy_gives_another_density(self, bundle, adapter):
        trajectory = paint(bundle)
        with adapted(bundle, adapter), torch.no_grad():
            (replayed,) = replay_log_probs(bundle.unet, bundle.schedule, [Visit(trajectory, 1)])
        assert ((replayed - trajectory.log_probs[:, 1]).abs() > 1e-4).all()

    def test_of_many_visits_at_once_is_that_of_each_alone(self, velocity_bundle):
        one, other = (
            sample_trajectories(velocity_bundle, [SlotTask(random_conditions(seed), SEEDS[:k])], TINY_SAMPLER)[0]
            for seed, k in ((1, 2), (2, 3))
        )
        visits = [Visit(one, 3), Visit(other, 0), Visit(one, 1)]
        with torch.no_grad():
            together = replay_log_probs(velocity_bundle.unet, velocity_bundle.schedule, visits)
        assert [len(densities) for densities in together] == [2, 3, 2]
        for visit, densities in zip(visits, together, strict=True):
            assert_close(densities, visit.trajectory.log_probs[:, visit.step], rtol=0, atol=1e-5)

    def test_without_rounding_beforehand_is_exact_too(self, bundle):
        conditions = random_conditions()
        assert not torch.equal(conditions.history_latents.half().float(), conditions.history_latents)
        (trajectory,) = sample_trajectories(bundle, [SlotTask(conditions, SEEDS)], HALF)
        assert torch.equal(trajectory.conditions.history_latents, conditions.history_latents.half().float())

    def test_carries_gradients_to_the_adapter(self, bundle, adapter):
        trajectory = paint(bundle)
        with adapted(bundle, adapter):
            (replayed,) = replay_log_probs(bundle.unet, bundle.schedule, [Visit(trajectory, 2)])
            replayed.sum().backward()
            gradients = [p.grad for p in bundle.unet.parameters() if p.requires_grad]
            assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients)

    def test_refuses_trajectories_made_with_different_settings(self, bundle):
        visits = [Visit(paint(bundle), 0), Visit(paint(bundle, HALF), 0)]
        with pytest.raises(ValueError, match="same settings"):
            replay_log_probs(bundle.unet, bundle.schedule, visits)

    def test_a_visit_shares_its_conditions_between_candidates(self, bundle):
        trajectory = paint(bundle)
        assert visit_conditions(Visit(trajectory, 1)) == [trajectory.conditions] * len(SEEDS)


class TestSampleTrajectories:
    def test_a_candidate_does_not_depend_on_what_it_was_batched_with(self, bundle):
        own = random_conditions(5)
        alone = sample_trajectories(bundle, [SlotTask(own, (42,))], TINY_SAMPLER)[0].latents[0]
        in_seven = sample_trajectories(bundle, [SlotTask(own, (1, 2, 3, 42, 5, 6, 7))], TINY_SAMPLER)[0].latents[3]
        companions = [SlotTask(random_conditions(i), tuple(range(10 * i, 10 * i + 7))) for i in range(6, 13)]
        crowd = [*companions[:4], SlotTask(own, (8, 9, 42, 10, 11, 12, 13)), *companions[4:]]
        in_crowd = sample_trajectories(bundle, crowd, TINY_SAMPLER)[4].latents[2]
        split_up = sample_trajectories(bundle, crowd, TINY_SAMPLER, rows_per_forward=5)[4].latents[2]
        for other in (in_seven, in_crowd, split_up):
            assert_close(other, alone, rtol=0, atol=1e-4)

    def test_the_seed_decides_the_picture(self, bundle):
        first, again = (paint(bundle, seeds=(1, 2, 1)).latents for _ in range(2))
        assert torch.equal(first, again)
        assert_close(first[0], first[2], rtol=0, atol=1e-4)
        assert (first[0] - first[1]).abs().mean() > 0.1

    @pytest.mark.parametrize("name", ["bundle", "velocity_bundle"])
    def test_step_k_leads_from_state_k_to_state_k_plus_one(self, name, request):
        bundle = request.getfixturevalue(name)
        seed, schedule = 7, bundle.schedule
        trajectory = sample_trajectories(bundle, [SlotTask(random_conditions(), (seed,))], TINY_SAMPLER)[0]
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(trajectory.latents[0, 0], torch.randn(bundle.latent_shape, generator=generator))
        assert trajectory.timesteps.tolist() == [751, 501, 251, 1]
        alphas = [float(schedule.alphas[t]) for t in trajectory.timesteps]
        alphas.append(float(schedule.scheduler.final_alpha_cumprod))
        rows = condition_rows([random_conditions()], TINY_SAMPLER, torch.device("cpu"))
        for step, timestep in enumerate(trajectory.timesteps):
            state = trajectory.latents[:, step]
            with torch.no_grad():
                epsilon = guided_epsilon(bundle.unet, schedule, state, timestep[None], rows).double().numpy()
            mean, std = reference.ddim_step(state.double().numpy(), epsilon, alphas[step], alphas[step + 1], 1.0)
            noise = torch.randn(bundle.latent_shape, generator=generator).double().numpy()
            assert_close(trajectory.latents[:, step + 1].double().numpy(), mean + std * noise, rtol=1e-4, atol=1e-4)

    def test_an_adapter_changes_the_picture(self, bundle, adapter):
        base = paint(bundle).final_latents
        with adapted(bundle, adapter):
            assert (paint(bundle).final_latents - base).abs().max() > 0.01
        assert torch.equal(paint(bundle).final_latents, base)

    def test_keeps_what_made_each_trajectory(self, bundle):
        tasks = [SlotTask(random_conditions(i), (10 * i, 10 * i + 1)) for i in range(3)]
        ref = AdapterRef(version=3, digest="a" * 64)
        made = sample_trajectories(bundle, tasks, HALF, adapter=ref)
        assert [t.seeds for t in made] == [task.seeds for task in tasks]
        assert all(t.settings == HALF and t.adapter == ref and t.base_digest == bundle.digest for t in made)
        assert all(t.latents.dtype == torch.float16 and t.latents.shape == (2, 5, 4, 8, 8) for t in made)

    def test_tells_how_many_steps_are_done(self, bundle):
        told: list[tuple[int, int]] = []
        sample_trajectories(
            bundle,
            [SlotTask(random_conditions(), SEEDS)],
            TINY_SAMPLER,
            rows_per_forward=4,
            progress=lambda done, total, _: told.append((done, total)),
        )
        assert told == [(done, 8) for done in range(1, 9)]  # two batches of four steps

    def test_stops_at_the_step_at_which_it_is_asked_to(self, bundle):
        done: list[int] = []
        with pytest.raises(Cancelled, match="stopped after 3 of 4 steps"):
            sample_trajectories(
                bundle,
                [SlotTask(random_conditions(), SEEDS)],
                TINY_SAMPLER,
                progress=lambda step, _total, _figures: done.append(step),
                should_stop=lambda: len(done) == 3,
            )
        assert done == [1, 2, 3]

    def test_refuses_to_record_steps_without_noise(self, bundle):
        with pytest.raises(InvalidInput, match="recording needs ddim_eta > 0"):
            paint(bundle, NOISELESS)

    @pytest.mark.parametrize("seeds", [[], [()], [(1, 2), (3,)]])
    def test_refuses_slots_without_or_with_different_numbers_of_candidates(self, bundle, seeds):
        with pytest.raises(InvalidInput, match="same number of candidates, at least one"):
            sample_trajectories(bundle, [SlotTask(random_conditions(), s) for s in seeds], TINY_SAMPLER)

    def test_leaves_the_global_random_state_alone(self, bundle):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        paint(bundle)
        assert torch.equal(torch.get_rng_state(), before)
