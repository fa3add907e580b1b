"""What is to be completed: outfits of a held-out split as PFITB or GOR tasks, with the true items and wrong ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fashiondpo.contracts import Outfit, candidate_seed
from fashiondpo.evaluation.paper_table import Task
from fashiondpo.outfits.model import DataSet

WRONG_ITEMS = 4
"""Beside the true item, as published: five to choose from."""

REFERENCE_ITEMS = 10_000
"""More real pictures than this are not looked at."""


@dataclass(frozen=True)
class PaperTask:
    """An outfit with empty slots.

    Attributes:
        outfit: without the items that are to be painted.
        true_item_ids: what was there, by empty slot, in slot order.
        wrong_item_ids: items to tell the true one from, by empty slot; none where there are too few.
    """

    outfit: Outfit
    true_item_ids: Mapping[int, int]
    wrong_item_ids: Mapping[int, tuple[int, ...]]

    @property
    def slots(self) -> tuple[int, ...]:
        """The empty slots, ascending."""
        return tuple(self.true_item_ids)

    @property
    def complete(self) -> Outfit:
        """The outfit with the true items."""
        items = tuple(self.true_item_ids.get(slot, item_id) for slot, item_id in enumerate(self.outfit.item_ids))
        return self.outfit.model_copy(update={"item_ids": items})


def paper_tasks(data_set: DataSet, split: str, task: Task, outfits: int, *, seed: int) -> list[PaperTask]:
    """Tasks of a split; the seed decides which outfits, which slots where the data set fixes none, and the wrong items.

    Wrong items are the data set's own for the slot that it empties itself. Elsewhere they are drawn among the items of the
    same category in the split's outfits.

    Raises:
        InvalidInput: if the split has fewer outfits.
        NotFound: if there is no such split.
    """
    pools = _items_by_category(data_set.split(split))
    found = []
    for blank in data_set.blanks_of(split, outfits, seed=seed):
        filled = {slot: item for slot, item in enumerate(blank.outfit.item_ids) if item is not None}
        every = dict(sorted({**filled, blank.slot: blank.true_item_id}.items()))
        truths = {blank.slot: blank.true_item_id} if task == "pfitb" else every
        wrong = {
            slot: _drawn(pools[blank.outfit.category_ids[slot]], item_id, _seed_of(seed, blank.outfit, slot))
            for slot, item_id in truths.items()
        }
        if task == "pfitb" and blank.negative_item_ids:
            wrong[blank.slot] = blank.negative_item_ids
        found.append(PaperTask(blank.outfit.without(*truths), truths, wrong))
    return found


def has_own_wrong_items(data_set: DataSet, split: str) -> bool:
    """Whether the data set says what to tell the true items from."""
    return any(blank.negative_item_ids for blank in data_set.blanks.get(split, ()))


def reference_item_ids(data_set: DataSet, split: str, *, seed: int, most: int = REFERENCE_ITEMS) -> list[int]:
    """What real pictures are: every item of the split's outfits once; a seeded selection where there are more."""
    items = sorted({item for outfit in data_set.split(split) for item in outfit.given_item_ids})
    chosen = np.random.default_rng(seed).permutation(len(items))[:most]
    return [items[int(position)] for position in np.sort(chosen)]


def _items_by_category(outfits: Sequence[Outfit]) -> dict[int, list[int]]:
    pools: defaultdict[int, set[int]] = defaultdict(set)
    for outfit in outfits:
        for category_id, item_id in zip(outfit.category_ids, outfit.item_ids, strict=True):
            if item_id is not None:
                pools[category_id].add(item_id)
    return {category_id: sorted(items) for category_id, items in pools.items()}


def _seed_of(seed: int, outfit: Outfit, slot: int) -> int:
    # a range of its own: the candidates of round 0 have the other indices
    return candidate_seed(seed, 0, outfit.outfit_id, slot, -1)


def _drawn(pool: Sequence[int], true_item_id: int, seed: int) -> tuple[int, ...]:
    others = [item for item in pool if item != true_item_id]
    if len(others) < WRONG_ITEMS:
        return ()
    chosen = np.random.default_rng(seed).choice(len(others), WRONG_ITEMS, replace=False)
    return tuple(others[int(position)] for position in chosen)
