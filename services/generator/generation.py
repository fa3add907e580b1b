"""A generation from acceptance to its end: what is there of it, and who wants to know. No torch, no web framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

from fashiondpo.contracts import AdapterRef, CandidateSet
from fashiondpo.errors import Cancelled, FashionDPOError
from fashiondpo.messages import Generation, GenerationStatus, Problem
from fashiondpo.outfits.model import Image
from fashiondpo.storage.aliases import utc_now

ENDED: frozenset[GenerationStatus] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class GenerationPlan:
    """What was accepted.

    Attributes:
        generation_id: its name.
        set_ids: names of its candidate sets, in the order of the request.
        rows: candidates over all sets.
        num_steps: denoising steps of every set.
        base_digest: of the model that paints.
        rows_per_forward: how many rows are denoised together.
        owner: name of the API key that asked for it.
    """

    generation_id: str
    set_ids: tuple[str, ...]
    rows: int
    num_steps: int
    base_digest: str
    rows_per_forward: int
    owner: str


@dataclass(frozen=True)
class SetStep:
    """How far a set is: step k of n, and the pictures so far where they were asked for."""

    set_id: str
    step: int
    num_steps: int
    previews: tuple[Image, ...] = ()


@dataclass(frozen=True)
class News:
    """What happened to a generation since a reader last looked.

    Attributes:
        mark: to be passed when looking again.
        status: now.
        done, total: denoising steps.
        steps: the sets that moved.
        finished: the sets that were finished, in the order in which that happened.
    """

    mark: int
    status: GenerationStatus
    done: int
    total: int
    steps: tuple[SetStep, ...]
    finished: tuple[CandidateSet, ...]

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED


class LiveGeneration:
    """A generation that this process paints, told by the engine's thread and read by everybody."""

    def __init__(self, plan: GenerationPlan, *, is_detached: bool) -> None:
        """Takes what was accepted; a detached one goes on when nobody waits for it."""
        self.plan, self.is_detached = plan, is_detached
        self._lock = Lock()
        self._readers: list[Callable[[], None]] = []
        self._enders: list[Callable[[], None]] = []
        self._waiting = 0
        self._mark = 0
        self._moved: dict[str, tuple[int, SetStep]] = {}
        self._finished: list[tuple[int, CandidateSet]] = []
        self._status: GenerationStatus = "queued"
        self._adapter: AdapterRef | None = None
        self._created_at, self._finished_at = utc_now(), ""
        self._error: FashionDPOError | None = None
        self._problem: Problem | None = None

    @property
    def error(self) -> FashionDPOError | None:
        """Why it ended without all its pictures; None while it has not, or if it has them."""
        return self._error

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self._status in ENDED

    def started(self, adapter: AdapterRef) -> None:
        """Painting begins with this adapter."""
        with self._lock:
            self._mark += 1
            self._status, self._adapter = "running", adapter
        self._tell()

    def advanced(self, step: SetStep) -> None:
        """A set is one step further."""
        with self._lock:
            self._mark += 1
            self._moved[step.set_id] = self._mark, step
        self._tell()

    def finished_set(self, candidate_set: CandidateSet) -> None:
        """A set is there, with its pictures stored."""
        with self._lock:
            self._mark += 1
            self._finished.append((self._mark, candidate_set))
        self._tell()

    def end(self, error: FashionDPOError | None, problem: Problem | None) -> None:
        """Nothing more will happen; without an error every set is there."""
        with self._lock:
            self._error, self._problem = error, problem
            self._finished_at = utc_now()
            self._status = "succeeded" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
            # pictures of a work in progress are of no use any more, and finished generations are kept for long
            self._moved = {
                set_id: (mark, SetStep(set_id, step.step, step.num_steps))
                for set_id, (mark, step) in self._moved.items()
            }
            enders = tuple(self._enders)
        self._tell()
        for ender in enders:
            ender()

    def view(self) -> Generation:
        """Everything that is there of it now."""
        with self._lock:
            order = {set_id: place for place, set_id in enumerate(self.plan.set_ids)}
            return Generation(
                generation_id=self.plan.generation_id,
                status=self._status,
                done=self._done(),
                total=self._total(),
                created_at=self._created_at,
                finished_at=self._finished_at or None,
                candidate_sets=tuple(sorted((s for _, s in self._finished), key=lambda s: order[s.set_id])),
                adapter=self._adapter,
                base_digest=self.plan.base_digest,
                rows_per_forward=self.plan.rows_per_forward,
                problem=self._problem,
            )

    def news(self, mark: int) -> News:
        """What happened since the mark; 0 for all of it."""
        with self._lock:
            return News(
                mark=self._mark,
                status=self._status,
                done=self._done(),
                total=self._total(),
                steps=tuple(step for changed, step in self._moved.values() if changed > mark),
                finished=tuple(candidate_set for changed, candidate_set in self._finished if changed > mark),
            )

    def subscribe(self, reader: Callable[[], None], *, to_steps: bool = True) -> Callable[[], None]:
        """Call the reader, on whatever thread, whenever something happened; returns what ends that.

        Whoever only waits for the end should not be woken by steps: the model has better use for the cores.
        """
        readers = self._readers if to_steps else self._enders
        with self._lock:
            readers.append(reader)

        def unsubscribe() -> None:
            with self._lock:
                readers.remove(reader)

        return unsubscribe

    def attach(self) -> None:
        """One more caller waits for the result."""
        with self._lock:
            self._waiting += 1

    def detach(self) -> bool:
        """A caller waits no more; whether nobody is left who wants an unfinished result."""
        with self._lock:
            self._waiting -= 1
            return self._waiting == 0 and not self.is_detached and not self.is_ended

    def _done(self) -> int:
        return self._total() if self._status == "succeeded" else sum(step.step for _, step in self._moved.values())

    def _total(self) -> int:
        return self.plan.num_steps * len(self.plan.set_ids)

    def _tell(self) -> None:
        with self._lock:
            readers: Sequence[Callable[[], None]] = tuple(self._readers)
        for reader in readers:
            reader()
