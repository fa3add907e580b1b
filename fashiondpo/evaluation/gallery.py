"""The gallery: what people see of an adapter. Outfits with a gap, and what was painted into it before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.figures import signed, spoken
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import Image

PAPER, INK, MUTED, HAIRLINE = "#ffffff", "#1f2124", "#77736b", "#ddd8ce"
BEFORE, AFTER = "#8d877c", "#0e6b66"

THUMBNAIL_PX = 96
"""Side of the pictures in the report: sharp at the size they are shown, small enough to fit in one file."""

# Of the PNG, in pixels before everything is doubled for dense screens.
TILE, GAP, MARGIN, GUTTER, CAPTION, LABEL, SCORE, SPACE, SCALE = 72, 8, 32, 44, 34, 18, 22, 26, 2


@dataclass(frozen=True)
class GalleryRow:
    """One held-out outfit, and what both policies painted into its empty slot.

    Attributes:
        outfit_id: of the outfit.
        user_id: whose outfit it is.
        category: what is to be painted, as people call it.
        given: the outfit's items in slot order; None is an empty slot.
        history: some of the user's earlier items.
        true_item: what was in the slot; None where nobody knows.
        before: candidates of the policy that serves now.
        after: candidates of the new policy, from the same seeds.
        before_scores: combined scores of `before` in σ; NaN = none.
        after_scores: the same of `after`.
    """

    outfit_id: int
    user_id: int
    category: str
    given: tuple[Image | None, ...]
    history: tuple[Image, ...]
    true_item: Image | None
    before: tuple[Image, ...]
    after: tuple[Image, ...]
    before_scores: tuple[float, ...]
    after_scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if not any(item is None for item in self.given):
            raise InvalidInput(f"outfit {self.outfit_id} of the gallery has no empty slot: mark it with None")
        for side, images, scores in (
            ("before", self.before, self.before_scores),
            ("after", self.after, self.after_scores),
        ):
            if not images or len(images) != len(scores):
                raise InvalidInput(
                    f"outfit {self.outfit_id} of the gallery needs one score per candidate {side}, "
                    f"got {len(images)} candidates and {len(scores)} scores"
                )


def best_of(scores: Sequence[float]) -> int | None:
    """Position of the highest score, the first of equals; None where there is no score."""
    known = [(score, -position) for position, score in enumerate(scores) if not math.isnan(score)]
    return -max(known)[1] if known else None


def thumbnail(image: Image, side_px: int = THUMBNAIL_PX) -> Image:
    """The picture fitted into a white square; shape (side_px, side_px, 3).

    Small pictures are enlarged bicubically: silhouettes of 32 pixels keep their edges without turning into stairs or,
    as with Lanczos, growing a halo.
    """
    picture = Pillow.fromarray(image)
    factor = side_px / max(picture.size)
    resampling = Pillow.Resampling.BICUBIC if factor > 1 else Pillow.Resampling.LANCZOS
    size = tuple(max(1, round(length * factor)) for length in picture.size)
    fitted = Pillow.new("RGB", (side_px, side_px), PAPER)
    fitted.paste(
        picture.resize((size[0], size[1]), resampling),
        ((side_px - size[0]) // 2, (side_px - size[1]) // 2),
    )
    return np.asarray(fitted, dtype=np.uint8)


def draw_gallery(rows: Sequence[GalleryRow]) -> bytes:
    """All rows below each other as one PNG: left what was given, right the candidates before and after.

    Raises:
        InvalidInput: if there are no rows.
    """
    if not rows:
        raise InvalidInput("a gallery needs at least one row")
    left = max(max(len(row.given), len(row.history) + 1) for row in rows)
    right = max(max(len(row.before), len(row.after)) for row in rows)
    height = CAPTION + 2 * (LABEL + TILE + SCORE)
    width = 2 * MARGIN + GUTTER + span_px(left) + span_px(right)
    tops = list(accumulate([height + SPACE] * (len(rows) - 1), initial=MARGIN))
    sheet = Sheet(width, tops[-1] + height + MARGIN)
    for row, top in zip(rows, tops, strict=True):
        if top != MARGIN:
            sheet.rule(top - SPACE // 2, width)
        _draw_row(sheet, row, top, MARGIN + span_px(left) + GUTTER)
    return encode_png(np.asarray(sheet.picture, dtype=np.uint8))


def _draw_row(sheet: Sheet, row: GalleryRow, top: int, right: int) -> None:
    sheet.text((MARGIN, top), spoken(row.category), 17, INK)
    sheet.text((right, top + 4), f"user {row.user_id}, outfit {row.outfit_id}", 12, MUTED)
    first, second = top + CAPTION, top + CAPTION + LABEL + TILE + SCORE
    sheet.text((MARGIN, first), "the outfit", 11, MUTED)
    for slot, item in enumerate(row.given):
        sheet.tile((MARGIN + slot * (TILE + GAP), first + LABEL), item)
    sheet.text((MARGIN, second), "the user's earlier items", 11, MUTED)
    for position, item in enumerate(row.history):
        sheet.tile((MARGIN + position * (TILE + GAP), second + LABEL), item)
    if row.true_item is not None:
        x = right - GUTTER - TILE
        sheet.text((x, second), "the true item", 11, MUTED)
        sheet.tile((x, second + LABEL), row.true_item)
    for y, name, images, scores, colour in (
        (first, "before", row.before, row.before_scores, BEFORE),
        (second, "after", row.after, row.after_scores, AFTER),
    ):
        sheet.text((right, y), name, 11, colour)
        for k, (image, score) in enumerate(zip(images, scores, strict=True)):
            is_best = k == best_of(scores)
            x = right + k * (TILE + GAP)
            sheet.tile((x, y + LABEL), image, frame=colour if is_best else None)
            said = "no score" if math.isnan(score) else signed(score)
            sheet.text((x + TILE / 2, y + LABEL + TILE + 4), said, 11, colour if is_best else MUTED, anchor="ma")


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Comes with matplotlib and covers most of the world's letters, unlike the font that comes with Pillow.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def span_px(tiles: int) -> int:
    """Width of so many tiles beside each other, before doubling."""
    return tiles * (TILE + GAP) - GAP


class Sheet:
    """A white sheet that is drawn on in plain pixels and comes out `SCALE` times as large."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Pillow.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self.picture)

    def text(self, at: tuple[float, float], words: str, size: int, colour: str, *, anchor: str = "la") -> None:
        """Words, from the top left corner unless another anchor is given."""
        place = (at[0] * SCALE, at[1] * SCALE)
        self._draw.text(place, words, fill=colour, font=_font(size * SCALE), anchor=anchor)

    def rule(self, y: int, width: int) -> None:
        """A hairline across the sheet."""
        self._draw.line([MARGIN * SCALE, y * SCALE, (width - MARGIN) * SCALE, y * SCALE], fill=HAIRLINE, width=SCALE)

    def tile(self, at: tuple[int, int], image: Image | None, *, frame: str | None = None) -> None:
        """A picture with a hairline around it, or a strong frame; None draws the empty slot."""
        x, y, side = at[0] * SCALE, at[1] * SCALE, TILE * SCALE
        box = (x, y, x + side, y + side)
        if image is not None:
            inset = 4 * SCALE
            self.picture.paste(Pillow.fromarray(thumbnail(image, side - 2 * inset)), (x + inset, y + inset))
            self._draw.rounded_rectangle(box, 5 * SCALE, outline=frame or HAIRLINE, width=(2 if frame else 1) * SCALE)
            return
        self._draw.rounded_rectangle(box, 5 * SCALE, fill="#eef5f4", outline=AFTER, width=SCALE)
        middle, reach = (x + side // 2, y + side // 2), 9 * SCALE
        for dx, dy in ((reach, 0), (0, reach)):
            ends = [middle[0] - dx, middle[1] - dy, middle[0] + dx, middle[1] + dy]
            self._draw.line(ends, fill=AFTER, width=2 * SCALE)
