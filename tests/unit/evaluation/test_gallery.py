"""The gallery: outfits with a gap, candidates below each other, the best one framed."""

import dataclasses
import io
import math

import numpy as np
import pytest
from PIL import Image

from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.gallery import best_of, draw_gallery, thumbnail


def size_of(png):
    return Image.open(io.BytesIO(png)).size


class TestBestOf:
    def test_is_the_highest_score_and_the_first_of_equals(self):
        assert best_of([0.1, 0.9, 0.9]) == 1

    def test_overlooks_candidates_without_a_score(self):
        assert best_of([math.nan, -1.0, math.nan]) == 1

    def test_of_no_scores_is_nobody(self):
        assert best_of([math.nan, math.nan]) is None


class TestThumbnail:
    @pytest.mark.parametrize("shape", [(32, 32, 3), (512, 512, 3), (20, 40, 3), (1, 300, 3)])
    def test_is_a_square_of_the_asked_size(self, shape):
        made = thumbnail(np.zeros(shape, np.uint8), 96)
        assert (made.shape, made.dtype) == ((96, 96, 3), np.uint8)

    def test_keeps_the_proportions_and_fills_up_with_white(self):
        made = thumbnail(np.zeros((20, 40, 3), np.uint8), 80)
        assert (made[:20] == 255).all()
        assert (made[25:55] == 0).all()
        assert (made[60:] == 255).all()

    def test_keeps_white_white(self):
        assert (thumbnail(np.full((32, 32, 3), 255, np.uint8)) == 255).all()


class TestGalleryRow:
    def test_needs_an_empty_slot(self, gallery_row):
        row = gallery_row()
        with pytest.raises(InvalidInput, match="outfit 31 of the gallery has no empty slot"):
            dataclasses.replace(row, given=row.given[1:])

    @pytest.mark.parametrize("side", ["before", "after"])
    def test_needs_one_score_per_candidate(self, gallery_row, side):
        with pytest.raises(InvalidInput, match=f"one score per candidate {side}, got 7 candidates and 1 scores"):
            dataclasses.replace(gallery_row(), **{f"{side}_scores": (0.0,)})


class TestDrawGallery:
    def test_grows_by_the_same_height_with_every_row(self, gallery_row):
        one, two, three = (size_of(draw_gallery([gallery_row()] * count)) for count in (1, 2, 3))
        assert one[0] == two[0] == three[0]
        assert two[1] - one[1] == three[1] - two[1] > 0

    def test_frames_the_best_candidate(self, gallery_row):
        first, last = (
            draw_gallery([dataclasses.replace(gallery_row(), after_scores=scores)])
            for scores in ((1.0, *[0.0] * 6), (*[0.0] * 6, 1.0))
        )
        assert first != last

    def test_shows_a_row_without_scores_history_or_true_item(self, gallery_row):
        nothing = (math.nan,) * 7
        row = dataclasses.replace(
            gallery_row(), history=(), true_item=None, before_scores=nothing, after_scores=nothing, category="béret"
        )
        assert size_of(draw_gallery([row]))[0] > 0

    def test_needs_a_row(self):
        with pytest.raises(InvalidInput, match="at least one row"):
            draw_gallery([])
