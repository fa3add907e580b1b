from collections.abc import Iterator

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.diffusion.adapter_slots import SLOT_NAMES, AdapterSlots
from fashiondpo.diffusion.compiling import CompiledUNet, nothing_compiled_anew
from tests.tiny_models import TEXT_WIDTH, adapted, build_tiny_bundle, random_adapter
from tests.unit.diffusion.compile_counter import CountingBackend

PLACES = (None, *range(len(SLOT_NAMES)))
ROWS = (4, 6)
AS_COMPILED = {"rtol": 1e-4, "atol": 1e-5}
"""Other orders of summation in float32, through some thirty layers."""


def forward(unet, rows: int, *, timestep: int = 500, size: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    latents = size * torch.randn(rows, 8, 8, 8, generator=generator)
    timesteps = torch.arange(timestep, timestep + rows)
    with torch.no_grad():
        return unet(latents, timesteps, torch.randn(rows, 24, TEXT_WIDTH, generator=generator)).sample


class Compiled:
    """A tiny UNet with two places, compiled for every place and some numbers of rows."""

    def __init__(self) -> None:
        self.bundle, self.backend = build_tiny_bundle(), CountingBackend()
        self.slots = AdapterSlots(self.bundle.unet, self.bundle.digest, rank=4, will_be_compiled=True)
        self.unet = CompiledUNet(self.bundle.unet, places=len(PLACES), backend=self.backend)
        for slot in PLACES:
            self.slots.select_slot(slot)
            for rows in ROWS:
                forward(self.unet, rows)
        self.warm = self.backend.graphs

    def adapter(self, seed: int, **changes):
        return random_adapter(build_tiny_bundle(), seed=seed, **changes)

    def load(self, slot: int, weights) -> None:
        self.slots.load(slot, None, weights)
        self.slots.select_slot(slot)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Compiled]:
    yield Compiled()
    torch.compiler.reset()


class TestCompiledUNet:
    def test_is_compiled_once_for_every_place_and_number_of_rows(self, tiny):
        assert tiny.warm == len(PLACES) * len(ROWS)

    def test_is_not_compiled_again_by_a_hundred_swaps_into_both_places(self, tiny):
        before = tiny.backend.graphs
        weights = [tiny.adapter(seed) for seed in (1, 2)]
        for swap in range(100):
            tiny.load(swap % 2, weights[swap % 3 % 2])
            forward(tiny.unet, ROWS[swap % 2])
        tiny.slots.select_slot(None)
        forward(tiny.unet, ROWS[0])
        assert tiny.backend.graphs == before

    def test_is_not_compiled_again_for_an_adapter_of_another_rank_scale_or_targets(self, tiny):
        before = tiny.backend.graphs
        small = tiny.adapter(3, rank=2)
        few = {key: value for key, value in small.tensors.items() if ".to_q." in key}
        for weights in (
            small,
            type(small)(small.tensors, 2, 7.0, small.targets, small.base_digest),
            type(small)(few, 2, 2.0, ("to_q",), small.base_digest),
        ):
            tiny.load(0, weights)
            forward(tiny.unet, ROWS[0])
        assert tiny.backend.graphs == before

    def test_is_not_compiled_again_for_another_timestep_or_other_latents(self, tiny):
        before = tiny.backend.graphs
        tiny.slots.select_slot(None)
        for timestep in (0, 1, 250, 900):
            forward(tiny.unet, ROWS[0], timestep=timestep, size=3.0)
        assert tiny.backend.graphs == before

    def test_computes_with_the_weights_that_were_swapped_in_last(self, tiny):
        for seed, alpha in ((4, 4.0), (5, 1.0), (6, 16.0)):
            fresh = tiny.adapter(seed, scale=0.3)
            weights = type(fresh)(fresh.tensors, fresh.rank, alpha, fresh.targets, fresh.base_digest)
            tiny.load(1, weights)
            bundle = build_tiny_bundle()
            with adapted(bundle, weights):
                assert_close(forward(tiny.unet, ROWS[1]), forward(bundle.unet, ROWS[1]), **AS_COMPILED)

    def test_computes_as_the_base_model_when_no_place_is_selected(self, tiny):
        tiny.load(0, tiny.adapter(1, scale=0.3))
        tiny.slots.select_slot(None)
        assert_close(forward(tiny.unet, ROWS[0]), forward(build_tiny_bundle().unet, ROWS[0]), **AS_COMPILED)


class TestNothingCompiledAnew:
    def test_lets_a_number_of_rows_that_was_never_seen_run_uncompiled(self, tiny):
        before = tiny.backend.graphs
        tiny.slots.select_slot(None)
        with nothing_compiled_anew():
            assert_close(forward(tiny.unet, 5), forward(build_tiny_bundle().unet, 5), **AS_COMPILED)
            assert_close(forward(tiny.unet, 6), forward(build_tiny_bundle().unet, 6), **AS_COMPILED)
        assert tiny.backend.graphs == before

    def test_ends_with_the_context(self):
        backend = CountingBackend()
        unet = CompiledUNet(build_tiny_bundle().unet, places=1, backend=backend)
        with nothing_compiled_anew():
            forward(unet, 2)
        assert backend.graphs == 0
        forward(unet, 2)
        assert backend.graphs == 1
