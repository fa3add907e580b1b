"""Which adapter versions an engine knows, which are in the UNet, and which one is active."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.adapter_slots import AdapterSlots
from fashiondpo.diffusion.engine_requests import EngineMetrics
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import Conflict, FashionDPOError, InvalidInput, NotFound

KEPT = 16
"""Versions that stay known although nobody uses them; a few MiB each at 512 px."""

BASE = AdapterRef()


@dataclass(frozen=True)
class _Known:
    ref: AdapterRef
    weights: AdapterWeights


@dataclass(frozen=True)
class _Activation:
    ref: AdapterRef
    done: Future[None] = field(default_factory=Future)


class AdapterPool:
    """Versions of which at most two are in the UNet at a time.

    What is known is looked after under a lock and may be asked by anybody. What is loaded belongs to the engine's thread.
    The active version keeps its slot; the other slot is for whatever else is wanted, one version after the other.
    """

    def __init__(self, slots: AdapterSlots, metrics: EngineMetrics) -> None:
        self.slots, self.active = slots, BASE
        self._metrics, self._lock = metrics, threading.Lock()
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._pins: Counter[int] = Counter()
        self._loads: list[int] = []
        self._wanted: deque[_Activation] = deque()

    # known versions: any thread

    @property
    def known(self) -> tuple[AdapterRef, ...]:
        """Every version that may be asked for."""
        with self._lock:
            return (BASE, *(known.ref for known in self._known.values()))

    def _ref(self, version: int) -> AdapterRef:
        if version == 0:
            return BASE
        if version not in self._known:
            raise NotFound(f"adapter version {version} is not known here")
        return self._known[version].ref

    def add(self, ref: AdapterRef, weights: AdapterWeights | None) -> None:
        """Make a version known and pin it once.

        Raises:
            InvalidInput: if reference and weights do not go together.
            InvalidAdapter: if the weights do not fit.
            Conflict: if the version is known with another digest.
        """
        if (ref.version == 0) != (weights is None):
            given = "no weights" if weights is None else "weights"
            raise InvalidInput(f"adapter version {ref.version} and {given} were given")
        if weights is not None:
            self.slots.verify(weights)
        with self._lock:
            if weights is not None:
                before = self._known.get(ref.version)
                if before is not None and before.ref != ref:
                    raise Conflict(f"adapter version {ref.version} is known with another digest, {before.ref.digest}")
                self._known[ref.version] = before or _Known(ref, weights)
                self._known.move_to_end(ref.version)
            self._pins[ref.version] += 1
            self._forget()

    def pin(self, version: int) -> AdapterRef:
        """Keep a version known until it is unpinned as often; raises NotFound."""
        with self._lock:
            ref = self._ref(version)
            self._pins[version] += 1
            return ref

    def unpin(self, version: int) -> None:
        """Let a version be forgotten, once nobody else needs it."""
        with self._lock:
            self._pins[version] -= 1
            if self._pins[version] <= 0:
                del self._pins[version]
            self._forget()

    def _forget(self) -> None:
        needed = {self.active.version, *self._pins, *(ref.version for ref in self.slots.refs if ref is not None)}
        unneeded = [version for version in self._known if version not in needed]
        for version in unneeded[: max(len(unneeded) - KEPT, 0)]:
            del self._known[version]

    # loaded versions: the engine's thread

    def want(self, ref: AdapterRef, done: Future[None]) -> None:
        """Make a version active that was added, as soon as a slot can be had for it; in the order of asking."""
        self._wanted.append(_Activation(ref, done))

    def settle(self, busy: Collection[int]) -> None:
        """Carry out what was asked with `want`, as far as slots can be had.

        Args:
            busy: versions of rows that have begun; their slots stay as they are.
        """
        while self._wanted:
            wanted, slot = self._wanted[0], self.next_slot(busy)
            if not self.is_loaded(wanted.ref) and not self.is_free(slot, busy):
                return
            self._wanted.popleft()
            self._activate(wanted, slot)

    def _activate(self, wanted: _Activation, slot: int) -> None:
        try:
            if not self.is_loaded(wanted.ref):
                self.load(slot, wanted.ref)
        except Exception as error:  # noqa: BLE001 — whoever asked is told; the engine goes on
            wanted.done.set_exception(error)
        else:
            self.active = wanted.ref
            wanted.done.set_result(None)
        finally:
            self.unpin(wanted.ref.version)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to become active."""
        return not self._wanted

    def is_loaded(self, ref: AdapterRef) -> bool:
        """Whether rows of this version could be advanced now."""
        return ref.version == 0 or ref in self.slots.refs

    def next_slot(self, busy: Collection[int]) -> int:
        """The slot that the next version will go into: an empty one, one without rows, the one filled longest ago."""
        spare = [slot for slot, ref in enumerate(self.slots.refs) if ref is None or ref != self.active]

        def worth(slot: int) -> tuple[bool, int]:
            return not self.is_free(slot, busy), self._loads.index(slot) if slot in self._loads else -1

        return min(spare, key=worth)

    def is_free(self, slot: int, busy: Collection[int]) -> bool:
        """Whether no row that has begun needs what is in the slot."""
        ref = self.slots.refs[slot]
        return ref is None or ref.version not in busy

    def version_in(self, slot: int) -> int | None:
        """What is in a slot."""
        ref = self.slots.refs[slot]
        return None if ref is None else ref.version

    def load(self, slot: int, ref: AdapterRef) -> None:
        """Put a known version into a free slot; raises NotFound."""
        started = time.perf_counter()
        with self._lock:
            self._ref(ref.version)
            weights = self._known[ref.version].weights
        self.slots.load(slot, ref, weights)
        self._loads = [other for other in self._loads if other != slot] + [slot]
        self._metrics.swap(ref, time.perf_counter() - started)

    def close(self, reason: FashionDPOError) -> None:
        """Give up what waits, for this reason; the UNet is the base model again."""
        while self._wanted:
            self._wanted.popleft().done.set_exception(reason)
        self.slots.close()
