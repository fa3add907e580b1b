"""Versions that requests ask for by number, made known to the engine when they are first needed."""

from __future__ import annotations

from concurrent.futures import Future
from threading import Lock
from typing import Protocol

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import DeadlineExceeded
from fashiondpo.storage.adapters import AdapterRegistry


class AdapterLoader(Protocol):
    """What can be given more versions than the active one: the engine."""

    @property
    def known(self) -> tuple[AdapterRef, ...]:
        """Every version that a request may name now."""

    def add(self, ref: AdapterRef, weights: AdapterWeights) -> Future[None]:
        """Verify the weights and keep them; raises InvalidAdapter through the future."""


class PinnedAdapters:
    """Fetches versions from the registry, each once however many ask for it at the same time."""

    def __init__(self, registry: AdapterRegistry, engine: AdapterLoader, *, timeout_s: float) -> None:
        """`timeout_s` is how long the engine may take to accept a version."""
        self._registry, self._engine, self._timeout_s = registry, engine, timeout_s
        self._lock = Lock()

    def ensure(self, version: int) -> None:
        """See that the engine knows the version.

        Raises:
            NotFound: if the registry has no such version.
            InvalidAdapter: if its weights do not fit the generator.
            CorruptArtifact: if its weights are damaged or gone.
            Unavailable: if the registry does not answer, or the engine is too busy.
        """
        if self._is_known(version):
            return
        with self._lock:
            if self._is_known(version):
                return
            ref = self._registry.manifest(version).ref
            weights = AdapterWeights.from_bytes(self._registry.weights(version))
            try:
                self._engine.add(ref, weights).result(self._timeout_s)
            except TimeoutError as error:
                raise DeadlineExceeded(f"adapter version {version} was not loaded in {self._timeout_s:g} s") from error

    def _is_known(self, version: int) -> bool:
        return any(ref.version == version for ref in self._engine.known)
