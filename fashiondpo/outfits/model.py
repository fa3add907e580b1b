"""Items, histories and data sets: what every source of outfits looks like from inside the method.

`Outfit` itself crosses processes and lives in `fashiondpo.contracts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fashiondpo.contracts import Outfit
from fashiondpo.errors import InvalidInput, NotFound

Image = NDArray[np.uint8]
"""An RGB picture, shape (height, width, 3), 0…255."""

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True, slots=True)
class Item:
    """One garment of a catalogue."""

    item_id: int
    category_id: int


@dataclass(frozen=True)
class Category:
    """A kind of garment; `is_paired` for what is worn in pairs ("a pair of sandals")."""

    category_id: int
    name: str
    is_paired: bool = False


class History:
    """What each user wore or bought before, per category."""

    def __init__(self, items: Mapping[int, Mapping[int, Sequence[int]]]) -> None:
        """`items[user_id][category_id]` lists item ids, oldest first."""
        self._items = items

    def of(self, user_id: int, category_id: int) -> tuple[int, ...]:
        """The user's items of one category; empty if there are none or the user is unknown."""
        return tuple(self._items.get(user_id, {}).get(category_id, ()))

    def all_of(self, user_id: int) -> tuple[int, ...]:
        """All of the user's items, by category."""
        return tuple(item_id for items in self._items.get(user_id, {}).values() for item_id in items)

    def categories_of(self, user_id: int) -> tuple[int, ...]:
        """The categories in which the user has items."""
        return tuple(category_id for category_id, items in self._items.get(user_id, {}).items() if len(items))

    @classmethod
    def joined(cls, histories: Sequence[History]) -> History:
        """Histories of different users as one; where a user occurs twice, the last counts."""
        return cls({user_id: items for history in histories for user_id, items in history._items.items()})

    @property
    def user_ids(self) -> tuple[int, ...]:
        """Every user who has a history."""
        return tuple(self._items)


@runtime_checkable
class Catalogue(Protocol):
    """Items and their pictures."""

    @property
    def name(self) -> str:
        """For messages: which catalogue this is."""

    @property
    def image_size(self) -> int:
        """Side of the square pictures in pixels."""

    def item(self, item_id: int) -> Item:
        """The item; raises UnknownItem."""

    def image(self, item_id: int) -> Image:
        """Its picture, shape (image_size, image_size, 3); raises UnknownItem or MissingImages."""

    def item_ids(self) -> Sequence[int]:
        """Every item, in a stable order."""


@dataclass(frozen=True)
class Blank:
    """A fill-in-the-blank task: an outfit with one empty slot, the item that was there, and wrong answers."""

    outfit: Outfit
    slot: int
    true_item_id: int
    negative_item_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """Outfits in three splits, with catalogue, categories and histories, whatever they were read from.

    Attributes:
        name: for reports and messages.
        catalogue: items and their pictures.
        categories: by category id.
        outfits: complete outfits per split; users of different splits are the source's business.
        histories: per split, what was known of the users then.
        blanks: per split, the fill-in-the-blank tasks the source fixes; where it fixes none, `blanks_of` derives them.
    """

    name: str
    catalogue: Catalogue
    categories: Mapping[int, Category]
    outfits: Mapping[str, Sequence[Outfit]]
    histories: Mapping[str, History]
    blanks: Mapping[str, Sequence[Blank]] = field(default_factory=dict)

    def split(self, split: str) -> Sequence[Outfit]:
        """The complete outfits of a split; raises NotFound."""
        if split not in self.outfits:
            raise NotFound(f"data set {self.name!r} has no split {split!r}; it has {', '.join(self.outfits)}")
        return self.outfits[split]

    def history(self, split: str) -> History:
        """The histories that go with a split; empty where the source has none."""
        return self.histories.get(split) or History({})

    def blanks_of(self, split: str, count: int | None = None, *, seed: int = 0) -> list[Blank]:
        """Fill-in-the-blank tasks of a split, in an order decided by the seed alone.

        Each outfit is used once, with one slot emptied at random, where the source fixes no tasks of its own.

        Args:
            split: "train", "valid" or "test".
            count: how many; None for all.
            seed: decides order and slots.

        Raises:
            InvalidInput: if the split has fewer than `count`.
        """
        rng = np.random.default_rng(seed)
        fixed = self.blanks.get(split)
        available = len(fixed) if fixed is not None else len(self.split(split))
        if count is not None and count > available:
            raise InvalidInput(f"{count} outfits were asked for, but {split!r} of {self.name!r} has {available}")
        chosen = rng.permutation(available)[:count]
        if fixed is not None:
            return [fixed[int(i)] for i in chosen]
        outfits = self.split(split)
        return [_emptied(outfits[int(i)], int(rng.integers(len(outfits[int(i)].item_ids)))) for i in chosen]

    def gor_tasks(self, split: str, count: int | None = None, *, seed: int = 0) -> list[Outfit]:
        """Generative outfit recommendation tasks: outfits of a split with every slot emptied, in seeded order."""
        return [
            blank.outfit.without(*range(len(blank.outfit.item_ids)))
            for blank in self.blanks_of(split, count, seed=seed)
        ]


def _emptied(outfit: Outfit, slot: int) -> Blank:
    item_id = outfit.item_ids[slot]
    if item_id is None:
        raise InvalidInput(f"outfit {outfit.outfit_id} is already incomplete")
    return Blank(outfit.without(slot), slot, item_id)
