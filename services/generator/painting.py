"""Between the engine's thread and everybody else: progress is noted at once, pictures are stored on worker threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from threading import Lock

from fashiondpo.contracts import AdapterRef, CandidateSet
from fashiondpo.diffusion.engine import FinishedSet
from fashiondpo.errors import FashionDPOError, Unavailable
from fashiondpo.outfits.model import Image
from fashiondpo.telemetry import log
from services.generator.generation import LiveGeneration, SetStep

Store = Callable[[FinishedSet], CandidateSet]


class Painting:
    """Listens to the engine for one generation, which ends when all that was painted is stored."""

    def __init__(
        self,
        generation: LiveGeneration,
        writers: Executor,
        store: Store,
        *,
        stop: Callable[[], None],
        ended: Callable[[FashionDPOError | None], None],
    ) -> None:
        """Compose.

        Args:
            generation: is told what happens.
            writers: threads on which sets are stored.
            store: keeps one set.
            stop: asks the engine to stop, because a set could not be stored.
            ended: called once, when nothing more will happen.
        """
        self._generation, self._writers, self._store = generation, writers, store
        self._stop, self._ended = stop, ended
        self._lock = Lock()
        self._open = 1  # the engine itself, and every set that is being stored
        self._error: FashionDPOError | None = None

    def started(self, adapter: AdapterRef) -> None:
        """Painting begins."""
        self._generation.started(adapter)

    def advanced(self, set_id: str, step: int, num_steps: int, previews: Sequence[Image]) -> None:
        """A set is one step further."""
        self._generation.advanced(SetStep(set_id, step, num_steps, tuple(previews)))

    def finished_set(self, result: FinishedSet) -> None:
        """A set is painted, and now to be stored."""
        with self._lock:
            self._open += 1
        self._writers.submit(self._keep, result)

    def ended(self, error: FashionDPOError | None) -> None:
        """The engine is through with it."""
        self._leave(error)

    def _keep(self, result: FinishedSet) -> None:
        error: FashionDPOError | None = None
        try:
            self._generation.finished_set(self._store(result))
        except FashionDPOError as problem:
            error = problem
        except Exception as problem:  # noqa: BLE001 - whatever a store raises must not leave callers waiting
            log().error("set_not_stored", set_id=result.set_id, exc_info=problem)
            error = Unavailable(f"candidate set {result.set_id} could not be stored")
        if error is not None:
            # noted before the engine hears of it: this is the reason, not the stop that follows from it
            with self._lock:
                self._error = self._error or error
            self._stop()
        self._leave(error)

    def _leave(self, error: FashionDPOError | None) -> None:
        with self._lock:
            self._error = self._error or error
            self._open -= 1
            is_over = self._open == 0
        if is_over:
            self._ended(self._error)
