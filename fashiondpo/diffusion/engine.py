"""The generator's engine: one thread owns the model and paints for everybody, step by step.

Rows at different timesteps, with different guidance and numbers of steps share a forward. A request joins between two
steps, leaves when it is done, and stops within two steps when it is cancelled. Every forward has the same number of
rows (docs/decisions/0008-every-forward-has-the-same-shape.md), so what a request gets does not depend on who else asks.
"""

from __future__ import annotations

from concurrent.futures import Future

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.engine_requests import (
    EngineMetrics,
    FinishedSet,
    NoMetrics,
    OutfitTask,
    PaintObserver,
    PaintRequest,
)
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.outfits.model import History

__all__ = ["Engine", "EngineMetrics", "FinishedSet", "NoMetrics", "OutfitTask", "PaintObserver", "PaintRequest"]


class Engine:
    """Paints requests of many callers with one bundle. Between `start` and `close` nobody else may touch the bundle."""

    def __init__(
        self,
        bundle: DiFashion,
        encoder: ConditionEncoder,
        history: History,
        *,
        rows_per_forward: int = 7,
        max_queued_rows: int = 512,
        adapter_rank: int = 4,
        metrics: EngineMetrics | None = None,
    ) -> None:
        """Compose; nothing runs before `start`.

        Args:
            bundle: its UNet carries no adapter.
            encoder: of this bundle.
            history: what is known of the users.
            rows_per_forward: rows of every forward, padded if there are fewer. Seven on a CPU, where more are not
                faster; more on a GPU.
            max_queued_rows: rows that may wait for their first step; more are refused.
            adapter_rank: largest rank of an adapter that can be used.
            metrics: whoever watches.
        """
        raise NotImplementedError

    def start(self) -> None:
        """Begin to work, after a forward that warms up; `is_ready` turns true then."""
        raise NotImplementedError

    def submit(self, request: PaintRequest, observer: PaintObserver) -> None:
        """Accept a request; from now on the observer is told of it.

        Raises:
            Overloaded: if too many rows wait; says after how many seconds there will be room.
            TooLarge: if the request has more rows than may ever wait.
            InvalidInput: if it cannot be painted as asked: unknown category, impossible number of steps.
            NotFound: if the adapter version is not known: `add` it first.
            Conflict: if a request of that id is in work.
            Unavailable: if the engine does not run, or is draining.
        """
        raise NotImplementedError

    def cancel(self, request_id: str) -> None:
        """End a request with Cancelled, within two steps; nothing happens if it is not in work."""
        raise NotImplementedError

    def use(self, ref: AdapterRef, weights: AdapterWeights | None) -> Future[None]:
        """Make a version the active one; rows in work finish with theirs. Version 0 and no weights: the base model.

        The future is done when new rows are painted with it. It has InvalidAdapter if the weights do not fit, Conflict if
        the version is known with another digest, InvalidInput if reference and weights do not go together; then
        everything stays as it was.
        """
        raise NotImplementedError

    def add(self, ref: AdapterRef, weights: AdapterWeights) -> Future[None]:
        """Make a version known, so that requests may name it; errors as in `use`. The oldest unused ones are forgotten."""
        raise NotImplementedError

    @property
    def active(self) -> AdapterRef:
        """What a request that names no version is painted with, if it begins now."""
        raise NotImplementedError

    @property
    def known(self) -> tuple[AdapterRef, ...]:
        """Every version that a request may name now, the base model among them."""
        raise NotImplementedError

    @property
    def loaded(self) -> tuple[AdapterRef, ...]:
        """The versions in the UNet's slots."""
        raise NotImplementedError

    @property
    def queued_rows(self) -> int:
        """Rows that wait for their first step."""
        raise NotImplementedError

    @property
    def running_rows(self) -> int:
        """Rows that have begun and are not finished."""
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        """Warm, running, and accepting requests."""
        raise NotImplementedError

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests from now on and wait for the accepted ones; False if some are left after the time."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop. Requests in work end with Unavailable; the bundle carries no adapter afterwards."""
        raise NotImplementedError
