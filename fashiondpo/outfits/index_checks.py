"""What must hold between the lines of an index of one's own items; every breach is noted with its line."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TypeVar

from fashiondpo.outfits.catalogue import names_a_file_inside
from fashiondpo.outfits.index_lines import (
    BlankLine,
    CategoryLine,
    DataSetLine,
    HistoryLine,
    ItemLine,
    Line,
    Numbered,
    OutfitLine,
    Problems,
)

L = TypeVar("L", bound=Line)


def of_kind(lines: Numbered, kind: type[L]) -> list[tuple[int, L]]:
    """The lines of one kind, with their numbers."""
    return [(number, line) for number, line in lines if isinstance(line, kind)]


def check_lines(lines: Numbered, images: Path, problems: Problems, *, shared_users: bool) -> None:
    """Check ids, references, pictures and splits.

    Args:
        lines: well-formed lines.
        images: the folder that item lines are relative to.
        problems: collects what is wrong.
        shared_users: users may have outfits in several splits; otherwise that is a problem, because an adapter would be
            judged on users it was trained on.
    """
    items = of_kind(lines, ItemLine)
    outfits = of_kind(lines, OutfitLine)
    histories = of_kind(lines, HistoryLine)
    _note_repeated(problems, "item", ((number, line.item_id) for number, line in items))
    _note_repeated(problems, "outfit", ((number, line.outfit_id) for number, line in outfits))
    _note_repeated(
        problems, "the history of user", ((n, f"{line.user_id}{_in_split(line.split)}") for n, line in histories)
    )
    _check_header_and_categories(lines, problems)
    _check_pictures(items, images, problems)
    known = {line.item_id for _, line in items}
    for number, history in histories:
        _note_unknown(problems, number, history.items, known)
    for number, outfit in outfits:
        _note_unknown(problems, number, outfit.items, known)
        if len(set(outfit.items)) < len(outfit.items):
            problems.add(number, f"outfit {outfit.outfit_id} lists an item twice")
    _check_blanks(lines, known, problems)
    if not shared_users:
        _check_users(outfits, problems)


def _in_split(split: str | None) -> str:
    return f" in {split}" if split else ""


def _note_repeated(problems: Problems, what: str, ids: Iterable[tuple[int, Hashable]]) -> None:
    first: dict[Hashable, int] = {}
    for number, identifier in ids:
        if first.setdefault(identifier, number) != number:
            problems.add(number, f"{what} {identifier} is already on line {first[identifier]}")


def _note_unknown(problems: Problems, number: int, item_ids: Iterable[int], known: set[int]) -> None:
    if unknown := [item_id for item_id in item_ids if item_id not in known]:
        problems.add(number, f"no line describes item {', '.join(map(str, unknown))}")


def _check_header_and_categories(lines: Numbered, problems: Problems) -> None:
    categories = of_kind(lines, CategoryLine)
    _note_repeated(problems, "facts about the", ((number, "data set") for number, _ in of_kind(lines, DataSetLine)))
    _note_repeated(problems, "category", ((number, line.category) for number, line in categories))
    fixed = [(number, line.category_id) for number, line in categories if line.category_id is not None]
    _note_repeated(problems, "category id", fixed)


def _check_pictures(items: list[tuple[int, ItemLine]], images: Path, problems: Problems) -> None:
    folder = images.resolve()
    for number, line in items:
        if not names_a_file_inside(line.image):
            problems.add(number, f"image {line.image!r} must be a path below the image folder, written with '/'")
        elif not (images / line.image).is_file():
            problems.add(number, f"image {line.image} is not in {images}")
        elif not (images / line.image).resolve().is_relative_to(folder):
            problems.add(number, f"image {line.image} is a link that leads out of {images}; copy the file there")


def _check_blanks(lines: Numbered, known: set[int], problems: Problems) -> None:
    blanks = of_kind(lines, BlankLine)
    outfits = {line.outfit_id: line.items for _, line in of_kind(lines, OutfitLine)}
    _note_repeated(problems, "a blank", ((n, f"in slot {line.slot} of outfit {line.outfit_id}") for n, line in blanks))
    for number, line in blanks:
        _note_unknown(problems, number, line.negatives, known)
        if line.outfit_id not in outfits:
            problems.add(number, f"no line describes outfit {line.outfit_id}")
        elif line.slot >= len(items := outfits[line.outfit_id]):
            problems.add(
                number, f"outfit {line.outfit_id} has {len(items)} slots, numbered from 0; got slot {line.slot}"
            )
        elif items[line.slot] in line.negatives:
            problems.add(number, f"item {items[line.slot]} is the right answer and cannot be a negative")


def _check_users(outfits: list[tuple[int, OutfitLine]], problems: Problems) -> None:
    first: dict[int, tuple[int, str]] = {}
    noted: set[int] = set()
    for number, line in outfits:
        first_line, split = first.setdefault(line.user_id, (number, line.split))
        if split != line.split and line.user_id not in noted:
            noted.add(line.user_id)
            problems.add(
                number,
                f"user {line.user_id} has outfits in {split} (line {first_line}) and in {line.split}; "
                "keep users apart, or declare the data set's users as shared",
            )
