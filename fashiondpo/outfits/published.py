"""The published index files of iFashion and Polyvore-U; nothing else knows their names and fields.

What the files hold (uid, oid, iid, cid: user, outfit, item and category id; item 0 is the blank):

    train.npy                               {uids, oids, outfits, category}: parallel lists, a row per outfit of 4 items
    {valid,test}_grd_dict.npy               the same for the other splits, complete outfits
    fitb_{valid,test}.npy                   the same rows, one item of each set to 0
    fitb_{valid,test}_retrieval_candidates  {uid: {oid: [the item that was there, 4 others of any category]}}
    {train,valid,test}_history.npy          {uid: {cid: [iid]}}, at most 10 a category in Polyvore-U
    id_cate_dict.npy                        {cid: name}; also found as new_id_cate_dict.npy
    map/iid_cate_dict.npy                   {iid: cid}; also as mapped_iid_cate_dict.npy, or inverted: cate_iid_dict.npy
    all_item_image_paths.npy                picture paths by item id; comes with the pictures, which are not public

`{valid,test}_grd.npy` and `fitb_*_dict.npy` repeat these under other keys and are not needed. Polyvore-U has 119,202
items in 43 of 50 categories, 517 users (the same in every split), 26,921 / 3,356 / 3,631 outfits. Two training rows
occur twice; they are kept, as the published counts include them.

Source: DiFashion (arXiv:2402.17279), data release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from fashiondpo.contracts import Outfit
from fashiondpo.errors import DataFileError
from fashiondpo.outfits.catalogue import DEFAULT_IMAGE_SIZE, FolderCatalogue, names_a_file_inside
from fashiondpo.outfits.index_files import Ids, as_ids, as_mapping, read_index, read_mapping
from fashiondpo.outfits.model import Blank, Category, DataSet, History

TRAIN_FILE = "train.npy"
"""A folder that has this file holds a published data set."""

PAIRED_WORDS = ("pants", "earrings")
"""Categories whose names contain one of these get "a pair of". Not boots or jeans: their prompts had none when the
released weights were trained, and a prompt must be the one that was trained."""

_BLANK = 0


class PublishedCatalogue(FolderCatalogue):
    """Items of a published data set; the pictures have to be obtained apart, without them it knows categories only."""

    @classmethod
    def open(
        cls, index: Path, images: Path | None, *, name: str, image_size: int = DEFAULT_IMAGE_SIZE
    ) -> PublishedCatalogue:
        """Read which items there are, and where their pictures are if there are pictures.

        Raises:
            DataFileError: if a file is missing or malformed.
        """
        return cls(name, _item_categories(index), _image_files(index, images), images, image_size=image_size)


def read_published(
    folder: Path, *, images: Path | None = None, name: str | None = None, image_size: int = DEFAULT_IMAGE_SIZE
) -> DataSet:
    """A published data set; takes about two seconds for Polyvore-U.

    Args:
        folder: the index files.
        images: the pictures; by default `folder/images` if that exists. Without them everything but pictures works.
        name: for reports; by default the folder's name.
        image_size: side in pixels of the square that pictures are fitted into.

    Returns:
        Splits train, valid and test; valid and test with their fixed fill-in-the-blank tasks.

    Raises:
        DataFileError: if a file is missing, malformed or contradicts another; names the file.
        ForbiddenPickle: if a file asks for anything but arrays and builtin containers.
    """
    if images is None and (folder / "images").is_dir():
        images = folder / "images"
    name = name or folder.resolve().name
    catalogue = PublishedCatalogue.open(folder, images, name=name, image_size=image_size)
    categories = _categories(folder)
    known = _Known(np.array(catalogue.item_ids(), dtype=np.int64), np.array(sorted(categories), dtype=np.int64))
    tables = {
        split: _read_table(folder / file)
        for split, file in (("train", TRAIN_FILE), ("valid", "valid_grd_dict.npy"), ("test", "test_grd_dict.npy"))
    }
    for table in tables.values():
        known.check(table.path, table.item_ids, table.category_ids)
    outfits = {split: table.outfits() for split, table in tables.items()}
    return DataSet(
        name=name,
        catalogue=catalogue,
        categories=categories,
        outfits=outfits,
        histories={split: _history(folder / f"{split}_history.npy", known) for split in tables},
        blanks={split: _blanks(folder, split, tables[split], outfits[split], known) for split in ("valid", "test")},
    )


@dataclass(frozen=True)
class _Known:
    """The ids that rows may use."""

    item_ids: Ids
    category_ids: Ids

    def check(self, path: Path, item_ids: Ids, category_ids: Ids | None = None) -> None:
        for what, ids, known in (("item", item_ids, self.item_ids), ("category", category_ids, self.category_ids)):
            if ids is not None and len(unknown := np.setdiff1d(ids, known)):
                named = ", ".join(map(str, unknown[:10]))
                raise DataFileError(path, f"{len(unknown)} {what} ids are not in the index of this data set: {named}")


@dataclass(frozen=True)
class _Table:
    """Parallel columns, one row per outfit: ids of shape (rows,), items and categories of shape (rows, slots)."""

    path: Path
    user_ids: Ids
    outfit_ids: Ids
    item_ids: Ids
    category_ids: Ids

    def keys(self) -> list[tuple[int, int]]:
        return list(zip(self.user_ids.tolist(), self.outfit_ids.tolist(), strict=True))

    def outfits(self) -> tuple[Outfit, ...]:
        columns = (self.outfit_ids, self.user_ids, self.category_ids, self.item_ids)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return tuple(
            Outfit(outfit_id=outfit, user_id=user, category_ids=tuple(categories), item_ids=tuple(items))
            for outfit, user, categories, items in rows
        )


def _read_table(path: Path) -> _Table:
    columns = read_mapping(path)
    if absent := sorted({"uids", "oids", "outfits", "category"} - set(columns)):
        raise DataFileError(path, f"expected the lists uids, oids, outfits and category; it lacks {', '.join(absent)}")
    users, ids = (as_ids(path, columns[key], key) for key in ("uids", "oids"))
    items, categories = (as_ids(path, columns[key], key, dimensions=2) for key in ("outfits", "category"))
    if not (len(users) == len(ids) == len(items) and items.shape == categories.shape):
        shapes = ", ".join(str(column.shape) for column in (users, ids, items, categories))
        raise DataFileError(path, f"uids, oids, outfits and category do not match in shape: {shapes}")
    if not 2 <= items.shape[1] <= 8:
        raise DataFileError(path, f"an outfit has 2 to 8 items, got {items.shape[1]}")
    return _Table(path, users, ids, items, categories)


def _blanks(folder: Path, split: str, complete: _Table, outfits: Sequence[Outfit], known: _Known) -> tuple[Blank, ...]:
    """The fixed fill-in-the-blank tasks of a split, in the order of their file."""
    table = _read_table(folder / f"fitb_{split}.npy")
    rows_by_key = {key: row for row, key in enumerate(complete.keys())}
    keys = table.keys()
    if absent := [key for key in keys if key not in rows_by_key]:
        raise DataFileError(table.path, f"user {absent[0][0]} has no outfit {absent[0][1]} in {complete.path.name}")
    rows = np.array([rows_by_key[key] for key in keys], dtype=np.int64)
    is_empty = table.item_ids == _BLANK
    if table.item_ids.shape[1] != complete.item_ids.shape[1] or not (is_empty.sum(axis=1) == 1).all():
        raise DataFileError(table.path, "every row needs exactly one blank (item 0)")
    if not (is_empty | (table.item_ids == complete.item_ids[rows])).all():
        raise DataFileError(table.path, f"its items differ from those in {complete.path.name}")
    slots = is_empty.argmax(axis=1)
    true_items = complete.item_ids[rows, slots]
    negatives = _negatives(folder / f"fitb_{split}_retrieval_candidates.npy", keys, true_items, known)
    return tuple(
        Blank(outfits[row].without(slot), slot, item_id, tuple(wrong))
        for row, slot, item_id, wrong in zip(
            rows.tolist(), slots.tolist(), true_items.tolist(), negatives.tolist(), strict=True
        )
    )


def _negatives(path: Path, keys: Sequence[tuple[int, int]], true_items: Ids, known: _Known) -> Ids:
    """The wrong answers per task, shape (tasks, 4); in the file the right one comes first."""
    by_user = read_mapping(path)
    try:
        rows = [as_mapping(path, by_user[user])[outfit] for user, outfit in keys]
    except KeyError as error:
        raise DataFileError(path, f"lacks the candidates of user or outfit {error}") from error
    candidates = as_ids(path, rows, "candidates", dimensions=2)
    if not (candidates[:, 0] == true_items).all():
        raise DataFileError(path, "the first candidate of every outfit must be the item that was taken out")
    known.check(path, candidates)
    return candidates[:, 1:]


def _history(path: Path, known: _Known) -> History:
    by_user = {user: as_mapping(path, items) for user, items in read_mapping(path).items()}
    lists = [items for by_category in by_user.values() for items in by_category.values()]
    if not all(isinstance(items, list) for items in lists):
        raise DataFileError(path, "expected {user id: {category id: [item ids]}}")
    found = as_ids(path, list(chain.from_iterable(lists)), "items")
    as_ids(path, list(by_user), "user ids")
    category_ids = as_ids(path, list(chain.from_iterable(by_user.values())), "category ids")
    known.check(path, found[found != _BLANK], category_ids)
    if (found == _BLANK).any():  # the blank says nothing about a user's taste
        by_user = {
            user: {category: [item for item in items if item != _BLANK] for category, items in by_category.items()}
            for user, by_category in by_user.items()
        }
    return History(by_user)


def _categories(folder: Path) -> dict[int, Category]:
    path = _first_of(folder, "id_cate_dict.npy", "new_id_cate_dict.npy")
    names = read_mapping(path)
    if not all(isinstance(key, int) and isinstance(name, str) for key, name in names.items()):
        raise DataFileError(path, "expected {category id: name}")
    return {key: Category(key, name, any(word in name for word in PAIRED_WORDS)) for key, name in names.items()}


def _item_categories(folder: Path) -> dict[int, int]:
    """Category id by item id, without the blank."""
    inverted = "map/cate_iid_dict.npy"
    path = _first_of(folder, "map/iid_cate_dict.npy", "map/mapped_iid_cate_dict.npy", inverted)
    found = read_mapping(path)
    if path == folder / inverted:
        if not all(isinstance(items, list) for items in found.values()):
            raise DataFileError(path, "expected {category id: [item ids]}")
        found = {item: category for category, items in found.items() for item in items}
    items, categories = (as_ids(path, list(ids), "ids").tolist() for ids in (found, found.values()))
    if unnamed := sorted(set(categories) - set(_categories(folder))):
        raise DataFileError(path, f"items are in categories without a name: {unnamed}")
    return {item: category for item, category in zip(items, categories, strict=True) if item != _BLANK}


def _image_files(index: Path, images: Path | None) -> dict[int, str]:
    """Picture path by item id; empty without a folder of pictures."""
    if images is None:
        return {}
    if not images.is_dir():
        raise DataFileError(images, "there is no such image folder")
    file = "all_item_image_paths.npy"
    path = next((folder / file for folder in (index, images) if (folder / file).is_file()), index / file)
    found = read_index(path)
    named = found if isinstance(found, dict) else dict(enumerate(found)) if isinstance(found, list) else {}
    files = {key: value for key, value in named.items() if isinstance(key, int) and isinstance(value, str) and value}
    if not files:
        raise DataFileError(path, "expected a list of picture paths, by item id")
    if outside := [value for value in files.values() if not names_a_file_inside(value)]:
        raise DataFileError(path, f"{len(outside)} pictures would lie outside the image folder, e.g. {outside[0]!r}")
    return files


def _first_of(folder: Path, *files: str) -> Path:
    for file in files:
        if (folder / file).is_file():
            return folder / file
    raise DataFileError(folder, f"is no published data set: it has none of {', '.join(files)}")
