"""Small data sets in the real formats, and the real one where it is there."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.outfits.small_files import CATEGORIES, ITEM_CATEGORIES, ITEM_LINES, save_picture

WriteIndex = Callable[[str, object], Path]


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, WriteIndex]:
    """A published data set of nine items, and a function that replaces one of its files."""
    folder = tmp_path / "small-u"
    (folder / "map").mkdir(parents=True)

    def write_index(name: str, content: object) -> Path:
        np.save(folder / name, np.array(content, dtype=object) if isinstance(content, dict) else content)
        return folder / name

    def table(users: list[int], outfit_ids: list[int], outfits: list[list[int]], complete: list[list[int]]) -> object:
        categories = [[ITEM_CATEGORIES[item] for item in outfit] for outfit in complete]
        return {"uids": users, "oids": outfit_ids, "outfits": outfits, "category": categories}

    train = [[1, 3, 5, 7], [2, 4, 6, 8]]
    held_out = {"valid": [[1, 4, 5, 8]], "test": [[2, 3, 6, 9], [9, 1, 3, 5]]}
    write_index("train.npy", table([0, 1], [10, 11], train, train))
    for start, (split, complete) in enumerate(held_out.items(), start=2):
        users, outfit_ids = [0, 1][: len(complete)], [10 * start, 10 * start + 1][: len(complete)]
        emptied = [[0 if slot == 1 else item for slot, item in enumerate(outfit)] for outfit in complete]
        candidates = {
            user: {outfit_id: [outfit[1], *map(np.int64, (6, 7, 8, 2))]}
            for user, outfit_id, outfit in zip(users, outfit_ids, complete, strict=True)
        }
        write_index(f"{split}_grd_dict.npy", table(users, outfit_ids, complete, complete))
        write_index(f"fitb_{split}.npy", table(users, outfit_ids, emptied, complete))
        write_index(f"fitb_{split}_retrieval_candidates.npy", candidates)
    for split in ("train", "valid", "test"):
        write_index(f"{split}_history.npy", {0: {0: [2, 1], 35: [9]}, 1: {3: [4]}})
    write_index("id_cate_dict.npy", CATEGORIES)
    write_index("map/iid_cate_dict.npy", ITEM_CATEGORIES)
    return folder, write_index


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A picture per item of the published data set, with the list of their paths and the blank."""
    folder = tmp_path / "pictures"
    paths = ["empty_image.png", *(f"{item_id % 2}/{item_id}.png" for item_id in ITEM_CATEGORIES)]
    for item_id, path in enumerate(paths):
        save_picture(folder / path, item_id)
    np.save(folder / "all_item_image_paths.npy", np.array(paths))
    return folder


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """The pictures that ITEM_LINES name."""
    for line in ITEM_LINES:
        save_picture(tmp_path / "own" / str(line["image"]), int(str(line["item_id"])), (9, 5))
    return tmp_path / "own"


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes an index of these lines; strings go in as they are."""

    def write(*lines: object, name: str = "shop.jsonl") -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
        return tmp_path / name

    return write
