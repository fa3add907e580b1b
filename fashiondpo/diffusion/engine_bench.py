"""The engine's work, step by step: whose turn it is, what is told of it. All of it on the engine's thread."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.compiling import INDUCTOR, Backend
from fashiondpo.diffusion.engine_adapters import BASE, AdapterPool
from fashiondpo.diffusion.engine_compiling import compiled_denoiser
from fashiondpo.diffusion.engine_forward import Denoiser
from fashiondpo.diffusion.engine_jobs import FairQueue, Job, Painting
from fashiondpo.diffusion.engine_requests import EngineMetrics
from fashiondpo.diffusion.engine_rows import Row
from fashiondpo.diffusion.engine_studio import Studio
from fashiondpo.diffusion.placement_choices import Compilation
from fashiondpo.errors import Cancelled, DeadlineExceeded, FashionDPOError
from fashiondpo.telemetry import log


class Workbench:
    """Requests in work.

    Attributes:
        queued_rows, running_rows: rows that have not begun; rows that have, and are not finished.
        seconds_per_row: what a step of a row takes at present, while forwards are full.
        failures: forwards that failed since the last that did not.
        is_compiled: whether its forwards are.
    """

    def __init__(
        self,
        studio: Studio,
        pool: AdapterPool,
        *,
        rows_per_forward: int,
        metrics: EngineMetrics,
        on_over: Callable[[Painting], None],
        compilation: Compilation = "off",
        compiler: Backend = INDUCTOR,
    ) -> None:
        self._compilation, self._compiler, self.is_compiled = compilation, compiler, False
        self.studio, self.pool, self._metrics, self._on_over = studio, pool, metrics, on_over
        self._denoiser = Denoiser(studio.bundle, rows_per_forward)
        self._queue = FairQueue()
        self._busy: Counter[int] = Counter()
        self.queued_rows = self.running_rows = 0
        self.seconds_per_row, self.failures = 0.0, 0

    def __len__(self) -> int:
        """Outfits that are not finished."""
        return len(self._queue)

    @property
    def work_left(self) -> tuple[int, int]:
        """Rows times steps of what has begun, and of what has not; may be asked on any thread."""
        jobs = list(self._queue)
        return sum(j.work_left for j in jobs if j.run), sum(j.work_left for j in jobs if not j.run)

    def warm_up(self) -> None:
        """Do once what every request needs, compiled if that is asked for, and measure a step.

        Raises:
            Unavailable: if it must be compiled and cannot be.
        """
        if self._compilation != "off":
            capacity = self._denoiser.capacity
            compiled = compiled_denoiser(self.studio, self.pool.slots, capacity, self._compilation, self._compiler)
            self._denoiser, self.is_compiled = compiled or self._denoiser, compiled is not None
        self.seconds_per_row = self.studio.warm_up(self._denoiser) / self._denoiser.capacity

    def admit(self, painting: Painting) -> None:
        """Queue a request."""
        self._queue.enter(painting)
        self.queued_rows += painting.num_rows
        self._metrics.queue(self.queued_rows, self.running_rows)

    def end(self, painting: Painting, error: FashionDPOError | None) -> None:
        """Take a request out and tell its observer why; nothing happens if it is over."""
        if painting.is_over:
            return
        painting.is_over = True
        for job in self._queue.leave(painting):
            self._leave(job)
        if painting.pinned is not None:
            self.pool.unpin(painting.pinned)
        if error is None:
            self._metrics.last_image(time.monotonic() - painting.submitted_at)
        self._metrics.queue(self.queued_rows, self.running_rows)
        self._on_over(painting)
        try:
            painting.observer.ended(error)
        except Exception:  # noqa: BLE001 — one observer's fault is not the others'
            log_fault("observer_failed", request_id=painting.request.request_id)

    def end_all(self, error: FashionDPOError) -> None:
        """End every request for the same reason."""
        for painting in self._queue.paintings:
            self.end(painting, error)

    def _leave(self, job: Job) -> None:
        if job.painting.ref is None or job.run is None:
            self.queued_rows -= job.task.num_rows
            return
        self.running_rows -= sum(len(slot.rows) for slot in job.slots if slot.told < len(slot.plan))
        version = job.painting.ref.version
        self._busy[version] -= 1
        if self._busy[version] == 0:
            del self._busy[version]

    def step(self) -> None:
        """End what is to end, swap what is to be swapped, advance those whose turn it is, tell what came of it."""
        started = time.perf_counter()
        self._end_stopped()
        self.pool.settle(self._busy)
        ref, picked = self._pick()
        rows = [row for _, of_job in picked for row in of_job]
        if not rows or not self._advance(ref, picked, rows):
            return
        self._queue.worked(len(rows))
        for job, of_job in picked:
            self._report(job, of_job)
        self._metrics.queue(self.queued_rows, self.running_rows)
        if len(rows) == self._denoiser.capacity:
            seconds_per_row = (time.perf_counter() - started) / len(rows)
            self.seconds_per_row += 0.1 * (seconds_per_row - self.seconds_per_row)

    def _end_stopped(self) -> None:
        for painting in self._queue.paintings:
            if painting.is_cancelled:
                self.end(painting, Cancelled(f"request {painting.request.request_id} was cancelled"))
            elif painting.is_overdue:
                limit = painting.request.deadline_s
                self.end(painting, DeadlineExceeded(f"it was not finished within the {limit:g} s that it had"))

    def _pick(self) -> tuple[AdapterRef, list[tuple[Job, list[Row]]]]:
        """Rows of one adapter and the same guidance branches for the next forward, in the queue's order.

        A version that is in no slot waits until one has no rows. Meanwhile nothing that comes later in the order may
        begin with the version that is in that slot, or it would wait for ever.
        """
        chosen, branches, picked = BASE, tuple[int, ...](), list[tuple[Job, list[Row]]]()
        room = self._denoiser.capacity
        closed = set() if self.pool.is_settled else {self.pool.version_in(self.pool.next_slot(self._busy))}
        for job in self._queue:
            ref = job.painting.ref or self.pool.active
            if job.painting.is_over or not self._is_loaded(job, ref, closed, may_load=not picked):
                continue
            if picked and (ref, job.painting.branches) != (chosen, branches):
                continue
            if job.run is None and (ref.version in closed or not self._begin(job, ref)):
                continue
            rows = job.run.ready()[:room] if job.run is not None else []
            chosen, branches, room = ref, job.painting.branches, room - len(rows)
            picked.append((job, rows))
            if room == 0:
                break
        return chosen, [(job, rows) for job, rows in picked if not job.painting.is_over]

    def _is_loaded(self, job: Job, ref: AdapterRef, closed: set[int | None], *, may_load: bool) -> bool:
        if self.pool.is_loaded(ref):
            return True
        slot = self.pool.next_slot(self._busy)
        if not may_load or closed or not self.pool.is_free(slot, self._busy):
            closed.add(self.pool.version_in(slot))
            return False
        return self._attempt(job.painting, lambda: self.pool.load(slot, ref))

    def _begin(self, job: Job, ref: AdapterRef) -> bool:
        """Encode the conditions of an outfit; False if that ended its request."""
        painting = job.painting

        def begin() -> None:
            job.run = self.studio.begin(job)
            painting.ref = ref
            self.queued_rows -= job.task.num_rows
            self.running_rows += job.task.num_rows
            self._busy[ref.version] += 1
            if painting.pinned is None:
                self.pool.pin(ref.version)
                painting.pinned = ref.version
            if not painting.has_begun:
                painting.has_begun = True
                painting.observer.started(ref)

        return self._attempt(painting, begin)

    def _advance(self, ref: AdapterRef, picked: Sequence[tuple[Job, list[Row]]], rows: list[Row]) -> bool:
        """One forward; False if it failed, which ends the requests that took part."""
        try:
            self.pool.slots.select(ref)
            started = time.perf_counter()
            self._denoiser.advance(rows, ref)
            self._metrics.forward(len(rows), self._denoiser.capacity, time.perf_counter() - started)
            for job, of_job in picked:
                if job.run is not None:
                    job.run.settle(of_job)
        except Exception:  # noqa: BLE001 — whatever it is, the engine goes on with the others
            log_fault("step_failed", rows=len(rows), adapter_version=ref.version)
            self.failures += 1
            for job, _ in picked:
                self.end(job.painting, unforeseen())
            return False
        self.failures = 0
        return True

    def _report(self, job: Job, rows: Sequence[Row]) -> None:
        painting = job.painting
        if not painting.has_stepped:
            painting.has_stepped = True
            self._metrics.first_step(time.monotonic() - painting.submitted_at)
        advanced = {id(row.slot) for row in rows}
        for index, slot in enumerate(job.slots):
            if id(slot) in advanced and slot.done > slot.told and not painting.is_over:
                self._attempt(painting, partial(self._report_slot, job, index))
        if not painting.is_over and all(slot.told == len(slot.plan) for slot in job.slots):
            self._queue.remove(job)
            self._leave(job)
        if painting.sets_left == 0:
            self.end(painting, None)

    def _report_slot(self, job: Job, index: int) -> None:
        painting, slot = job.painting, job.slots[index]
        previews = self.studio.previews(slot) if slot.is_preview_due(slot.done) else []
        slot.told = slot.done
        painting.observer.advanced(job.task.set_ids[index], slot.told, len(slot.plan), previews)
        if slot.told == len(slot.plan):
            self.running_rows -= len(slot.rows)
            painting.observer.finished_set(self.studio.finish(job, index, painting.ref or BASE))
            painting.sets_left -= 1

    def _attempt(self, painting: Painting, work: Callable[[], object]) -> bool:
        """Do something for one request; if it fails, end that request and no other."""
        try:
            work()
        except FashionDPOError as error:
            self.end(painting, error)
        except Exception:  # noqa: BLE001 — whatever it is, the engine goes on with the others
            log_fault("request_failed", request_id=painting.request.request_id)
            self.end(painting, unforeseen())
        return not painting.is_over


def unforeseen() -> FashionDPOError:
    """What callers are told of a fault of ours: no more than that."""
    return FashionDPOError("painting failed for a reason that nobody foresaw; the log has it")


def log_fault(event: str, **ids: str | int) -> None:
    """Log the exception that is being handled. As text: renderers that show variables take minutes for a model's."""
    log().error(event, exception=traceback.format_exc(), **ids)
