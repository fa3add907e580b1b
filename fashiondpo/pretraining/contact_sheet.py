"""One picture of what a generator paints: for every category, outfits with their history and candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from fashiondpo.contracts import NUM_CANDIDATES, candidate_seed
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import SlotTask, sample_trajectories
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import Blank, DataSet, Image

_CELL_PX, _GAP_PX, _LABEL_PX, _HEAD_PX = 64, 6, 96, 28
_HISTORY = 2


def draw_contact_sheet(
    bundle: DiFashion, data_set: DataSet, *, split: str = "valid", rows_per_category: int = 2, seed: int = 0
) -> bytes:
    """A PNG: given items, two of the user's history, the true item and seven candidates, by category.

    Args:
        bundle: the generator, with its own sampler settings.
        data_set: where the outfits come from.
        split: whose users.
        rows_per_category: outfits per category.
        seed: of outfits and noise.
    """
    blanks = _pick(data_set, split, rows_per_category, seed)
    encoder = ConditionEncoder(bundle, data_set.catalogue, data_set.categories)
    history = data_set.history(split)
    tasks = [
        SlotTask(
            encoder.encode(blank.outfit, blank.slot, history, bundle.sampler),
            tuple(candidate_seed(seed, 0, blank.outfit.outfit_id, blank.slot, k) for k in range(NUM_CANDIDATES)),
        )
        for blank in blanks
    ]
    painted = [bundle.decode_latents(t.final_latents) for t in sample_trajectories(bundle, tasks, bundle.sampler)]
    rows = [_row(data_set, split, blank, images) for blank, images in zip(blanks, painted, strict=True)]
    labels = [data_set.categories[blank.outfit.category_ids[blank.slot]].name for blank in blanks]
    return draw_sheet(labels, ("given", "history", "true", "candidates"), rows)


def _pick(data_set: DataSet, split: str, rows_per_category: int, seed: int) -> list[Blank]:
    picked: dict[int, list[Blank]] = {category_id: [] for category_id in data_set.categories}
    for blank in data_set.blanks_of(split, seed=seed):
        of_category = picked[blank.outfit.category_ids[blank.slot]]
        if len(of_category) < rows_per_category:
            of_category.append(blank)
    return [blank for of_category in picked.values() for blank in of_category]


def _row(data_set: DataSet, split: str, blank: Blank, painted: Sequence[Image]) -> list[list[Image]]:
    catalogue, outfit = data_set.catalogue, blank.outfit
    own = data_set.history(split).of(outfit.user_id, outfit.category_ids[blank.slot])[:_HISTORY]
    white = np.full((catalogue.image_size, catalogue.image_size, 3), 255, np.uint8)
    history = [catalogue.image(item_id) for item_id in own] + [white] * (_HISTORY - len(own))
    given = [catalogue.image(item_id) for item_id in outfit.given_item_ids]
    return [given, history, [catalogue.image(blank.true_item_id)], list(painted)]


def draw_sheet(labels: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[Sequence[Image]]]) -> bytes:
    """Rows of groups of pictures as a PNG.

    Args:
        labels: one per row.
        heads: one per group.
        rows: per row and group, pictures; all rows have groups of the same lengths.
    """
    widths = [len(group) * _CELL_PX for group in rows[0]]
    width = _LABEL_PX + sum(widths) + _GAP_PX * 3 * len(widths)
    sheet = Pillow.new("RGB", (width, _HEAD_PX + len(rows) * (_CELL_PX + _GAP_PX)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (label, row) in enumerate(zip(labels, rows, strict=True)):
        left, top = _LABEL_PX, _HEAD_PX + number * (_CELL_PX + _GAP_PX)
        draw.text((8, top + _CELL_PX // 2 - 8), label, fill="#444", font=font)
        for head, group in zip(heads, row, strict=True):
            if number == 0:
                draw.text((left + 2, 8), head, fill="#444", font=font)
            for image in group:
                tile = Pillow.fromarray(image).resize((_CELL_PX, _CELL_PX), Pillow.Resampling.BICUBIC)
                sheet.paste(tile, (left, top))
                left += _CELL_PX
            left += 3 * _GAP_PX
    return encode_png(np.asarray(sheet))
