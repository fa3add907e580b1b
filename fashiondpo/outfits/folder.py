"""Outfits of one's own: a folder of pictures with one index file, and the self-contained form they are imported into.

    imported/
        data_set.jsonl     every line of the index, normalised
        images/7.png       one picture per item, fitted to a square

The imported form is an index of the same format, so whatever reads one reads the other. `index_lines` defines the
format, docs/data.md describes it.
"""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Callable
from pathlib import Path

from fashiondpo.errors import Conflict, DataFileError, InvalidInput
from fashiondpo.outfits.catalogue import DEFAULT_IMAGE_SIZE, FolderCatalogue
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.index_checks import check_lines, of_kind
from fashiondpo.outfits.index_content import (
    data_set_to_lines,
    lines_to_blanks,
    lines_to_categories,
    lines_to_histories,
    lines_to_outfits,
)
from fashiondpo.outfits.index_lines import MAX_PROBLEMS, DataSetLine, ItemLine, Problems, line_to_json, read_lines
from fashiondpo.outfits.model import DataSet

INDEX_FILE = "data_set.jsonl"
"""A folder that has this file holds an imported data set."""

IMAGE_FOLDER = "images"


def import_folder(
    images: Path, index: Path, *, name: str | None = None, image_size: int | None = None, shared_users: bool = False
) -> DataSet:
    """Outfits from a folder of pictures and an index; pictures are read when they are asked for.

    Args:
        images: the folder that picture paths are relative to.
        index: `.jsonl` or `.csv`; see `index_lines`.
        name: for reports; by default as the index says, else the name of the index file.
        image_size: side in pixels of the square that pictures are fitted into; by default as the index says, else 512.
        shared_users: allow users who have outfits in several splits.

    Raises:
        InvalidIndex: if lines are faulty; lists them all, with their numbers.
        DataFileError: if the index or the folder cannot be read.
    """
    if not images.is_dir():
        raise DataFileError(images, "there is no such image folder")
    problems = Problems(index)
    lines = read_lines(index, problems)
    facts = next((line for _, line in of_kind(lines, DataSetLine)), DataSetLine())
    check_lines(lines, images, problems, shared_users=shared_users or facts.shared_users)
    problems.raise_any()
    items = [line for _, line in of_kind(lines, ItemLine)]
    if not items:
        raise DataFileError(index, "describes no items")
    categories = lines_to_categories(lines)
    ids = {category.name: category.category_id for category in categories.values()}
    category_ids = {line.item_id: ids[line.category] for line in items}
    name = name or facts.name or index.stem
    outfits = lines_to_outfits(lines, category_ids)
    return DataSet(
        name=name,
        catalogue=FolderCatalogue(
            name,
            category_ids,
            {line.item_id: line.image for line in items},
            images,
            image_size=image_size or facts.image_size or DEFAULT_IMAGE_SIZE,
        ),
        categories=categories,
        outfits=outfits,
        histories=lines_to_histories(lines, category_ids),
        blanks=lines_to_blanks(lines, outfits),
    )


def read_folder(folder: Path) -> DataSet:
    """A data set in its imported form.

    Raises:
        InvalidIndex: if its lines are faulty or pictures are gone.
        DataFileError: if it is no imported data set.
    """
    if not (folder / INDEX_FILE).is_file():
        raise DataFileError(folder, f"is no imported data set: it has no {INDEX_FILE}")
    return import_folder(folder / IMAGE_FOLDER, folder / INDEX_FILE)


def write_data_set(
    folder: Path,
    data_set: DataSet,
    *,
    replace: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a data set in its imported form: pictures as PNG of the catalogue's size, everything else as one index.

    The folder appears under its name when it is complete; work that is cut off leaves at most a hidden folder
    `.<name>.partial-*` beside it. Writing the same data set again changes nothing.

    Args:
        folder: where to; may exist if it is empty or holds an imported data set.
        data_set: from any source that has pictures.
        replace: put it in the place of a different data set.
        on_progress: called with the number of pictures written and their total.

    Raises:
        InvalidInput: if pictures are missing or unreadable (names them), the folder holds something else, or the format
            cannot express the data set.
        Conflict: if the folder holds a different data set and `replace` is false.
    """
    if folder.exists() and not (folder / INDEX_FILE).is_file() and not _is_empty(folder):
        raise InvalidInput(f"{folder} holds something else than an imported data set; choose another folder")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    lines = [line_to_json(line) for line in data_set_to_lines(data_set)]
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial-", dir=folder.parent) as partial:
        fresh = Path(partial) / "fresh"
        _write_pictures(fresh / IMAGE_FOLDER, data_set, on_progress)
        (fresh / INDEX_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        if (folder / INDEX_FILE).is_file():
            if _is_same(fresh, folder):
                return
            if not replace:
                raise Conflict(f"{folder} already holds a different data set; replace it, or choose another folder")
        _put_in_place(fresh, folder, Path(partial) / "replaced")


def _put_in_place(fresh: Path, folder: Path, replaced: Path) -> None:
    if folder.exists():
        folder.rename(replaced)
    try:
        fresh.rename(folder)
    except OSError:
        if replaced.exists():
            replaced.rename(folder)
        raise


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _write_pictures(folder: Path, data_set: DataSet, on_progress: Callable[[int, int], None] | None) -> None:
    folder.mkdir(parents=True)
    faults: list[str] = []
    item_ids = data_set.catalogue.item_ids()
    for done, item_id in enumerate(item_ids, start=1):
        try:
            (folder / f"{item_id}.png").write_bytes(encode_png(data_set.catalogue.image(item_id)))
        except InvalidInput as error:
            faults.append(str(error))
        if len(faults) == MAX_PROBLEMS:
            break
        if on_progress is not None:
            on_progress(done, len(item_ids))
    if faults:
        listed = "".join(f"\n  {fault}" for fault in faults)
        more = " (there may be more)" if len(faults) == MAX_PROBLEMS else ""
        raise InvalidInput(f"{len(faults)} pictures of {data_set.name!r} cannot be imported{more}:{listed}")


def _is_same(fresh: Path, folder: Path) -> bool:
    """Whether two imported data sets agree in every byte."""
    names = sorted(path.name for path in (fresh / IMAGE_FOLDER).iterdir())
    if not (folder / IMAGE_FOLDER).is_dir() or names != sorted(path.name for path in (folder / IMAGE_FOLDER).iterdir()):
        return False
    files = [INDEX_FILE, *(f"{IMAGE_FOLDER}/{name}" for name in names)]
    return all(filecmp.cmp(fresh / file, folder / file, shallow=False) for file in files)
