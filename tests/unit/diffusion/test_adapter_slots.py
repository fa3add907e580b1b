from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.adapter_slots import AdapterSlots
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import InvalidAdapter
from tests.tiny_engines import version
from tests.tiny_models import adapted, build_tiny_bundle, random_adapter


@pytest.fixture(scope="module")
def own_bundle() -> DiFashion:
    return build_tiny_bundle()


@pytest.fixture
def slots(own_bundle) -> Iterator[AdapterSlots]:
    opened = AdapterSlots(own_bundle.unet, own_bundle.digest, rank=4)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def first(own_bundle) -> AdapterWeights:
    return random_adapter(own_bundle, seed=1)


@pytest.fixture(scope="module")
def second(own_bundle) -> AdapterWeights:
    return random_adapter(own_bundle, seed=2)


def output(bundle: DiFashion) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latents, prompts = torch.randn(2, 8, 8, 8, generator=generator), torch.randn(2, 24, 16, generator=generator)
    with torch.no_grad():
        return bundle.unet(latents, torch.tensor([3, 500]), prompts).sample


def output_with(bundle: DiFashion, weights: AdapterWeights | None) -> torch.Tensor:
    """As the library computes without slots, in a bundle of its own."""
    with adapted(bundle, weights):
        return output(bundle)


class TestSlots:
    def test_compute_as_the_base_model_until_one_is_selected(self, own_bundle, slots, first):
        base = output_with(build_tiny_bundle(), None)
        assert torch.equal(output(own_bundle), base)
        slots.load(0, version(1, first), first)
        assert torch.equal(output(own_bundle), base)

    def test_compute_as_the_adapter_that_is_selected(self, own_bundle, slots, first, second):
        refs = [version(1, first), version(2, second)]
        slots.load(0, refs[0], first)
        slots.load(1, refs[1], second)
        for ref, weights in [*zip(refs, (first, second), strict=True), (refs[0], first)]:
            slots.select(ref)
            assert torch.equal(output(own_bundle), output_with(build_tiny_bundle(), weights))
        slots.select(AdapterRef())
        assert torch.equal(output(own_bundle), output_with(build_tiny_bundle(), None))

    def test_filling_one_leaves_the_other_alone(self, own_bundle, slots, first, second):
        slots.load(0, version(1, first), first)
        slots.select(version(1, first))
        before = output(own_bundle)
        slots.load(1, version(2, second), second)
        assert torch.equal(output(own_bundle), before)

    def test_a_smaller_rank_and_another_alpha_replace_all_of_what_was_there(self, own_bundle, slots, first):
        small = replace(random_adapter(build_tiny_bundle(), rank=2, seed=3), alpha=7.0)
        slots.load(0, version(1, first), first)
        slots.load(0, version(2, small), small)
        slots.select(version(2, small))
        assert_close(output(own_bundle), output_with(build_tiny_bundle(), small), rtol=1e-4, atol=1e-5)
        slots.load(0, version(1, first), first)
        assert torch.equal(output(own_bundle), output_with(build_tiny_bundle(), first))

    def test_fewer_targets_leave_the_other_projections_to_the_base(self, own_bundle, slots, first):
        some = replace(
            first, targets=("to_q",), tensors={key: value for key, value in first.tensors.items() if ".to_q." in key}
        )
        slots.load(0, version(1, first), first)
        slots.verify(some)
        slots.load(0, version(2, some), some)
        slots.select(version(2, some))
        assert_close(output(own_bundle), output_with(build_tiny_bundle(), some), rtol=1e-4, atol=1e-5)

    def test_select_nothing_that_is_not_loaded(self, slots, first):
        with pytest.raises(ValueError, match="not in list"):
            slots.select(version(1, first))

    def test_neither_modules_nor_parameters_grow_with_the_swaps(self, own_bundle, slots, first, second):
        def inventory() -> list[tuple[str, int]]:
            return [(name, parameter.data_ptr()) for name, parameter in own_bundle.unet.named_parameters()]

        before, modules = inventory(), sum(1 for _ in own_bundle.unet.modules())
        for swap in range(100):
            weights = (first, second)[swap % 2]
            slots.load(swap % 2, version(swap + 1, weights), weights)
        assert inventory() == before
        assert sum(1 for _ in own_bundle.unet.modules()) == modules

    def test_leave_the_base_model_when_they_are_closed(self, own_bundle, first):
        opened = AdapterSlots(own_bundle.unet, own_bundle.digest, rank=4)
        opened.load(0, version(1, first), first)
        opened.select(version(1, first))
        opened.close()
        assert [name for name, _ in own_bundle.unet.named_parameters()] == [
            name for name, _ in build_tiny_bundle().unet.named_parameters()
        ]
        assert torch.equal(output(own_bundle), output_with(build_tiny_bundle(), None))


class TestVerify:
    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda w: replace(w, base_digest="4" * 64), "was trained on base 444444444444"),
            (lambda w: replace(w, rank=8), "has rank 4, the adapter says 8"),
            (lambda w: replace(w, targets=(*w.targets, "conv_in")), r"changes \['conv_in'\]"),
            (lambda w: replace(w, tensors={}), "has no tensors"),
            (lambda w: replace(w, tensors=dict(list(w.tensors.items())[2:])), "2 tensors missing"),
            (lambda w: replace(w, targets=("to_q",)), r"0 tensors missing \[\], \d+ unknown"),
            (lambda w: with_tensor(w, lambda t: t * float("nan")), "non-finite values"),
            (lambda w: with_tensor(w, lambda t: t[:, 1:]), r"has shape \(4, \d+\), the UNet needs \(4, \d+\)"),
            (lambda w: replace(w, alpha=float("inf")), "alpha must be finite"),
        ],
    )
    def test_refuses_what_does_not_fit_and_changes_nothing(self, own_bundle, slots, first, change, problem):
        slots.load(0, version(1, first), first)
        slots.select(version(1, first))
        before = output(own_bundle)
        with pytest.raises(InvalidAdapter, match=problem):
            slots.verify(change(first))
        assert torch.equal(output(own_bundle), before)

    def test_refuses_a_larger_rank_than_there_is_room_for(self, slots):
        with pytest.raises(InvalidAdapter, match="has rank 6, there is room for rank 4"):
            slots.verify(random_adapter(build_tiny_bundle(), rank=6))


def with_tensor(weights: AdapterWeights, change) -> AdapterWeights:
    key = next(key for key in weights.tensors if ".lora_A." in key)
    return replace(weights, tensors=weights.tensors | {key: change(weights.tensors[key])})
