"""Whose history a picture is compared with: its user's, and other users' as the baseline that has to be beaten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fashiondpo.evaluation.alignment import cosines, taste
from fashiondpo.evaluation.statistics import Floats
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.outfits.model import History

STRANGERS = 5
"""Other users per user and category; their mean is the baseline."""


class HistoryTastes:
    """The tastes of users in a category, as unit vectors, each computed once."""

    def __init__(self, features: CatalogueFeatures, history: History, *, seed: int) -> None:
        """`seed` decides who the strangers are."""
        self._features, self._history, self._seed = features, history, seed
        self._tastes: dict[tuple[int, int], Floats | None] = {}
        self._strangers: dict[tuple[int, int], tuple[int, ...]] = {}

    def similarity(self, vectors: Floats, user_ids: Sequence[int], category_ids: Sequence[int]) -> Floats:
        """Cosine of each picture (n, d) with its user's history of the category; NaN where there is none. Shape (n,)."""
        return self._cosines(vectors, [(u,) for u in user_ids], category_ids)

    def baseline(self, vectors: Floats, user_ids: Sequence[int], category_ids: Sequence[int]) -> Floats:
        """The mean cosine with strangers' histories of the category; NaN where nobody else has one. Shape (n,)."""
        strangers = [self.strangers(u, c) for u, c in zip(user_ids, category_ids, strict=True)]
        return self._cosines(vectors, strangers, category_ids)

    def strangers(self, user_id: int, category_id: int) -> tuple[int, ...]:
        """Other users who have a history of the category: a seeded few of them, or all if there are not more."""
        key = user_id, category_id
        if key not in self._strangers:
            others = [u for u in sorted(self._history.user_ids) if u != user_id and self._history.of(u, category_id)]
            rng = np.random.default_rng([self._seed, user_id, category_id])
            chosen = rng.permutation(len(others))[:STRANGERS]
            self._strangers[key] = tuple(others[int(position)] for position in chosen)
        return self._strangers[key]

    def _cosines(self, vectors: Floats, of_whom: Sequence[Sequence[int]], category_ids: Sequence[int]) -> Floats:
        found = np.full(len(vectors), np.nan)
        for row, (users, category_id) in enumerate(zip(of_whom, category_ids, strict=True)):
            tastes = [t for user in users if (t := self._taste(user, category_id)) is not None]
            if tastes:
                found[row] = cosines(np.tile(vectors[row], (len(tastes), 1)), np.stack(tastes)).mean()
        return found

    def _taste(self, user_id: int, category_id: int) -> Floats | None:
        key = user_id, category_id
        if key not in self._tastes:
            items = self._history.of(user_id, category_id)
            self._tastes[key] = taste(self._features.of(items).numpy()) if items else None
        return self._tastes[key]
