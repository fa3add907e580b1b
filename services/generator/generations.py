"""Accepts requests, paints them on the engine, answers for what was asked, and stops what nobody wants any more."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from uuid import uuid4

from fashiondpo.contracts import CandidateSet, SamplerSettings
from fashiondpo.diffusion.engine import Engine, FinishedSet, OutfitTask, PaintRequest
from fashiondpo.errors import Conflict, FashionDPOError, Forbidden, NotFound, Overloaded, TooLarge
from fashiondpo.messages import GenerateRequest, Generation
from fashiondpo.serving.keys import Caller
from fashiondpo.serving.problems import log_error, problem_of
from fashiondpo.telemetry import log
from services.generator.candidate_writer import CandidateWriter
from services.generator.generation import ENDED, GenerationPlan, LiveGeneration
from services.generator.generation_records import REPLACEABLE, GenerationRecord, GenerationRecords
from services.generator.metrics import GeneratorMetrics
from services.generator.painting import Painting
from services.generator.pinned_adapters import PinnedAdapters
from services.generator.request_reading import OutfitPlan, RequestReader, chosen_settings

_RETRY_OVERLOADED_S = 2.0
_SILENCE_S = 5.0
"""After a failure, ends are left to the claim keeper for so long."""


@dataclass(frozen=True)
class GenerationParts:
    """Who does what.

    Attributes:
        engine: paints.
        reader: spells out requests.
        adapters: fetches versions that requests pin.
        writer: keeps pictures and sets.
        writers: the threads on which it does.
        recorder: a thread of its own for records, so that a store that is silent holds up no pictures.
        records: of generations, shared with other replicas.
        metrics: figures.
        sampler, base_digest: the bundle's own settings, and its digest.
    """

    engine: Engine
    reader: RequestReader
    adapters: PinnedAdapters
    writer: CandidateWriter
    writers: Executor
    recorder: Executor
    records: GenerationRecords
    metrics: GeneratorMetrics
    sampler: SamplerSettings
    base_digest: str


@dataclass(frozen=True)
class GenerationLimits:
    """How much is accepted.

    Attributes:
        rows_per_forward: for the record.
        max_rows: candidates of one request; over all that has not ended, twice as many.
        max_deadline_s: no generation takes longer.
        max_unrecorded: ended generations that are kept while their records' store does not answer.
    """

    rows_per_forward: int
    max_rows: int
    max_deadline_s: float
    max_unrecorded: int


@dataclass
class Held:
    """A generation of this process until its end is recorded.

    Attributes:
        live: what happens to it.
        fingerprint: of the request, where an idempotency key names it.
        request: spelt out, if another process may have to paint it.
        attempts: how many processes have begun to.
        saving: held while its end is recorded.
        began: by the monotonic clock.
    """

    live: LiveGeneration
    fingerprint: str | None
    request: GenerateRequest | None
    attempts: int = 1
    saving: Lock = field(default_factory=Lock)
    began: float = field(default_factory=time.monotonic)

    @property
    def is_claimed(self) -> bool:
        """Whether others may ask for it by name before it has ended, so that it was recorded when it was accepted."""
        return self.fingerprint is not None or self.request is not None

    def record(self) -> GenerationRecord:
        """For other processes, as it is now."""
        view = self.live.view()
        return GenerationRecord(
            owner=self.live.plan.owner,
            generation=view,
            request=None if self.live.is_ended else self.request,
            fingerprint=self.fingerprint,
            attempts=self.attempts,
        )


class Generations:
    """All generations of this process; every method may be called on any thread, and may wait for stores."""

    def __init__(self, parts: GenerationParts, limits: GenerationLimits) -> None:
        self._parts, self._limits = parts, limits
        self._lock = Lock()
        self._held: dict[str, Held] = {}
        self._is_leaving, self._silent_until = False, 0.0

    def begin(
        self, request: GenerateRequest, caller: Caller, *, key: str | None = None, is_detached: bool = False
    ) -> LiveGeneration | Generation:
        """Accept a request, or find what was accepted under the same idempotency key.

        Args:
            request: as it came in.
            caller: who asks.
            key: what the caller calls this request; asking again under it does nothing new, unless that failed.
            is_detached: goes on when nobody waits for it, and survives this process.

        Returns:
            The generation, if it is painted here; else what is known of it.

        Raises:
            InvalidInput, UnknownItem, TooLarge, InvalidAdapter: if it cannot be painted as asked.
            Conflict: if the key was used for another request.
            Overloaded: if too much waits already.
            Unavailable: if this generator stops, or something it needs does not answer.
        """
        fingerprint = None if key is None else hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        name = uuid4().hex if key is None else hashlib.sha256(f"{caller.name}\n{key}".encode()).hexdigest()[:32]
        if fingerprint is not None and (found := self._begun(name, fingerprint)) is not None:
            return found
        plans = self._parts.reader.outfits(request, prefix=name)
        live = LiveGeneration(self._plan(name, caller.name, request, plans), is_detached=is_detached)
        spelt_out = request.model_copy(update={"outfits": tuple(plan.asked_again() for plan in plans)})
        held = Held(live, fingerprint, spelt_out if is_detached else None)
        if held.is_claimed and not self._parts.records.accept(held.record()):
            return self._parts.records.get(name).generation  # somebody was faster
        try:
            self._hold(held)
            self._paint(held, request, plans)
        except BaseException as error:
            self._withdraw(held, error)
            raise
        return live

    def resume(self, record: GenerationRecord) -> None:
        """Paint what another process has accepted and not finished; the caller has claimed it.

        Raises:
            FashionDPOError: if that cannot be done now, or not at all; the claim is the caller's still.
        """
        request = record.request
        if request is None:
            raise NotFound(f"generation {record.generation_id} has no request to paint again")
        if record.generation.adapter is not None:
            # what was begun is finished with the same weights, whatever serves now
            request = request.model_copy(update={"adapter_version": record.generation.adapter.version})
        plans = self._parts.reader.outfits(request, prefix=record.generation_id)
        live = LiveGeneration(self._plan(record.generation_id, record.owner, request, plans), is_detached=True)
        held = Held(live, record.fingerprint, record.request, record.attempts + 1)
        self._hold(held)
        try:
            self._paint(held, request, plans)
        except BaseException:
            self._drop(held)
            raise

    def find(self, generation_id: str) -> LiveGeneration | Generation:
        """The generation, if it is painted here; else what is known of it. Raises NotFound, Unavailable."""
        held = self._holding(generation_id)
        return held.live if held is not None else self._parts.records.get(generation_id).generation

    def cancel(self, generation_id: str, caller: Caller) -> LiveGeneration | Generation:
        """Have a generation stopped; nothing happens to one that has ended.

        Raises:
            NotFound: if there is none.
            Forbidden: if it is another's, and the caller no admin.
        """
        held = self._holding(generation_id)
        if held is not None:
            _check_owner(held.live.plan.owner, caller)
            self.stop(held.live)
            return held.live
        record = self._parts.records.get(generation_id)
        _check_owner(record.owner, caller)
        if record.generation.status not in ENDED:
            self._parts.records.ask_to_stop(generation_id)
        return record.generation

    def stop(self, live: LiveGeneration) -> None:
        """Stop painting, within two steps."""
        self._parts.engine.cancel(live.plan.generation_id)

    def held(self) -> list[Held]:
        """Everything that is painted here, or was and is not recorded yet."""
        with self._lock:
            return list(self._held.values())

    def hand_over(self) -> list[str]:
        """Leave to other processes what is not finished and could be finished by them; returns those ids."""
        with self._lock:
            self._is_leaving = True
            return [h.live.plan.generation_id for h in self._held.values() if h.request and not h.live.is_ended]

    def save(self, held: Held) -> bool:
        """Record the end of a generation, after which this process need not know it; whether there is nothing to do left."""
        name = held.live.plan.generation_id
        with held.saving:
            if self._holding(name) is not held:
                return True  # done before; by now the name may stand for another attempt
            if self._is_leaving and held.request is not None and held.live.error is not None:
                return True  # ended here, but not for good
            try:
                self._parts.records.finish(held.record())
            except FashionDPOError as error:
                log().warning("generation_not_recorded", generation_id=name, reason=str(error))
                self._silent_until = time.monotonic() + _SILENCE_S
                if not held.is_claimed and len(self._held) > self._limits.max_unrecorded:
                    self._drop(held)
                return False
            self._drop(held)
            return True

    def _begun(self, name: str, fingerprint: str) -> LiveGeneration | Generation | None:
        """What was begun under an idempotency key and has not failed."""
        held = self._holding(name)
        if held is not None and held.live.error is None:
            _check_fingerprint(held.fingerprint, fingerprint)
            return held.live
        if held is not None:
            self.save(held)
        try:
            record = self._parts.records.get(name)
        except NotFound:
            return None
        if record.generation.status in REPLACEABLE:
            return None
        _check_fingerprint(record.fingerprint, fingerprint)
        return record.generation

    def _plan(self, name: str, owner: str, request: GenerateRequest, plans: tuple[OutfitPlan, ...]) -> GenerationPlan:
        rows = sum(plan.rows for plan in plans)
        if rows > self._limits.max_rows:
            raise TooLarge(f"{rows} candidates are asked for in one request; the limit is {self._limits.max_rows}")
        return GenerationPlan(
            generation_id=name,
            set_ids=tuple(set_id for plan in plans for set_id in plan.set_ids),
            rows=rows,
            num_steps=chosen_settings(self._parts.sampler, request.sampler).num_inference_steps,
            base_digest=self._parts.base_digest,
            rows_per_forward=self._limits.rows_per_forward,
            owner=owner,
        )

    def _hold(self, held: Held) -> None:
        """Take it up, if there is room: what is painted and waits to be stored takes memory too, beside what waits."""
        with self._lock:
            unfinished = sum(other.live.plan.rows for other in self._held.values() if not other.live.is_ended)
            if unfinished + held.live.plan.rows > 2 * self._limits.max_rows:
                raise Overloaded(f"{unfinished} candidates are not finished yet", retry_after_s=_RETRY_OVERLOADED_S)
            self._held[held.live.plan.generation_id] = held

    def _holding(self, generation_id: str) -> Held | None:
        with self._lock:
            return self._held.get(generation_id)

    def _paint(self, held: Held, request: GenerateRequest, plans: tuple[OutfitPlan, ...]) -> None:
        if request.adapter_version is not None:
            self._parts.adapters.ensure(request.adapter_version)
        name = held.live.plan.generation_id
        paint = PaintRequest(
            request_id=name,
            outfits=tuple(
                OutfitTask(plan.outfit, plan.set_ids, plan.seeds, plan.history, plan.pictures) for plan in plans
            ),
            settings=chosen_settings(self._parts.sampler, request.sampler),
            adapter_version=request.adapter_version,
            wants_previews=request.previews,
            deadline_s=min(request.deadline_s or math.inf, self._limits.max_deadline_s),
        )
        store = partial(
            self._parts.writer.write, is_recorded=request.record, joins_traffic=request.record and not request.round_id
        )
        self._parts.engine.submit(paint, self._painting(held, store))

    def _painting(self, held: Held, store: Callable[[FinishedSet], CandidateSet]) -> Painting:
        # the engine's and the writers' threads know nothing of the request; their log lines should
        context = copy_context()
        return Painting(
            held.live,
            self._parts.writers,
            store,
            stop=partial(self.stop, held.live),
            ended=lambda error: context.run(self._end, held, error),
        )

    def _end(self, held: Held, error: FashionDPOError | None) -> None:
        if error is not None:
            log_error(error)
        problem = None if error is None else problem_of(error)
        held.live.end(error, problem)
        view = held.live.view()
        self._parts.metrics.ended(view.status)
        log().info(
            "generation",
            generation_id=view.generation_id,
            status=view.status,
            candidates=held.live.plan.rows,
            adapter_version=None if view.adapter is None else view.adapter.version,
            seconds=round(time.monotonic() - held.began, 3),
            reason=None if error is None else error.code,
        )
        if time.monotonic() > self._silent_until:
            self._parts.recorder.submit(self.save, held)

    def _withdraw(self, held: Held, error: BaseException) -> None:
        """Undo what was begun of a request that is refused; whoever joined it meanwhile hears why."""
        self._drop(held)
        if held.is_claimed:
            try:
                self._parts.records.discard(held.live.plan.generation_id)
            except FashionDPOError as problem:
                log().warning("generation_not_discarded", reason=str(problem))
        told = error if isinstance(error, FashionDPOError) else FashionDPOError("the generator failed")
        held.live.end(told, problem_of(told))

    def _drop(self, held: Held) -> None:
        with self._lock:
            if self._held.get(held.live.plan.generation_id) is held:
                del self._held[held.live.plan.generation_id]


def _check_owner(owner: str, caller: Caller) -> None:
    if caller.name != owner and not caller.may("admin"):
        raise Forbidden(f"this generation was asked for by {owner!r}: only they and admins may stop it")


def _check_fingerprint(known: str | None, asked: str) -> None:
    if known != asked:
        raise Conflict("this Idempotency-Key was used for another request; use a fresh one")
