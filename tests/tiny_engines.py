"""Engines over the tiny bundle, and observers that remember what they were told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fashiondpo.contracts import AdapterRef, Outfit, SamplerSettings, content_digest
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.engine import Engine, FinishedSet, OutfitTask, PaintRequest
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import FashionDPOError
from fashiondpo.outfits.model import Image
from tests.tiny_models import TINY_SAMPLER
from tests.tiny_rounds import HISTORY, Squares, blanks

PATIENCE_S = 60
"""How long a test waits for what takes milliseconds, before it fails."""


class Told:
    """An observer that remembers; with `on_advanced` it also does something after every step."""

    def __init__(self, on_advanced: Callable[[int], None] = lambda step: None) -> None:
        self.adapters: list[AdapterRef] = []
        self.steps: list[tuple[str, int, int]] = []
        self.previews: list[Sequence[Image]] = []
        self.sets: list[FinishedSet] = []
        self.errors: list[FashionDPOError | None] = []
        self.events: list[str] = []
        self._on_advanced, self._has_begun, self._is_over = on_advanced, threading.Event(), threading.Event()

    def started(self, adapter: AdapterRef) -> None:
        self.adapters.append(adapter)
        self.events.append("started")

    def advanced(self, set_id: str, step: int, num_steps: int, previews: Sequence[Image]) -> None:
        self.steps.append((set_id, step, num_steps))
        self.previews.append(previews)
        self.events.append("advanced")
        self._has_begun.set()
        self._on_advanced(step)

    def finished_set(self, result: FinishedSet) -> None:
        self.sets.append(result)
        self.events.append("finished_set")

    def ended(self, error: FashionDPOError | None) -> None:
        self.errors.append(error)
        self.events.append("ended")
        self._is_over.set()

    def begun(self) -> Told:
        """Wait until the first step was done."""
        assert self._has_begun.wait(PATIENCE_S), "the request did not begin"
        return self

    def over(self) -> Told:
        """Wait until the request is over, whatever became of it."""
        assert self._is_over.wait(PATIENCE_S), "the request did not end"
        return self

    def result(self) -> list[FinishedSet]:
        """Wait until every set is finished."""
        (error,) = self.over().errors
        if error is not None:
            raise error
        return self.sets


@contextmanager
def running_engine(bundle: DiFashion, *, rows_per_forward: int = 7, **options) -> Iterator[Engine]:
    """An engine at work; afterwards the bundle is as it was."""
    encoder = ConditionEncoder(bundle, Squares(), bundle.categories)
    engine = Engine(bundle, encoder, HISTORY, rows_per_forward=rows_per_forward, **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def settings(**changes) -> SamplerSettings:
    return TINY_SAMPLER.model_copy(update=changes)


def fill_in(number: int, seeds: Sequence[int], **changes) -> OutfitTask:
    """The outfit of that number, of which one slot is empty."""
    (blank,) = blanks(1, first=number)
    return OutfitTask(blank.outfit, (f"set-{number}",), (tuple(seeds),), **changes)


def painted_together(number: int, empty: Sequence[int], candidates: int, **changes) -> OutfitTask:
    """The outfit of that number with these slots empty; every candidate has a seed of its own."""
    outfit = whole(number).without(*empty)
    seeds = tuple(tuple(1000 * number + 100 * slot + k for k in range(candidates)) for slot in empty)
    return OutfitTask(outfit, tuple(f"set-{number}-{slot}" for slot in empty), seeds, **changes)


def whole(number: int) -> Outfit:
    (blank,) = blanks(1, first=number)
    items = tuple(blank.true_item_id if item is None else item for item in blank.outfit.item_ids)
    return blank.outfit.model_copy(update={"item_ids": items})


def ask(request_id: str, *tasks: OutfitTask, sampler: SamplerSettings = TINY_SAMPLER, **changes) -> PaintRequest:
    return PaintRequest(request_id, tasks, sampler, **changes)


def paint(engine: Engine, request: PaintRequest) -> list[FinishedSet]:
    """Submit and wait."""
    told = Told()
    engine.submit(request, told)
    return told.result()


def version(number: int, weights: AdapterWeights) -> AdapterRef:
    return AdapterRef(version=number, digest=content_digest(weights.to_bytes()))
