"""What the engine is asked for, and what it tells those who ask and those who watch it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fashiondpo.contracts import AdapterRef, ItemSource, Outfit, SamplerSettings
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import FashionDPOError, InvalidInput
from fashiondpo.outfits.model import Image


@dataclass(frozen=True)
class OutfitTask:
    """One outfit to complete: its one empty slot, or several that are painted together.

    Attributes:
        outfit: with at least one empty slot.
        set_ids: names of the candidate sets, one per empty slot, in slot order.
        seeds: per empty slot, one per candidate; the same number for every slot.
        history: what the user wore, by category; None for what the engine's histories know. A category that it does not
            name has none.
        pictures: by reference, the pictures of garments that are not in the catalogue.
    """

    outfit: Outfit
    set_ids: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    history: Mapping[int, tuple[ItemSource, ...]] | None = None
    pictures: Mapping[str, Image] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slots, name = len(self.outfit.empty_slots), f"outfit {self.outfit.outfit_id}"
        if slots == 0:
            raise InvalidInput(f"{name} has no empty slot to paint")
        if len(self.set_ids) != slots or len(self.seeds) != slots:
            raise InvalidInput(
                f"the {slots} empty slots of {name} need a name and seeds each, got {len(self.set_ids)} and "
                f"{len(self.seeds)}"
            )
        counts = {len(of_slot) for of_slot in self.seeds}
        if len(counts) != 1 or 0 in counts:
            raise InvalidInput(
                f"every empty slot of {name} needs the same number of candidates, at least one; got {sorted(counts)}"
            )

    @property
    def num_rows(self) -> int:
        """Pictures to paint: empty slots times candidates."""
        return len(self.seeds) * len(self.seeds[0])


@dataclass(frozen=True)
class PaintRequest:
    """Outfits to complete with the same settings and the same adapter.

    Attributes:
        request_id: whoever cancels names it; no two requests at a time may share one.
        outfits: at least one.
        settings: of the sampler; ddim_eta must be positive.
        adapter_version: a version that the engine knows; None for the one that is active when painting begins.
        wants_previews: show now and then what the candidates would be if they were finished now.
        deadline_s: seconds from submission after which it is ended with DeadlineExceeded.
    """

    request_id: str
    outfits: tuple[OutfitTask, ...]
    settings: SamplerSettings
    adapter_version: int | None = None
    wants_previews: bool = False
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if not self.outfits:
            raise InvalidInput(f"request {self.request_id} names no outfit to complete")
        if self.settings.ddim_eta == 0:
            raise InvalidInput("recording needs ddim_eta > 0: a deterministic step has no density")

    @property
    def num_rows(self) -> int:
        """Pictures to paint."""
        return sum(outfit.num_rows for outfit in self.outfits)


@dataclass(frozen=True)
class FinishedSet:
    """All candidates of one slot, finished.

    Attributes:
        set_id, outfit, slot: which.
        history: the slot's items of the request's own history; None where the engine's histories were asked.
        trajectory: how the candidates came about; its settings, seeds and adapter reproduce them.
        images: one per candidate.
        adapter: what painted them.
    """

    set_id: str
    outfit: Outfit
    slot: int
    history: tuple[ItemSource, ...] | None
    trajectory: Trajectory
    images: tuple[Image, ...]
    adapter: AdapterRef


class PaintObserver(Protocol):
    """Learns what becomes of a request. Called on the engine's thread: must return at once, and not raise."""

    def started(self, adapter: AdapterRef) -> None:
        """Painting begins, with this adapter to the end. Not called for a request that ends before."""

    def advanced(self, set_id: str, step: int, num_steps: int, previews: Sequence[Image]) -> None:
        """All candidates of a set have done `step` steps. Previews, now and then and where wanted: one per candidate."""

    def finished_set(self, result: FinishedSet) -> None:
        """A set is complete."""

    def ended(self, error: FashionDPOError | None) -> None:
        """The request is over; called exactly once, and last. None: every set was finished."""


class EngineMetrics(Protocol):
    """Learns how the engine is doing. Called on the engine's thread: must return at once, and not raise."""

    def queue(self, queued_rows: int, running_rows: int) -> None:
        """Rows that wait for their first step, and rows that have begun."""

    def forward(self, rows: int, capacity: int, seconds: float) -> None:
        """A denoising step was done in `seconds`; `rows` of `capacity` rows were of use, the others padding."""

    def first_step(self, seconds: float) -> None:
        """From submission to the first step of a request."""

    def last_image(self, seconds: float) -> None:
        """From submission to the last image of a request."""

    def swap(self, adapter: AdapterRef, seconds: float) -> None:
        """Weights were put into a slot; rows waited for `seconds`."""

    def preview(self, images: int, seconds: float) -> None:
        """Previews were painted; rows waited for `seconds`."""


class NoMetrics:
    """Nobody watches."""

    def queue(self, queued_rows: int, running_rows: int) -> None:
        """Forget it."""

    def forward(self, rows: int, capacity: int, seconds: float) -> None:
        """Forget it."""

    def first_step(self, seconds: float) -> None:
        """Forget it."""

    def last_image(self, seconds: float) -> None:
        """Forget it."""

    def swap(self, adapter: AdapterRef, seconds: float) -> None:
        """Forget it."""

    def preview(self, images: int, seconds: float) -> None:
        """Forget it."""
