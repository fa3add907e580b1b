"""Held-out figures made of numbers, for the tests of the comparison, the gate and the report."""

import numpy as np
import pytest

from fashiondpo.contracts import CRITERIA
from fashiondpo.evaluation.comparison import Comparison, Measured, compare
from fashiondpo.evaluation.gallery import GalleryRow

WEIGHTS = dict.fromkeys(CRITERIA, 1 / 3)


@pytest.fixture
def measured():
    """A policy whose scores lie `gain` above those of the same outfits, candidates and seed with gain 0."""

    def build(gain=0.0, *, outfits=60, candidates=7, noise=0.0, diversity=1.0, seed=0, **held_out) -> Measured:
        scores = np.random.default_rng(seed).normal(size=(outfits, candidates, 3)) * [1, 5, 0.1] + [3, 0, 0.7]
        shift = gain + noise * np.random.default_rng(seed + 1).normal(size=(outfits, 1, 1))
        return Measured(
            criteria=CRITERIA,
            scores=scores + shift * np.array([1, 5, 0.1]),
            diversity=np.full(outfits, float(diversity)),
            held_out={name: np.broadcast_to(np.asarray(value, float), (outfits,)) for name, value in held_out.items()},
        )

    return build


@pytest.fixture
def comparison(measured):
    """The comparison of a policy with one that is better by `gain` σ, give or take `noise` σ per outfit."""

    def build(gain=0.5, *, noise=0.1, diversity=1.0, **options) -> Comparison:
        return compare(measured(**options), measured(gain, noise=noise, diversity=diversity, **options), WEIGHTS)

    return build


@pytest.fixture
def gallery_row():
    """An outfit of four slots, the first of them empty, with seven candidates on either side."""

    def build(category="ankle boot", **changes) -> GalleryRow:
        def square(tint):
            image = np.full((32, 32, 3), 255, np.uint8)
            image[6:26, 8:24] = tint
            return image

        made = {
            "outfit_id": 31,
            "user_id": 214,
            "category": category,
            "given": (None, square((90, 20, 20)), square((20, 90, 20)), square((20, 20, 90))),
            "history": (square((0, 120, 120)), square((0, 90, 120))),
            "true_item": square((120, 120, 0)),
            "before": tuple(square((30 * k, 60, 90)) for k in range(7)),
            "after": tuple(square((30 * k, 90, 60)) for k in range(7)),
            "before_scores": (0.1, 0.5, -0.2, 0.0, 0.3, -0.9, 0.2),
            "after_scores": (0.2, 0.6, -0.1, 0.1, 0.9, -0.5, 0.2),
        }
        return GalleryRow(**{**made, **changes})

    return build
