import pytest
import torch
from torch.testing import assert_close

from fashiondpo.contracts import SamplerSettings
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import Visit, replay_log_probs, sample_outfit, visit_conditions
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import Cancelled, InvalidInput
from tests.tiny_models import LATENT_SIDE, TINY_SAMPLER, adapted, random_conditions

SLOTS, CANDIDATES = 3, 2
SEEDS = [[10 * slot + k for k in range(CANDIDATES)] for slot in range(1, SLOTS + 1)]
SHAPE = (4, LATENT_SIDE, LATENT_SIDE)
NOTHING_GIVEN = torch.zeros(0, *SHAPE)
HALF = TINY_SAMPLER.model_copy(update={"state_dtype": "float16"})
SUMMED = TINY_SAMPLER.model_copy(update={"mutual_reduction": "sum"})


def one_given() -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(9))


def paint(
    bundle: DiFashion,
    settings: SamplerSettings = TINY_SAMPLER,
    given: torch.Tensor = NOTHING_GIVEN,
    seeds: list[list[int]] = SEEDS,
) -> list[Trajectory]:
    return sample_outfit(bundle, [random_conditions(slot) for slot in range(SLOTS)], given, seeds, settings)


class TestSampleOutfit:
    @pytest.mark.parametrize("settings", [TINY_SAMPLER, SUMMED], ids=["mean", "sum"])
    @pytest.mark.parametrize("given", [NOTHING_GIVEN, one_given()], ids=["all empty", "one given"])
    def test_conditions_each_slot_on_the_others_in_progress(self, bundle, settings, given):
        made = paint(bundle, settings, given)
        for slot, trajectory in enumerate(made):
            for k in range(CANDIDATES):
                for step in range(trajectory.num_steps):
                    others = [made[other].latents[k, step] for other in range(SLOTS) if other != slot] + list(given)
                    reduced = sum(others) / (1 if settings is SUMMED else len(others))
                    with torch.no_grad():
                        expected = bundle.mutual_encoder(reduced[None])[0]
                    found = trajectory.conditions.mutual_latents[k, step]
                    assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_candidate_k_of_every_slot_belongs_to_the_same_outfit(self, bundle):
        together = paint(bundle)
        alone = paint(bundle, seeds=[[seeds[1]] for seeds in SEEDS])
        swapped = paint(bundle, seeds=[seeds[::-1] for seeds in SEEDS])
        for slot in range(SLOTS):
            assert_close(together[slot].latents[1], alone[slot].latents[0], rtol=0, atol=1e-4)
            assert_close(together[slot].latents.flip(0), swapped[slot].latents, rtol=0, atol=1e-4)

    def test_another_seed_in_one_slot_changes_the_other_slots_of_that_candidate_only(self, bundle):
        usual, other = paint(bundle), paint(bundle, seeds=[[99, SEEDS[0][1]], *SEEDS[1:]])
        assert (usual[1].final_latents[0] - other[1].final_latents[0]).abs().max() > 1e-3
        assert_close(usual[1].final_latents[1], other[1].final_latents[1], rtol=0, atol=1e-4)

    @pytest.mark.parametrize("settings", [TINY_SAMPLER, HALF], ids=["float32", "float16"])
    @pytest.mark.parametrize("is_adapted", [False, True], ids=["base", "adapter"])
    def test_replayed_with_the_policy_that_sampled_gives_ratio_one(self, bundle, adapter, settings, is_adapted):
        with adapted(bundle, adapter if is_adapted else None), torch.no_grad():
            stored = [Trajectory.from_bytes(made.to_bytes()) for made in paint(bundle, settings, one_given())]
            visits = [Visit(trajectory, step) for trajectory in stored for step in range(trajectory.num_steps)]
            replayed = replay_log_probs(bundle.unet, bundle.schedule, visits)
        for visit, densities in zip(visits, replayed, strict=True):
            assert_close(densities, visit.trajectory.log_probs[:, visit.step], rtol=0, atol=1e-5)

    def test_a_visit_has_the_mutual_latents_of_its_step_and_candidate(self, bundle):
        trajectory = paint(bundle)[0]
        mutual = trajectory.conditions.mutual_latents
        assert mutual.shape == (CANDIDATES, 4, *SHAPE)
        found = [condition.mutual_latents for condition in visit_conditions(Visit(trajectory, 2))]
        assert torch.equal(torch.stack(found), mutual[:, 2])

    def test_tells_progress_and_stops_when_asked(self, bundle):
        told: list[tuple[int, int]] = []
        with pytest.raises(Cancelled, match="stopped after 2 of 4 steps"):
            sample_outfit(
                bundle,
                [random_conditions(slot) for slot in range(SLOTS)],
                NOTHING_GIVEN,
                SEEDS,
                TINY_SAMPLER,
                progress=lambda done, total, _: told.append((done, total)),
                should_stop=lambda: len(told) == 2,
            )
        assert told == [(1, 4), (2, 4)]

    def test_refuses_to_record_steps_without_noise(self, bundle):
        with pytest.raises(InvalidInput, match="recording needs ddim_eta > 0"):
            paint(bundle, TINY_SAMPLER.model_copy(update={"ddim_eta": 0.0}))

    def test_refuses_a_single_slot(self, bundle):
        with pytest.raises(InvalidInput, match="at least two empty slots"):
            sample_outfit(bundle, [random_conditions()], NOTHING_GIVEN, [[1]], TINY_SAMPLER)

    @pytest.mark.parametrize("seeds", [[[1], [2]], [[1], [2], [3, 4]], [[], [], []]])
    def test_refuses_seeds_that_are_not_one_per_slot_and_candidate(self, bundle, seeds):
        with pytest.raises(InvalidInput, match=r"seeds|same number of candidates"):
            paint(bundle, seeds=seeds)
