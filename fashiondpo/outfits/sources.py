"""Which kind of data set a folder holds, told from its content."""

from __future__ import annotations

from pathlib import Path

from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.outfits.folder import INDEX_FILE, read_folder
from fashiondpo.outfits.model import DataSet
from fashiondpo.outfits.published import TRAIN_FILE, read_published

MINI_FILE = "world.safetensors"
"""A folder that has this file holds a mini catalogue."""


def load_data_set(source: str | Path) -> DataSet:
    """The data set in a folder: an imported one, a published one, or a mini one.

    Args:
        source: the folder. Pictures of a published data set are expected in its folder `images`.

    Raises:
        NotFound: if there is no such folder.
        InvalidInput: if it is none of the three, or a file in it is malformed.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise NotFound(f"there is no data set folder {folder}")
    if (folder / INDEX_FILE).is_file():
        return read_folder(folder)
    if (folder / TRAIN_FILE).is_file():
        return read_published(folder)
    if (folder / MINI_FILE).is_file():
        # here and not above: the other kinds of data sets need nothing of it
        from fashiondpo.outfits.mini import read_mini

        return read_mini(folder)
    raise InvalidInput(
        f"{folder} holds no data set: expected {INDEX_FILE} (imported), {TRAIN_FILE} (published) "
        f"or {MINI_FILE} (mini); to use pictures of your own, import them first"
    )
