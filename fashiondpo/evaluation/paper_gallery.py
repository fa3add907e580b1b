"""What the figures are about: a few outfits as they were, and as both policies completed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.gallery import (
    AFTER,
    BEFORE,
    CAPTION,
    GAP,
    GUTTER,
    INK,
    LABEL,
    MARGIN,
    MUTED,
    SPACE,
    TILE,
    Sheet,
    span_px,
)
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import Image

TILES = 8
"""That fit into a line of candidates."""


@dataclass(frozen=True)
class CompletedOutfit:
    """One outfit of the gallery.

    Attributes:
        title: what was painted, in words.
        subtitle: whose outfit it is.
        truth: the true items of all slots, in slot order.
        slots: those that were emptied.
        history: some of the user's earlier items of the first emptied slot's category.
        before, after: candidates, each the pictures of the emptied slots.
    """

    title: str
    subtitle: str
    truth: tuple[Image, ...]
    slots: tuple[int, ...]
    history: tuple[Image, ...]
    before: tuple[tuple[Image, ...], ...]
    after: tuple[tuple[Image, ...], ...]

    def __post_init__(self) -> None:
        if not self.slots or any(len(c) != len(self.slots) for c in (*self.before, *self.after)):
            raise InvalidInput(f"every candidate of {self.subtitle} needs a picture for each of the slots {self.slots}")


def draw_outfits(rows: Sequence[CompletedOutfit], names: tuple[str, str]) -> bytes:
    """All outfits below each other as one PNG: left the true items, the emptied ones framed, right the candidates.

    Args:
        rows: the outfits.
        names: of the policies before and after.

    Raises:
        InvalidInput: if there are no rows.
    """
    if not rows:
        raise InvalidInput("a gallery needs at least one outfit")
    left = max(max(len(row.truth), len(row.history)) for row in rows)
    height = CAPTION + 2 * (LABEL + TILE + GAP)
    width = 2 * MARGIN + GUTTER + span_px(left) + max(_line_px(row) for row in rows)
    tops = list(accumulate([height + SPACE] * (len(rows) - 1), initial=MARGIN))
    sheet = Sheet(width, tops[-1] + height + MARGIN)
    for row, top in zip(rows, tops, strict=True):
        if top != MARGIN:
            sheet.rule(top - SPACE // 2, width)
        _draw(sheet, row, top, MARGIN + span_px(left) + GUTTER, names)
    return encode_png(np.asarray(sheet.picture, dtype=np.uint8))


def _draw(sheet: Sheet, row: CompletedOutfit, top: int, right: int, names: tuple[str, str]) -> None:
    sheet.text((MARGIN, top), row.title, 17, INK)
    sheet.text((right, top + 4), row.subtitle, 12, MUTED)
    first = top + CAPTION
    sheet.text((MARGIN, first), "true items; framed: to be painted", 11, MUTED)
    for slot, item in enumerate(row.truth):
        sheet.tile((MARGIN + slot * (TILE + GAP), first + LABEL), item, frame=INK if slot in row.slots else None)
    second = first + LABEL + TILE + GAP
    sheet.text((MARGIN, second), "the user's earlier items" if row.history else "no earlier items", 11, MUTED)
    for position, item in enumerate(row.history):
        sheet.tile((MARGIN + position * (TILE + GAP), second + LABEL), item)
    for y, name, candidates, colour in ((first, names[0], row.before, BEFORE), (second, names[1], row.after, AFTER)):
        sheet.text((right, y), name, 11, colour)
        for k, pictures in enumerate(candidates[: _shown(row)]):
            for position, image in enumerate(pictures):
                x = right + k * (span_px(len(row.slots)) + _between(row)) + position * (TILE + GAP)
                sheet.tile((x, y + LABEL), image)


def _shown(row: CompletedOutfit) -> int:
    """Candidates that fit into a line; at least one."""
    return max(1, TILES // len(row.slots))


def _between(row: CompletedOutfit) -> int:
    """Space between candidates: more where each is an outfit by itself."""
    return GAP if len(row.slots) == 1 else 3 * GAP


def _line_px(row: CompletedOutfit) -> int:
    count = min(_shown(row), max(len(row.before), len(row.after)))
    return count * span_px(len(row.slots)) + (count - 1) * _between(row)
