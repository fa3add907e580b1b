"""What a round was asked for, as its job keeps it: everything that its record follows from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from fashiondpo.contracts import AdapterRef, Frozen, RoundRecord
from fashiondpo.errors import InvalidInput
from fashiondpo.run_settings import RoundSource, RunSettings
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.records import first_problem
from fashiondpo.storage.traffic import Provenance

GateSide = Literal["before", "after"]
"""Of a gate's comparison: with the adapter that the round began with, and with the new one."""


class RoundOrder(Frozen):
    """A request that was checked, with what it meant at that moment.

    Attributes:
        asked: the request, as it was sent.
        settings: the whole settings that follow from it.
        adapter: the champion then: the round starts from it, whoever is champion later.
        made_by: which recorded traffic the round learns from; None if it paints outfits of the data set.
        key: differs between any two orders, and is the same when a client repeats one.
    """

    asked: dict[str, JsonValue]
    settings: RunSettings
    adapter: AdapterRef
    made_by: Provenance | None = None
    key: str = Field(min_length=1)

    @property
    def source(self) -> RoundSource:
        """What the round learns from."""
        return "split" if self.made_by is None else "traffic"


def order_of(job: RoundJob) -> RoundOrder:
    """What the job was asked for.

    Raises:
        InvalidInput: if something else than this trainer has opened it.
    """
    try:
        return RoundOrder.model_validate(job.request)
    except ValidationError as error:
        raise InvalidInput(f"the request of {job.round_id} cannot be read: {first_problem(error)}") from error


def first_record(job: RoundJob) -> RoundRecord:
    """The record with which the round begins; the same whoever makes it."""
    order = order_of(job)
    return RoundRecord(
        round_id=job.round_id,
        seed=order.settings.seed,
        adapter=order.adapter,
        settings=order.settings.model_dump(mode="json"),
    )


def gate_name(round_id: str, side: GateSide) -> str:
    """The round under which the feedback store has what the gate paints for one side of its comparison."""
    return f"gate-{round_id}-{side}"
