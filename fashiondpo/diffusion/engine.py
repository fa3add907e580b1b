"""The generator's engine: one thread owns the model and paints for everybody, step by step.

Rows at different timesteps, with different guidance and numbers of steps share a forward. A request joins between two
steps, leaves when it is done, and stops within two steps when it is cancelled. Every row comes out as from a full forward
(docs/decisions/0014-forwards-of-proven-shapes.md), so what a request gets does not depend on who else asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.adapter_slots import AdapterSlots
from fashiondpo.diffusion.compiling import INDUCTOR, Backend, nothing_compiled_anew
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.engine_adapters import AdapterPool
from fashiondpo.diffusion.engine_bench import Workbench, log_fault, unforeseen
from fashiondpo.diffusion.engine_jobs import Painting
from fashiondpo.diffusion.engine_requests import (
    EngineMetrics,
    FinishedSet,
    NoMetrics,
    OutfitTask,
    PaintObserver,
    PaintRequest,
)
from fashiondpo.diffusion.engine_rows import StepPlan
from fashiondpo.diffusion.engine_studio import Studio
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.placement_choices import Compilation
from fashiondpo.errors import Conflict, FashionDPOError, Overloaded, TooLarge, Unavailable
from fashiondpo.outfits.model import History

__all__ = ["Engine", "EngineMetrics", "FinishedSet", "NoMetrics", "OutfitTask", "PaintObserver", "PaintRequest"]

SHORTEST_RETRY_S = 0.1
TOO_MANY_FAILURES = 3
"""Denoising steps that failed in a row, after which the model rather than a request is to blame."""


class Engine:
    """Paints requests of many callers with one bundle. Between `start` and `close` nobody else may touch the bundle."""

    def __init__(
        self,
        bundle: DiFashion,
        encoder: ConditionEncoder,
        history: History,
        *,
        rows_per_forward: int = 21,
        max_queued_rows: int = 512,
        adapter_rank: int = 4,
        metrics: EngineMetrics | None = None,
        compilation: Compilation = "off",
        compiler: Backend = INDUCTOR,
    ) -> None:
        """Put the adapters' slots on the UNet; nothing runs before `start`.

        Args:
            bundle: its UNet carries no adapter.
            encoder: of this bundle.
            history: what is known of the users.
            rows_per_forward: rows of a full forward; fewer come out as from a full one.
            max_queued_rows: rows that may wait for their first step; more are refused.
            adapter_rank: largest rank of an adapter that can be used.
            metrics: whoever watches.
            compilation: of the UNet, before it serves; `if_possible` goes on without, and logs why, where that fails.
            compiler: that does it.
        """
        self.rows_per_forward, self.max_queued_rows = rows_per_forward, max_queued_rows
        metrics = metrics or NoMetrics()
        self._encoder, self._schedule = encoder, bundle.schedule
        slots = AdapterSlots(bundle.unet, bundle.digest, rank=adapter_rank, will_be_compiled=compilation != "off")
        self._pool = AdapterPool(slots, metrics)
        self._bench = Workbench(
            Studio(bundle, encoder, history, metrics),
            self._pool,
            rows_per_forward=rows_per_forward,
            metrics=metrics,
            on_over=self._is_over,
            compilation=compilation,
            compiler=compiler,
        )
        # what several threads touch is touched under this lock; the models belong to the engine's thread alone
        self._changed = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._arriving_rows = 0
        self._paintings: dict[str, Painting] = {}
        self._refusal: str | None = "the engine was not started"
        self._is_closing = self._is_warm = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work, after a forward that warms up; `is_ready` turns true then."""
        with self._changed:
            self._refusal = None
        self._thread.start()

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
        for task in request.outfits:
            for slot in task.outfit.empty_slots:
                self._encoder.check_category(task.outfit.category_ids[slot])
        if request.num_rows > self.max_queued_rows:
            raise TooLarge(f"the request has {request.num_rows} pictures to paint, at most {self.max_queued_rows} fit")
        plan = StepPlan.of(self._schedule, request.settings.num_inference_steps)
        with self._changed:
            self._check_open()
            if request.request_id in self._paintings:
                raise Conflict(f"a request {request.request_id!r} is in work already")
            self._check_room(request.num_rows, len(plan))
            ref = None
            if request.adapter_version is not None:
                ref = self._pool.pin(request.adapter_version)
            painting = Painting(request, observer, plan, ref, request.adapter_version)
            self._paintings[request.request_id] = painting
            self._arriving_rows += request.num_rows
            self._send(partial(self._admit, painting))

    def _check_open(self) -> None:
        if self._refusal is not None or not self._thread.is_alive():
            raise Unavailable(self._refusal or "the engine's thread has died")

    def _check_room(self, rows: int, steps: int) -> None:
        excess = self.queued_rows + rows - self.max_queued_rows
        if excess <= 0:
            return
        running, waiting = self._bench.work_left
        # what has begun is finished first, then of what waits as many rows as are too many
        per_row = waiting / self._bench.queued_rows if self._bench.queued_rows else steps
        seconds = (running + excess * per_row) * self._bench.seconds_per_row
        raise Overloaded(
            f"{self.queued_rows} pictures wait to be painted, at most {self.max_queued_rows} may",
            retry_after_s=max(seconds, SHORTEST_RETRY_S),
        )

    def _admit(self, painting: Painting) -> None:
        with self._changed:
            self._arriving_rows -= painting.num_rows
            self._bench.admit(painting)

    def _is_over(self, painting: Painting) -> None:
        with self._changed:
            self._paintings.pop(painting.request.request_id, None)
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        """End a request with Cancelled, within two steps; nothing happens if it is not in work."""
        with self._changed:
            if request_id in self._paintings:
                self._paintings[request_id].is_cancelled = True

    def use(self, ref: AdapterRef, weights: AdapterWeights | None) -> Future[None]:
        """Make a version the active one; rows in work finish with theirs. Version 0 and no weights: the base model.

        The future is done when new rows are painted with it. It has InvalidAdapter if the weights do not fit, Conflict if
        the version is known with another digest, InvalidInput if reference and weights do not go together; then
        everything stays as it was.
        """
        done = Future[None]()
        try:
            self._pool.add(ref, weights)
        except FashionDPOError as error:
            done.set_exception(error)
            return done
        with self._changed:
            if self._is_closing:
                self._pool.unpin(ref.version)
                done.set_exception(Unavailable("the engine is closed"))
            else:
                self._send(partial(self._pool.want, ref, done))
        return done

    def add(self, ref: AdapterRef, weights: AdapterWeights | None) -> Future[None]:
        """Make a version known, so that requests may name it; errors as in `use`. The oldest unused ones are forgotten."""
        done = Future[None]()
        try:
            self._pool.add(ref, weights)
        except FashionDPOError as error:
            done.set_exception(error)
        else:
            self._pool.unpin(ref.version)
            done.set_result(None)
        return done

    def verify(self, weights: AdapterWeights) -> None:
        """Raise InvalidAdapter unless requests could be painted with the weights; changes nothing."""
        self._pool.slots.verify(weights)

    @property
    def active(self) -> AdapterRef:
        """What a request that names no version is painted with, if it begins now."""
        return self._pool.active

    @property
    def known(self) -> tuple[AdapterRef, ...]:
        """Every version that a request may name now, the base model among them."""
        return self._pool.known

    @property
    def loaded(self) -> tuple[AdapterRef, ...]:
        """The versions in the UNet's slots."""
        return tuple(ref for ref in self._pool.slots.refs if ref is not None)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for their first step."""
        return self._arriving_rows + self._bench.queued_rows

    @property
    def running_rows(self) -> int:
        """Rows that have begun and are not finished."""
        return self._bench.running_rows

    @property
    def problem(self) -> str | None:
        """Why no request should be sent here now; None while the engine is warm, open, and its steps succeed."""
        if self._refusal is not None:
            return self._refusal
        if not self._thread.is_alive():
            return "the engine's thread has died"
        if not self._is_warm:
            return "the engine is warming up"
        failures = self._bench.failures
        return f"the last {failures} denoising steps failed" if failures >= TOO_MANY_FAILURES else None

    @property
    def is_ready(self) -> bool:
        """Whether there is no problem."""
        return self.problem is None

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests from now on and wait for the accepted ones; False if some are left after the time."""
        with self._changed:
            self._refusal = self._refusal or "the engine finishes what it has accepted, and then stops"
            return self._changed.wait_for(lambda: not self._paintings, timeout_s)

    def close(self) -> None:
        """Stop. Requests in work end with Unavailable; the bundle carries no adapter afterwards."""
        with self._changed:
            self._refusal, self._is_closing = "the engine is closed", True
            self._changed.notify_all()
            was_started = self._thread.ident is not None
        if was_started:
            self._thread.join()
        else:
            self._finish()

    def _send(self, command: Callable[[], None]) -> None:
        self._inbox.append(command)
        self._changed.notify_all()

    # from here on: the engine's thread

    def _work(self) -> None:
        try:
            self._bench.warm_up()
            self._is_warm = True
        except FashionDPOError as error:
            log_fault("warm_up_failed")
            self._refusal = self._refusal or str(error)
        except Exception:  # noqa: BLE001 — whoever asks is told; the process may report it and stop in order
            log_fault("warm_up_failed")
            self._refusal = self._refusal or "the engine cannot paint: its first step failed, the log says why"
        with nothing_compiled_anew() if self._bench.is_compiled else nullcontext():
            while not self._is_closing:
                self._turn()
        self._finish()

    def _turn(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._is_closing or len(self._bench))
            commands, self._inbox = self._inbox, []
        for command in commands:
            command()
        try:
            self._bench.step()
        except Exception:  # noqa: BLE001 — a fault of ours must not leave callers waiting for ever
            log_fault("engine_failed")
            self._bench.end_all(unforeseen())

    def _finish(self) -> None:
        with self._changed:
            commands, self._inbox = self._inbox, []
        for command in commands:
            command()
        reason = Unavailable("the engine was closed")
        self._bench.end_all(reason)
        self._pool.close(reason)
