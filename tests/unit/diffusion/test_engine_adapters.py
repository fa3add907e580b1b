from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.engine import Engine, FinishedSet
from fashiondpo.diffusion.engine_adapters import KEPT
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import Conflict, InvalidAdapter, InvalidInput, NotFound, Unavailable
from tests.tiny_engines import PATIENCE_S, Told, ask, fill_in, paint, running_engine, settings, version
from tests.tiny_models import build_tiny_bundle, random_adapter

BASE = AdapterRef()


@pytest.fixture(scope="module")
def own_bundle() -> DiFashion:
    return build_tiny_bundle()


@pytest.fixture(scope="module")
def weights(own_bundle) -> dict[int, AdapterWeights]:
    """Four different versions."""
    return {number: random_adapter(own_bundle, seed=number) for number in range(1, 5)}


@pytest.fixture(scope="module")
def refs(weights) -> dict[int, AdapterRef]:
    return {number: version(number, of_version) for number, of_version in weights.items()}


@pytest.fixture(scope="module")
def looks(own_bundle, weights, refs) -> dict[int, torch.Tensor]:
    """What every version makes of the same request, painted alone."""
    with running_engine(own_bundle) as engine:
        for number, ref in refs.items():
            engine.add(ref, weights[number]).result()
        return {n: look(paint(engine, ask("r", fill_in(1, range(3)), adapter_version=n))) for n in (0, *refs)}


def look(results: Sequence[FinishedSet]) -> torch.Tensor:
    return results[0].trajectory.latents


class TestUse:
    def test_paints_with_the_version_in_use_and_says_so(self, own_bundle, weights, refs, looks):
        with running_engine(own_bundle) as engine:
            for number in (1, 2, 3, 1):
                engine.use(refs[number], weights[number]).result(PATIENCE_S)
                assert engine.active == refs[number]
                results = paint(engine, ask("r", fill_in(1, range(3))))
                assert torch.equal(look(results), looks[number])
                assert results[0].adapter == results[0].trajectory.adapter == refs[number]
            engine.use(BASE, None).result(PATIENCE_S)
            assert torch.equal(look(paint(engine, ask("r", fill_in(1, range(3))))), looks[0])

    def test_rows_in_work_finish_with_the_version_they_began_with(self, own_bundle, weights, refs, looks):
        with running_engine(own_bundle) as engine:
            engine.use(refs[1], weights[1]).result(PATIENCE_S)
            swapped, later = [], Told()

            def swap(step: int) -> None:
                if step == 2:
                    swapped.append(engine.use(refs[2], weights[2]))
                    engine.submit(ask("later", fill_in(1, range(3))), later)

            first = Told(on_advanced=swap)
            engine.submit(ask("first", fill_in(1, range(3))), first)
            assert torch.equal(look(first.result()), looks[1])
            swapped[0].result(PATIENCE_S)
            assert torch.equal(look(later.result()), looks[2])
            assert [told.adapters for told in (first, later)] == [[refs[1]], [refs[2]]]

    def test_a_request_of_many_outfits_keeps_its_version_to_the_end(self, own_bundle, weights, refs):
        with running_engine(own_bundle) as engine:
            engine.use(refs[1], weights[1]).result(PATIENCE_S)
            futures = []
            told = Told(on_advanced=lambda step: step == 1 and futures.append(engine.use(refs[2], weights[2])))
            engine.submit(ask("many", *(fill_in(number, range(7)) for number in range(5))), told)
            assert {result.adapter for result in told.result()} == {refs[1]}
            assert all(future.result(PATIENCE_S) is None for future in futures)
            assert engine.active == refs[2]

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda w: replace(w, base_digest="4" * 64), "was trained on base"),
            (lambda w: replace(w, tensors={k: v * float("nan") for k, v in w.tensors.items()}), "non-finite"),
            (lambda w: random_adapter(build_tiny_bundle(), rank=8), "rank 8, there is room for rank 4"),
            (lambda w: replace(w, targets=("to_q",)), "unknown"),
        ],
    )
    def test_a_swap_that_fails_leaves_everything_as_it_was(self, own_bundle, weights, refs, looks, change, problem):
        with running_engine(own_bundle) as engine:
            engine.use(refs[1], weights[1]).result(PATIENCE_S)
            bad = change(weights[2])
            for method in (engine.use, engine.add):
                assert problem in str(method(refs[2], bad).exception(PATIENCE_S))
                assert isinstance(method(refs[2], bad).exception(PATIENCE_S), InvalidAdapter)
            assert (engine.active, engine.loaded, engine.known) == (refs[1], (refs[1],), (BASE, refs[1]))
            assert torch.equal(look(paint(engine, ask("r", fill_in(1, range(3))))), looks[1])

    def test_refuses_a_version_without_weights_and_weights_without_a_version(self, own_bundle, weights, refs):
        with running_engine(own_bundle) as engine:
            assert isinstance(engine.use(refs[1], None).exception(PATIENCE_S), InvalidInput)
            assert isinstance(engine.use(BASE, weights[1]).exception(PATIENCE_S), InvalidInput)

    def test_refuses_other_weights_under_a_version_that_is_known(self, own_bundle, weights, refs):
        with running_engine(own_bundle) as engine:
            engine.use(refs[1], weights[1]).result(PATIENCE_S)
            other = AdapterRef(version=1, digest=refs[2].digest)
            assert isinstance(engine.use(other, weights[2]).exception(PATIENCE_S), Conflict)

    def test_ends_what_waits_when_the_engine_is_closed(self, own_bundle, weights, refs):
        with running_engine(own_bundle) as engine:
            pass
        assert isinstance(engine.use(refs[1], weights[1]).exception(PATIENCE_S), Unavailable)


class TestPinnedVersions:
    def test_more_versions_than_slots_take_turns_and_nobody_starves(self, own_bundle, weights, refs, looks):
        with running_engine(own_bundle) as engine:
            for number, ref in refs.items():
                engine.add(ref, weights[number]).result()
            told = {(number, turn): Told() for turn in range(3) for number in (3, 0, 1, 4, 2)}
            for (number, turn), observer in told.items():
                engine.submit(ask(f"{number} {turn}", fill_in(1, range(3)), adapter_version=number), observer)
            for (number, _), observer in told.items():
                assert torch.equal(look(observer.result()), looks[number])

    def test_a_version_that_waits_for_a_slot_is_not_overtaken_for_ever(self, own_bundle, weights, refs):
        """Requests for the versions in both slots keep coming; the third gets its turn all the same."""
        with running_engine(own_bundle) as engine:
            for number, ref in refs.items():
                engine.add(ref, weights[number]).result()
            engine.use(refs[1], weights[1]).result(PATIENCE_S)
            waiting, followers = Told(), []

            def follow(step: int, number: int) -> None:
                if step == 1 and not waiting.errors and len(followers) < 200:
                    followers.append(Told(on_advanced=lambda step: follow(step, number)))
                    name = f"follower {len(followers)}"
                    engine.submit(ask(name, fill_in(1, (5,)), adapter_version=number), followers[-1])

            for number in (1, 2):
                engine.submit(
                    ask(f"leader {number}", fill_in(1, (5,)), adapter_version=number),
                    Told(on_advanced=lambda step, number=number: follow(step, number)),
                )
            engine.submit(ask("waiting", fill_in(1, (5,)), adapter_version=3), waiting)
            waiting.result()
            assert len(followers) < 50

    def test_names_a_version_that_is_not_known(self, own_bundle):
        with running_engine(own_bundle) as engine, pytest.raises(NotFound, match="adapter version 9 is not known"):
            engine.submit(ask("r", fill_in(1, range(3)), adapter_version=9), Told())

    def test_forgets_the_oldest_versions_that_nobody_uses(self, own_bundle, weights):
        with running_engine(own_bundle) as engine:
            for number in range(1, KEPT + 4):
                engine.add(AdapterRef(version=number, digest=f"{number:064x}"), weights[1]).result()
            assert [ref.version for ref in engine.known] == [0, *range(4, KEPT + 4)]


class TestManySwaps:
    def test_under_traffic_fail_no_request_and_do_not_grow(self, own_bundle, weights):
        """A hundred versions one after the other, every fifth time the one before again, while requests come and go."""
        with running_engine(own_bundle) as engine:
            sizes, results = [], []
            for swap in range(1, 101):
                number = swap - 1 if swap % 5 == 0 else swap
                factor = 1 + number / 100
                changed = replace(weights[1], tensors={k: v * factor for k, v in weights[1].tensors.items()})
                told = Told()
                engine.submit(ask(f"r{swap}", fill_in(swap, (1, 2)), sampler=settings(num_inference_steps=2)), told)
                engine.use(AdapterRef(version=number, digest=f"{number:064x}"), changed).result(PATIENCE_S)
                assert engine.active.version == number
                results.append(told)
                if swap % 10 == 0:
                    sizes.append(size(engine, own_bundle))
            assert all(len(told.result()) == 1 for told in results)
        assert len({(modules, parameters) for modules, parameters, _ in sizes}) == 1
        tensors = [count for _, _, count in sizes[3:]]  # by then as many versions are known as may be
        assert max(tensors) - min(tensors) < len(weights[1].tensors)


def size(engine: Engine, bundle: DiFashion) -> tuple[int, int, int]:
    """Modules and parameters of the UNet, and tensors of its adapters' shapes that are alive anywhere."""
    gc.collect()
    modules, parameters = sum(1 for _ in bundle.unet.modules()), sum(p.numel() for p in bundle.unet.parameters())
    alive = [
        thing for thing in gc.get_objects() if type(thing) is torch.Tensor and 4 in thing.shape[:2] and thing.ndim == 2
    ]
    return modules, parameters, len(alive)
