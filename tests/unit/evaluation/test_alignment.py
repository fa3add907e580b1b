"""CLIP score, retrieval and tastes, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fashiondpo.evaluation.alignment import clip_score, cosines, means_by_outfit, retrieved, taste

directions = arrays(np.float64, (3, 4), elements=st.floats(0.1, 2)).map(lambda v: v * [1, -1, 1, -1])


class TestClipScore:
    def test_is_a_hundred_times_the_cosine(self):
        found = clip_score([[1, 0], [1, 1], [3, 4]], [[1, 0], [1, 0], [4, 3]])
        assert found == pytest.approx([100, 100 / math.sqrt(2), 96])

    def test_of_what_points_the_other_way_is_nothing(self):
        assert clip_score([[1, 0], [0, 2]], [[-1, 0], [1, 0]]).tolist() == [0, 0]

    @given(pictures=directions, meant=directions)
    def test_lies_between_nothing_and_a_hundred_whatever_the_lengths(self, pictures, meant):
        found = clip_score(pictures, meant)
        assert ((found >= 0) & (found <= 100)).all()
        assert clip_score(5 * pictures, meant) == pytest.approx(found)
        assert clip_score(meant, pictures) == pytest.approx(found)

    def test_refuses_other_shapes(self):
        with pytest.raises(ValueError, match="of one shape"):
            cosines(np.ones((2, 3)), np.ones((3, 3)))


class TestRetrieved:
    def test_is_one_where_the_true_item_is_nearest(self):
        choices = [[1, 0], [0, 1], [-1, 0]]
        assert retrieved([[0.8, 0.6], [0.6, 0.8]], [choices, choices]).tolist() == [1, 0]

    def test_shares_the_first_place(self):
        choices = [[1, 0], [1, 0], [0, 1], [1, 0], [-1, 0]]
        assert retrieved([[1, 0]], [choices]) == pytest.approx([1 / 3])

    def test_counts_the_same_as_one_by_one(self):
        rng = np.random.default_rng(0)
        pictures, choices = rng.normal(size=(50, 8)), rng.normal(size=(50, 5, 8))
        one_by_one = [
            float(all(p @ items[0] > p @ wrong for wrong in items[1:]))
            for p, items in zip(pictures, choices, strict=True)
        ]
        assert retrieved(pictures, choices).tolist() == one_by_one

    def test_of_pictures_that_know_nothing_is_chance(self):
        rng = np.random.default_rng(1)
        found = retrieved(rng.normal(size=(20_000, 8)), rng.normal(size=(20_000, 5, 8)))
        assert found.mean() == pytest.approx(0.2, abs=0.01)

    def test_refuses_choices_of_another_width(self):
        with pytest.raises(ValueError, match="expected pictures"):
            retrieved(np.ones((2, 3)), np.ones((2, 5, 4)))


class TestTaste:
    def test_is_the_direction_of_the_mean(self):
        assert taste([[1, 0], [0, 1]]) == pytest.approx([math.sqrt(0.5)] * 2)

    def test_of_one_item_is_the_item(self):
        assert taste([[0.6, 0.8]]) == pytest.approx([0.6, 0.8])


class TestMeansByOutfit:
    def test_leave_out_what_has_no_value(self):
        found = means_by_outfit([1, 3, math.nan, 5, math.nan], [0, 0, 1, 1, 2], 3)
        assert found[:2].tolist() == [2, 5]
        assert math.isnan(found[2])
