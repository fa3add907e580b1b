"""What a request gets: the same mathematics as the library's samplers, to the last bit whatever else is painted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fashiondpo.contracts import GuidanceScales
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.engine import Engine, FinishedSet, OutfitTask, PaintRequest
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.diffusion.sampling import SlotTask, Visit, replay_log_probs, sample_outfit, sample_trajectories
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.outfits.sources import load_data_set
from tests.tiny_engines import Told, ask, fill_in, paint, painted_together, running_engine, settings, version
from tests.tiny_models import TINY_SAMPLER, adapted, build_tiny_bundle, random_adapter
from tests.tiny_rounds import HISTORY, Squares

HALF = settings(state_dtype="float16")
STRONG = settings(
    num_inference_steps=7, guidance=GuidanceScales(category=5, mutual=1, history=3), mutual_weight=0.1, ddim_eta=0.5
)
MINI = Path("assets/mini")


@pytest.fixture(scope="module")
def own_bundle() -> DiFashion:
    return build_tiny_bundle(prediction_type="v_prediction")


def requests(adapter_version: int | None = None) -> list[PaintRequest]:
    """Different in everything that may differ."""
    pinned = {"adapter_version": adapter_version}
    return [
        ask("seven", fill_in(0, range(7)), **pinned),
        ask("two", fill_in(1, (50, 51)), sampler=STRONG, **pinned),
        ask("ten", fill_in(2, range(10)), sampler=HALF, wants_previews=True, **pinned),
        ask("joint", painted_together(3, (0, 2, 3), 3), **pinned),
        ask("joint half", painted_together(4, (0, 1, 2, 3), 2), sampler=HALF, **pinned),
        ask("many", *(fill_in(number, (number, 9)) for number in range(5, 9)), sampler=STRONG, **pinned),
    ]


def assert_same_bits(found: Sequence[FinishedSet], expected: Sequence[FinishedSet]) -> None:
    by_name = {result.set_id: result for result in expected}
    assert {result.set_id for result in found} == set(by_name)
    for result in found:
        other = by_name[result.set_id]
        assert torch.equal(result.trajectory.latents, other.trajectory.latents)
        assert torch.equal(result.trajectory.log_probs, other.trajectory.log_probs)
        assert all(map(np.array_equal, result.images, other.images))
        assert result.adapter == other.adapter


def alone(engine: Engine, asked: Sequence[PaintRequest]) -> dict[str, list[FinishedSet]]:
    return {request.request_id: paint(engine, request) for request in asked}


def together(engine: Engine, asked: Sequence[PaintRequest]) -> dict[str, list[FinishedSet]]:
    told = {request.request_id: Told() for request in asked}
    for request in asked:
        engine.submit(request, told[request.request_id])
    return {name: observer.result() for name, observer in told.items()}


class TestExactness:
    @pytest.mark.parametrize("rows", [5, 7])
    def test_a_request_gets_the_same_bits_alone_and_among_others(self, own_bundle, rows):
        with running_engine(own_bundle, rows_per_forward=rows) as engine:
            by_itself = alone(engine, requests())
        mixed = [*requests(), *(ask(f"more-{n}", fill_in(n, range(20, 23)), sampler=HALF) for n in range(9, 12))]
        random.Random(1).shuffle(mixed)
        with running_engine(own_bundle, rows_per_forward=rows) as engine:
            among_others = together(engine, mixed)
        for name, expected in by_itself.items():
            assert_same_bits(among_others[name], expected)

    def test_so_it_does_with_other_adapters_at_work(self, own_bundle):
        weights = {number: random_adapter(own_bundle, seed=number) for number in (1, 2, 3)}
        refs = {number: version(number, weights[number]) for number in weights}

        def add_all(engine: Engine) -> None:
            for number, ref in refs.items():
                engine.add(ref, weights[number]).result()

        versions = (0, 1, 2, 3)
        by_itself = {}
        for number in versions:
            with running_engine(own_bundle) as engine:
                add_all(engine)
                by_itself[number] = alone(engine, requests(number)[1:4:2])
        with running_engine(own_bundle) as engine:
            add_all(engine)
            told = {}
            for position in (1, 3):
                for number in versions:
                    told[number, position] = Told()
                    request = requests(number)[position]
                    renamed = PaintRequest(f"{number} {position}", request.outfits, request.settings, number)
                    engine.submit(renamed, told[number, position])
            for (number, position), observer in told.items():
                expected = by_itself[number][requests(number)[position].request_id]
                assert_same_bits(observer.result(), expected)

    def test_the_mini_bundle_paints_the_same_bits_too(self, repository):
        """Its matrices are large enough for the shape of a forward to show: one row alone differs in the last bit."""
        bundle, data = load_bundle(repository / MINI / "bundle"), load_data_set(repository / MINI / "catalogue")
        blanks = data.blanks_of("test", 4)
        asked = [
            PaintRequest(
                f"r{n}",
                (OutfitTask(blank.outfit, (f"s{n}",), (tuple(range(n, n + candidates)),)),),
                bundle.sampler.model_copy(update={"num_inference_steps": steps}),
            )
            for n, (blank, candidates, steps) in enumerate(zip(blanks, (7, 1, 3, 5), (2, 3, 2, 3), strict=True))
        ]
        engine = Engine(bundle, ConditionEncoder(bundle, data.catalogue, data.categories), data.history("test"))
        engine.start()
        by_itself, among_others = alone(engine, asked), together(engine, asked)
        engine.close()
        for name, expected in by_itself.items():
            assert_same_bits(among_others[name], expected)


class TestParity:
    @pytest.mark.parametrize("sampler", [TINY_SAMPLER, HALF, STRONG], ids=["float32", "float16", "strong"])
    def test_paints_what_the_sampler_paints(self, own_bundle, sampler):
        task = fill_in(1, range(7))
        encoder = ConditionEncoder(own_bundle, Squares(), own_bundle.categories)
        conditions = encoder.encode(task.outfit, task.outfit.empty_slots[0], HISTORY, sampler)
        (expected,) = sample_trajectories(own_bundle, [SlotTask(conditions, task.seeds[0])], sampler)
        with running_engine(own_bundle) as engine:
            (found,) = paint(engine, ask("r", task, sampler=sampler))
        assert_same_run(found.trajectory, expected)
        assert all(map(np.array_equal, found.images, own_bundle.decode_latents(found.trajectory.final_latents)))

    @pytest.mark.parametrize("empty", [(0, 2), (0, 1, 2, 3)], ids=["two slots", "whole outfit"])
    @pytest.mark.parametrize("sampler", [TINY_SAMPLER, settings(mutual_reduction="sum")], ids=["mean", "sum"])
    def test_paints_slots_together_as_the_sampler_does(self, own_bundle, empty, sampler):
        task = painted_together(2, empty, 4)
        encoder = ConditionEncoder(own_bundle, Squares(), own_bundle.categories)
        conditions = [encoder.encode(task.outfit, slot, HISTORY, sampler) for slot in empty]
        given = encoder.given_latents(task.outfit)
        expected = sample_outfit(own_bundle, conditions, given, task.seeds, sampler)
        with running_engine(own_bundle) as engine:
            found = paint(engine, ask("r", task, sampler=sampler))
        assert [result.slot for result in found] == list(empty)
        for result, trajectory in zip(found, expected, strict=True):
            assert_same_run(result.trajectory, trajectory)

    @pytest.mark.parametrize("sampler", [TINY_SAMPLER, HALF], ids=["float32", "float16"])
    @pytest.mark.parametrize("rank", [None, 4, 2], ids=["base", "rank 4", "rank 2"])
    def test_replayed_with_the_policy_that_sampled_gives_ratio_one(self, own_bundle, sampler, rank):
        weights = None if rank is None else random_adapter(own_bundle, rank=rank)
        with running_engine(own_bundle) as engine:
            if weights is not None:
                engine.use(version(1, weights), weights).result()
            asked = ask("r", fill_in(1, range(3)), painted_together(2, (0, 2), 3), sampler=sampler)
            stored = [Trajectory.from_bytes(result.trajectory.to_bytes()) for result in paint(engine, asked)]
        visits = [Visit(trajectory, step) for trajectory in stored for step in range(trajectory.num_steps)]
        with adapted(own_bundle, weights), torch.no_grad():
            replayed = replay_log_probs(own_bundle.unet, own_bundle.schedule, visits)
        for visit, densities in zip(visits, replayed, strict=True):
            assert_close(densities, visit.trajectory.log_probs[:, visit.step], rtol=0, atol=1e-5)


def assert_same_run(found: Trajectory, expected: Trajectory) -> None:
    """As near as float32 sums in another order allow, at states of a few units."""
    tolerance = 1e-4 if expected.latents.dtype == torch.float32 else 1e-2
    assert_close(found.latents, expected.latents, rtol=0, atol=tolerance)
    assert_close(found.log_probs, expected.log_probs, rtol=0, atol=tolerance)
    assert torch.equal(found.timesteps, expected.timesteps)
    assert (found.seeds, found.settings, found.adapter) == (expected.seeds, expected.settings, expected.adapter)
    for name, value in vars(expected.conditions).items():
        assert_close(getattr(found.conditions, name), value, rtol=0, atol=tolerance)
