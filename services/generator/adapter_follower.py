"""Keeps this generator on the registry's champion: the alias is the truth, asked again and again; hints only hurry."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Lock, Thread
from time import monotonic
from typing import Protocol

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import FashionDPOError, Unavailable
from fashiondpo.storage.adapters import AdapterRegistry
from fashiondpo.telemetry import log

_PIECE_S = 0.2


class AdapterUser(Protocol):
    """What paints with adapters: the engine."""

    @property
    def active(self) -> AdapterRef:
        """What new requests are painted with."""

    def use(self, ref: AdapterRef, weights: AdapterWeights | None) -> Future[None]:
        """Verify the weights and paint with them from now on; raises InvalidAdapter through the future."""


class AdapterFollower:
    """A thread that activates on the engine whatever version the registry calls champion.

    A champion that cannot be served changes nothing: the version that is active goes on serving, the problem is told,
    and it is tried again now and then.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        engine: AdapterUser,
        *,
        poll_s: float,
        retry_s: float = 30.0,
        swap_timeout_s: float = 300.0,
        wait_for_hint: Callable[[float], bool] | None = None,
        on_look: Callable[[AdapterRef, bool], None] = lambda _active, _is_champion: None,
    ) -> None:
        """Compose.

        Args:
            registry: whose champion is followed.
            engine: what is told to use it.
            poll_s: the alias is read that often.
            retry_s: a champion that could not be served is fetched again after so long.
            swap_timeout_s: the engine has that long for a swap.
            wait_for_hint: waits so many seconds, less if somebody says that the alias has moved; whether they did.
            on_look: told after every look what is active, and whether that is the champion.
        """
        self._registry, self._engine = registry, engine
        self._poll_s, self._retry_s, self._swap_timeout_s = poll_s, retry_s, swap_timeout_s
        self._is_closed = Event()
        self._wait_for_hint, self._on_look = wait_for_hint or self._is_closed.wait, on_look
        self._lock = Lock()
        self._refused: tuple[int, float] | None = None  # which version, and when it may be tried again
        self._problem: str | None = "the registry was not asked yet"
        self._has_followed = False
        self._thread = Thread(target=self._run, name="adapter-follower", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why the champion is not served; None if it is."""
        return self._problem

    @property
    def has_followed(self) -> bool:
        """Whether the registry's word has ever been followed; before that nobody knows what should be served."""
        return self._has_followed

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Stop following, and wait until that is so."""
        self._is_closed.set()
        self._thread.join()

    def follow(self, *, at_once: bool = False) -> None:
        """Do now what the registry says, or note why that cannot be done; safe on any thread.

        Args:
            at_once: also try a version that was refused a moment ago.
        """
        with self._lock:
            if at_once:
                self._refused = None
            try:
                self._follow()
            except FashionDPOError as error:
                self._note(str(error))
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever one version's files raise
                log().error("following_failed", exc_info=error)
                self._note(f"following the champion failed: {type(error).__name__}")
            self._on_look(self._engine.active, self._problem is None)

    def _run(self) -> None:
        while not self._is_closed.is_set():
            self.follow()
            until = monotonic() + self._poll_s
            # in short pieces, so that closing need not wait for a hint
            while (left := until - monotonic()) > 0 and not self._is_closed.is_set():
                if self._wait_for_hint(min(left, _PIECE_S)):
                    break

    def _follow(self) -> None:
        version = self._registry.alias("champion") or 0
        if self._has_followed and version == self._engine.active.version:
            self._problem, self._refused = None, None
            return
        if self._refused is not None and self._refused[0] == version and monotonic() < self._refused[1]:
            return
        started = monotonic()
        # until it serves, it counts as refused: a version of gigabytes is not fetched again at every look
        self._refused = version, started + self._retry_s
        try:
            ref, weights = self._fetch(version)
            self._engine.use(ref, weights).result(self._swap_timeout_s)
        except Unavailable:
            self._refused = None  # says nothing about the version
            raise
        self._refused, self._problem, self._has_followed = None, None, True
        log().info("adapter_activated", adapter_version=version, seconds=round(monotonic() - started, 3))

    def _fetch(self, version: int) -> tuple[AdapterRef, AdapterWeights | None]:
        if version == 0:
            return AdapterRef(), None
        return self._registry.manifest(version).ref, AdapterWeights.from_bytes(self._registry.weights(version))

    def _note(self, problem: str) -> None:
        version = self._refused[0] if self._refused is not None else None
        said = problem if version is None else f"version {version} cannot be served: {problem}"
        if said != self._problem:
            log().warning("champion_not_served", problem=said, serving=self._engine.active.version)
        self._problem = said
