"""Rounds whose work is a walk of a few steps, each kept in the round's record, so that a slice can be cut anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fashiondpo.contracts import AdapterRef, RoundRecord, SamplerSettings
from fashiondpo.errors import Cancelled
from fashiondpo.outfits.model import DataSet
from fashiondpo.run_settings import RunSettings
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.stores import Stores, memory_stores
from services.trainer.basis import Basis
from services.trainer.opening import open_ordered_round
from services.trainer.orders import RoundOrder
from services.trainer.queue import MemoryQueue
from services.trainer.slice_contract import SliceEnd, SliceHooks, SliceLimits, Work
from services.trainer.slices import advance
from tests.tiny_models import TINY_SAMPLER
from tests.tiny_rounds import HISTORY, Squares, blanks

STEPS = 5
LIMITS = SliceLimits(
    slice_s=60,
    lease_s=30,
    max_attempts=3,
    retry_first_s=0.02,
    retry_longest_s=0.1,
    give_up_after_s=30,
    tell_s=0,
    poll_s=0,
)


@dataclass
class Walk:
    """Work of `STEPS` steps. `on_step` is called before each, with the number of the step.

    Attributes:
        on_step: what happens meanwhile.
        taken: numbers of the steps that were made, in all slices.
    """

    on_step: Callable[[int], None] = lambda _step: None
    taken: list[int] = field(default_factory=list)

    @contextmanager
    def open_work(self, job: RoundJob, stores: Stores, lease: Lease, hooks: SliceHooks) -> Iterator[Work]:
        def work(record: RoundRecord) -> RoundRecord:
            while len(record.set_ids) < STEPS:
                if hooks.should_stop():
                    raise Cancelled("stopped between two steps")
                step = len(record.set_ids) + 1
                self.on_step(step)
                record = record.model_copy(update={"set_ids": (*record.set_ids, f"step-{step}")})
                stores.feedback.put_round(record)
                self.taken.append(step)
                hooks.progress("collect")(step, STEPS, {})
            record = record.model_copy(update={"stage": "done"})
            stores.feedback.put_round(record)
            hooks.stage_finished(record)
            return record

        yield work


@dataclass
class Shop:
    """Stores and queue of a trainer in this process."""

    stores: Stores
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    opened: int = 0

    @classmethod
    def at(cls, folder: Path) -> Shop:
        return cls(memory_stores(FolderArtifacts(folder / "artifacts")))

    def open(self, *, key: str | None = None) -> str:
        self.opened += 1
        order = RoundOrder(asked={}, settings=RunSettings(), adapter=AdapterRef(), key=key or f"order-{self.opened}")
        return open_ordered_round(order, stores=self.stores, queue=self.queue).round_id

    def advance(self, round_id: str, walk: Walk, *, limits: SliceLimits = LIMITS, **options) -> SliceEnd:
        """The slice that is due."""
        number = self.stores.jobs.get(round_id).slice_number
        return advance(
            round_id,
            options.pop("slice_number", number),
            stores=self.stores,
            open_work=walk.open_work,
            limits=limits,
            holder=options.pop("holder", "worker"),
            **options,
        )

    def job(self, round_id: str) -> RoundJob:
        return self.stores.jobs.get(round_id)

    def change(self, round_id: str, **changes: object) -> RoundJob:
        """Change a job, as time or a crash would have."""
        return self.stores.jobs.update(round_id, lambda job: job.model_copy(update=changes))

    def events(self, round_id: str, kind: str) -> list[dict]:
        return [event.details for event in self.stores.jobs.events(round_id) if event.kind == kind]


def brief(limits: SliceLimits = LIMITS) -> SliceLimits:
    """Slices that end after their first step."""
    return replace(limits, slice_s=1e-9)


def squares_basis(*, train: int = 240, valid: int = 80, sampler: SamplerSettings = TINY_SAMPLER) -> Basis:
    """A small data set of coloured squares."""
    splits = {"train": blanks(train), "valid": blanks(valid, first=1000)}
    return Basis(
        DataSet(
            name="squares",
            catalogue=Squares(),
            categories={},
            outfits={},
            histories=dict.fromkeys(splits, HISTORY),
            blanks=splits,
        ),
        sampler,
    )
