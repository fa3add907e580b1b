"""Forwards of fewer rows: used once they were seen to give what full ones give, and never where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.engine_shapes import CHECKS, KEPT_KINDS, ForwardKind, ForwardShapes
from fashiondpo.diffusion.model import DiFashion
from tests.polling import eventually
from tests.tiny_engines import ask, fill_in, paint, running_engine, version
from tests.tiny_models import build_tiny_bundle, random_adapter

BRANCHES = 3
"""Of the tiny bundle's scales."""


def kind(version: int, branches: int = BRANCHES) -> ForwardKind:
    return ForwardKind(branches, AdapterRef(version=version, digest=f"{version:064x}" if version else None))


def prove(shapes: ForwardShapes, of: ForwardKind, rows: int) -> None:
    for _ in range(CHECKS):
        shapes.note(of, rows, agrees=True)


class TestForwardShapes:
    def test_the_full_shape_needs_no_proof(self):
        shapes = ForwardShapes(7)
        assert shapes.choose(kind(0), 7) == 7
        assert shapes.is_proven(kind(0), 7)

    def test_a_shape_is_trusted_after_enough_checks_and_not_before(self):
        shapes = ForwardShapes(7)
        for _ in range(CHECKS):
            assert shapes.choose(kind(0), 3) == 3
            assert not shapes.is_proven(kind(0), 3)
            shapes.note(kind(0), 3, agrees=True)
        assert shapes.is_proven(kind(0), 3)

    def test_one_that_differs_once_is_never_used_again_however_often_it_agreed(self):
        shapes = ForwardShapes(4)
        shapes.note(kind(0), 2, agrees=True)
        shapes.note(kind(0), 2, agrees=False)
        prove(shapes, kind(0), 2)
        assert shapes.choose(kind(0), 2) == 3
        shapes.note(kind(0), 3, agrees=False)
        assert [shapes.choose(kind(0), rows) for rows in (1, 2, 3, 4)] == [1, 4, 4, 4]

    @pytest.mark.parametrize("other", [kind(1), kind(0, branches=4)], ids=["adapter", "branches"])
    def test_what_is_known_of_one_kind_says_nothing_of_another(self, other):
        shapes = ForwardShapes(7)
        prove(shapes, kind(0), 3)
        shapes.note(kind(0), 2, agrees=False)
        assert not shapes.is_proven(other, 3)
        assert shapes.choose(other, 2) == 2

    def test_the_kinds_that_were_not_met_for_longest_are_forgotten(self):
        shapes = ForwardShapes(7)
        prove(shapes, kind(0), 3)
        shapes.note(kind(0), 2, agrees=False)
        for number in range(1, KEPT_KINDS + 1):
            shapes.note(kind(number), 3, agrees=True)
        assert not shapes.is_proven(kind(0), 3)
        assert shapes.choose(kind(0), 2) == 2
        assert shapes.choose(kind(1), 3) == 3


@contextmanager
def forwards(unet: nn.Module, change: Callable[[torch.Tensor], None]) -> Iterator[list[int]]:
    """How many samples each forward had, while `change` alters what comes out."""
    seen: list[int] = []

    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        sample = output.sample
        seen.append(len(sample))
        change(sample)

    handle = unet.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


class TestInTheEngine:
    @pytest.fixture
    def own_bundle(self) -> DiFashion:
        return build_tiny_bundle()

    def test_a_small_request_of_the_base_model_pays_for_its_own_rows_from_the_start(self, own_bundle):
        with (
            running_engine(own_bundle, rows_per_forward=9) as engine,
            forwards(own_bundle.unet, lambda _: None) as seen,
        ):
            eventually(lambda: engine.is_ready)
            seen.clear()  # of warming up
            paint(engine, ask("first", fill_in(1, range(3))))
            assert set(seen) == {3 * BRANCHES}

    def test_one_of_a_new_adapter_does_once_it_was_seen_beside_full_forwards(self, own_bundle):
        weights = random_adapter(own_bundle, seed=1)
        with (
            running_engine(own_bundle, rows_per_forward=9) as engine,
            forwards(own_bundle.unet, lambda _: None) as seen,
        ):
            engine.use(version(1, weights), weights).result()
            seen.clear()
            paint(engine, ask("first", fill_in(1, range(3))))
            assert seen.count(9 * BRANCHES) == CHECKS
            seen.clear()
            paint(engine, ask("second", fill_in(2, range(3))))
            assert set(seen) == {3 * BRANCHES}

    def test_where_shapes_differ_only_full_ones_count(self, own_bundle):
        """As if every number of rows had its own way to sum."""

        def own_bits(sample: torch.Tensor) -> None:
            sample += 1e-6 * len(sample)

        with forwards(own_bundle.unet, own_bits) as seen, running_engine(own_bundle, rows_per_forward=6) as engine:
            (alone,) = paint(engine, ask("alone", fill_in(1, range(4))))
            seen.clear()
            (again,) = paint(engine, ask("again", fill_in(1, range(4))))
            assert set(seen) == {6 * BRANCHES}
            (crowded,) = paint(engine, ask("crowded", fill_in(1, range(4)), fill_in(2, range(2))))[:1]
        assert torch.equal(alone.trajectory.latents, again.trajectory.latents)
        assert torch.equal(alone.trajectory.latents, crowded.trajectory.latents)

    def test_a_difference_that_rounding_would_hide_counts_as_one(self, own_bundle):
        """Stored as half precision, both forwards would visit the same place."""

        def nearly(sample: torch.Tensor) -> None:
            sample *= 1 + 1e-6 * (len(sample) < 6 * BRANCHES)

        half = own_bundle.sampler.model_copy(update={"state_dtype": "float16"})
        with forwards(own_bundle.unet, nearly) as seen, running_engine(own_bundle, rows_per_forward=6) as engine:
            paint(engine, ask("first", fill_in(1, range(4)), sampler=half))
            seen.clear()
            paint(engine, ask("second", fill_in(2, range(4)), sampler=half))
        assert set(seen) == {6 * BRANCHES}
