"""What takes long to load is loaded beside the event loop, while /livez answers and /readyz says how far it is.

    loading = Loading("model", lambda progress: load_judge(settings, progress))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading.start(app.state.lifetime)
        yield  # requests are served meanwhile
        loading.close()

    create_service(…, lifespan=lifespan, readiness={"model": loading.problem})

Routes take `loading.value`, which raises Unavailable until it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Generic, TypeVar

from fashiondpo.errors import Cancelled, Unavailable
from fashiondpo.serving.lifetime import Lifetime
from fashiondpo.telemetry import Progress, log

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 5.0


class Loading(Generic[T]):
    """One thing that is loaded once, in a thread of its own. If that fails, the service ends: a restart may help."""

    def __init__(self, name: str, load: Callable[[Progress], T]) -> None:
        """`load` gets a function to tell its progress to; that raises Cancelled when the service ends meanwhile."""
        self._name, self._load = name, load
        self._thread: Thread | None = None
        self._values: list[T] = []
        self._state = "not begun"
        self._is_closed = Event()
        self._logged_at = 0.0

    def start(self, lifetime: Lifetime) -> None:
        """Begin; a failure ends this lifetime."""
        self._thread = Thread(target=self._run, args=(lifetime,), name=f"load-{self._name}", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop loading at the next step of its progress, and wait for that."""
        self._is_closed.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def value(self) -> T:
        """What was loaded.

        Raises:
            Unavailable: while it is not there.
        """
        if not self._values:
            raise Unavailable(f"the {self._name} is not there yet: {self._state}")
        return self._values[0]

    def problem(self) -> str | None:
        """For /readyz: None when it is there."""
        return None if self._values else self._state

    def _run(self, lifetime: Lifetime) -> None:
        started = time.perf_counter()
        self._state = "loading"
        log().info("loading", what=self._name)
        try:
            self._values.append(self._load(self._progress))
        except Cancelled:
            self._state = "stopped"
        except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
            self._state = "loading failed"
            lifetime.fail(error)
        else:
            log().info("loaded", what=self._name, seconds=round(time.perf_counter() - started, 2))

    def _progress(self, done: int, total: int, _figures: Mapping[str, float]) -> None:
        if self._is_closed.is_set():
            raise Cancelled(f"the service ends while the {self._name} is loaded")
        self._state = f"loading, {done} of {total}"
        now = time.perf_counter()
        if done == total or now - self._logged_at > _SECONDS_BETWEEN_LINES:
            self._logged_at = now
            log().info("loading", what=self._name, done=done, total=total)
