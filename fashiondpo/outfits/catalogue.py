"""A catalogue whose pictures are files in one folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from fashiondpo.errors import InvalidInput, MissingImages, UnknownItem
from fashiondpo.outfits.images import read_image
from fashiondpo.outfits.model import Image, Item

DEFAULT_IMAGE_SIZE = 512
"""Side of the pictures in pixels that the published models were trained on."""
_NO_FOLDER = (
    "(no image folder was given; those of a published data set belong into its folder images, and their paths into "
    "all_item_image_paths.npy)"
)


def names_a_file_inside(name: str) -> bool:
    """Whether a relative path, written with forward slashes, stays in the folder it is relative to.

    This reads the name only; a link in the folder may still lead out of it (see `FolderCatalogue.image`).
    """
    path = PurePosixPath(name)
    is_drive = len(name) > 1 and name[1] == ":"
    return bool(path.parts) and not (path.is_absolute() or is_drive or ".." in path.parts or {"\\", "\0"} & set(name))


class FolderCatalogue:
    """Items whose pictures lie in a folder; pictures are read when they are asked for."""

    def __init__(
        self,
        name: str,
        category_ids: Mapping[int, int],
        files: Mapping[int, str],
        folder: Path | None,
        *,
        image_size: int = DEFAULT_IMAGE_SIZE,
    ) -> None:
        """Nothing is opened yet.

        Args:
            name: for messages.
            category_ids: category id by item id; these are the items.
            files: by item id, its picture's path relative to `folder`, with forward slashes.
            folder: where the pictures are; None if there are none.
            image_size: side in pixels of the square that pictures are fitted into, padded with white.

        Raises:
            InvalidInput: if a path leaves the folder, or image_size is not positive.
        """
        if image_size < 1:
            raise InvalidInput(f"image_size must be positive, got {image_size}")
        for item_id, file in files.items():
            if not names_a_file_inside(file):
                raise InvalidInput(f"the picture {file!r} of item {item_id} does not lie inside the image folder")
        self._name, self._image_size, self._folder = name, image_size, folder
        self._category_ids, self._files = category_ids, files

    @property
    def name(self) -> str:
        """For messages: which catalogue this is."""
        return self._name

    @property
    def image_size(self) -> int:
        """Side of the square pictures in pixels."""
        return self._image_size

    def item(self, item_id: int) -> Item:
        """The item; raises UnknownItem."""
        if item_id not in self._category_ids:
            raise UnknownItem(item_id, self._name)
        return Item(item_id, self._category_ids[item_id])

    def item_ids(self) -> tuple[int, ...]:
        """Every item, ascending."""
        return self._sorted_ids

    def image(self, item_id: int) -> Image:
        """The item's picture, shape (image_size, image_size, 3).

        Raises:
            UnknownItem: if the catalogue has no such item.
            MissingImages: if its picture is not in the folder.
            InvalidInput: if the file is no readable picture, or a link leads out of the folder.
        """
        self.check_images([item_id])
        path = self._path(item_id)
        if self._folder is None or path is None or not path.resolve().is_relative_to(self._folder.resolve()):
            raise InvalidInput(f"the picture of item {item_id}, {path}, lies outside {self._folder}")
        return read_image(path, size_px=self._image_size)

    def check_images(self, item_ids: Iterable[int] | None = None) -> None:
        """See that pictures are there, before hours of work begin; they are not opened.

        Args:
            item_ids: which items; None for all.

        Raises:
            UnknownItem: if the catalogue has no such item.
            MissingImages: if pictures are missing; it counts them and names them, as item id and file.
        """
        if missing := self.missing_images(item_ids):
            if self._folder is None:
                raise MissingImages(_NO_FOLDER, [f"item {item_id}" for item_id in missing])
            named = [f"item {item_id} ({file})" for item_id, file in missing.items()]
            raise MissingImages(self._folder, named)

    def missing_images(self, item_ids: Iterable[int] | None = None) -> dict[int, str]:
        """Items without a picture, with the file that the index names; of all items unless given. Raises UnknownItem."""
        missing = {}
        for item_id in self._sorted_ids if item_ids is None else item_ids:
            path = self._path(self.item(item_id).item_id)
            if path is None or not path.is_file():
                missing[item_id] = self._files.get(item_id, "the index names no file")
        return missing

    def _path(self, item_id: int) -> Path | None:
        file = self._files.get(item_id)
        return None if file is None or self._folder is None else self._folder / file

    @cached_property
    def _sorted_ids(self) -> tuple[int, ...]:
        return tuple(sorted(self._category_ids))
