"""Between the lines of an index and a data set, in both directions; lines are taken as checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fashiondpo.contracts import Outfit
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.index_checks import of_kind
from fashiondpo.outfits.index_lines import (
    BlankLine,
    CategoryLine,
    DataSetLine,
    HistoryLine,
    ItemLine,
    Line,
    Numbered,
    OutfitLine,
)
from fashiondpo.outfits.model import Blank, Category, DataSet, History, Split

SPLITS: tuple[Split, ...] = ("train", "valid", "test")

PAIRED_WORDS = frozenset(
    ("shoes", "sneakers", "boots", "sandals", "slippers", "heels", "flats", "loafers", "pumps", "trainers", "socks",
     "stockings", "tights", "leggings", "pants", "trousers", "jeans", "shorts", "gloves", "mittens", "earrings",
     "cufflinks", "glasses", "sunglasses")
)  # fmt: skip
"""Categories whose last word is one of these, in the plural, get "a pair of", unless a category line says otherwise."""


def is_paired_name(category: str) -> bool:
    """Whether a category's name is the plural of something that is worn in pairs."""
    words = category.lower().split()
    return bool(words) and words[-1] in PAIRED_WORDS


def lines_to_categories(lines: Numbered) -> dict[int, Category]:
    """By id: ids that category lines fix stay, the others are given out in order of first appearance."""
    declared = {line.category: line for _, line in of_kind(lines, CategoryLine)}
    names = dict.fromkeys([*declared, *(line.category for _, line in of_kind(lines, ItemLine))])
    fixed = {line.category_id for line in declared.values()}
    free = (candidate for candidate in range(len(names) + len(fixed)) if candidate not in fixed)
    found = []
    for name in names:
        line = declared.get(name) or CategoryLine(category=name)
        category_id = next(free) if line.category_id is None else line.category_id
        is_paired = is_paired_name(name) if line.is_paired is None else line.is_paired
        found.append(Category(category_id, name, is_paired))
    return {category.category_id: category for category in sorted(found, key=lambda category: category.category_id)}


def lines_to_outfits(lines: Numbered, category_ids: Mapping[int, int]) -> dict[str, tuple[Outfit, ...]]:
    """Per split, in the order of their lines; `category_ids` by item id."""
    by_split: dict[str, list[Outfit]] = {split: [] for split in SPLITS}
    for _, line in of_kind(lines, OutfitLine):
        by_split[line.split].append(
            Outfit(
                outfit_id=line.outfit_id,
                user_id=line.user_id,
                category_ids=tuple(category_ids[item_id] for item_id in line.items),
                item_ids=line.items,
            )
        )
    return {split: tuple(outfits) for split, outfits in by_split.items()}


def lines_to_histories(lines: Numbered, category_ids: Mapping[int, int]) -> dict[str, History]:
    """Per split: a user's line for that split, else the line for all; `category_ids` by item id."""
    histories = [line for _, line in of_kind(lines, HistoryLine)]
    by_split: dict[str, History] = {}
    for split in SPLITS:
        items = {line.user_id: line.items for line in histories if line.split is None}
        items |= {line.user_id: line.items for line in histories if line.split == split}
        by_split[split] = History({user_id: _by_category(worn, category_ids) for user_id, worn in items.items()})
    return by_split


def _by_category(item_ids: Sequence[int], category_ids: Mapping[int, int]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for item_id in item_ids:
        grouped.setdefault(category_ids[item_id], []).append(item_id)
    return grouped


def lines_to_blanks(lines: Numbered, outfits: Mapping[str, Sequence[Outfit]]) -> dict[str, tuple[Blank, ...]]:
    """Per split, where blank lines fix any."""
    homes = {outfit.outfit_id: (split, outfit) for split, found in outfits.items() for outfit in found}
    by_split: dict[str, list[Blank]] = {}
    for _, line in of_kind(lines, BlankLine):
        split, outfit = homes[line.outfit_id]
        true_item_id = outfit.given_item_ids[line.slot]
        by_split.setdefault(split, []).append(Blank(outfit.without(line.slot), line.slot, true_item_id, line.negatives))
    return {split: tuple(blanks) for split, blanks in by_split.items()}


def data_set_to_lines(data_set: DataSet) -> Iterator[Line]:
    """The lines that say everything of a data set but its pictures, which they call `<item id>.png`.

    Outfits that the source repeats word for word are written once.

    Raises:
        InvalidInput: if the format cannot say it: categories of the same name, incomplete outfits, one outfit id for
            different outfits, splits other than train, valid and test.
    """
    names = {category.name for category in data_set.categories.values()}
    if len(names) < len(data_set.categories) or set(data_set.outfits) - set(SPLITS):
        raise InvalidInput(f"{data_set.name!r} has two categories of one name, or splits besides {', '.join(SPLITS)}")
    outfits = list(_outfit_lines(data_set))
    yield DataSetLine(
        name=data_set.name,
        image_size=data_set.catalogue.image_size,
        shared_users=len({(line.user_id, line.split) for line in outfits}) > len({line.user_id for line in outfits}),
    )
    for category in sorted(data_set.categories.values(), key=lambda category: category.category_id):
        yield CategoryLine(category=category.name, category_id=category.category_id, is_paired=category.is_paired)
    for item_id in data_set.catalogue.item_ids():
        category = data_set.categories[data_set.catalogue.item(item_id).category_id]
        yield ItemLine(item_id=item_id, category=category.name, image=f"{item_id}.png")
    yield from outfits
    yield from _history_lines(data_set)
    for blanks in data_set.blanks.values():
        for blank in blanks:
            yield BlankLine(outfit_id=blank.outfit.outfit_id, slot=blank.slot, negatives=blank.negative_item_ids)


def _outfit_lines(data_set: DataSet) -> Iterator[OutfitLine]:
    written: dict[int, OutfitLine] = {}
    for split in (split for split in SPLITS if split in data_set.outfits):
        for outfit in data_set.outfits[split]:
            items = outfit.given_item_ids
            if tuple(data_set.catalogue.item(item_id).category_id for item_id in items) != outfit.category_ids:
                raise InvalidInput(f"outfit {outfit.outfit_id} is incomplete, or its items are of other categories")
            line = OutfitLine(outfit_id=outfit.outfit_id, user_id=outfit.user_id, split=split, items=items)
            if (earlier := written.setdefault(outfit.outfit_id, line)) is line:
                yield line
            elif earlier != line:
                raise InvalidInput(f"two different outfits have the id {outfit.outfit_id}")


def _history_lines(data_set: DataSet) -> Iterator[HistoryLine]:
    """One line per user if all splits agree, else one per user and split."""
    histories = {split: data_set.history(split) for split in SPLITS}
    known = {split: set(history.user_ids) for split, history in histories.items()}
    for user_id in dict.fromkeys(user_id for history in histories.values() for user_id in history.user_ids):
        items = {split: histories[split].all_of(user_id) for split in SPLITS if user_id in known[split]}
        if len(items) == len(SPLITS) and len(set(items.values())) == 1:
            yield HistoryLine(user_id=user_id, items=next(iter(items.values())))
        else:
            for split, worn in items.items():
                yield HistoryLine(user_id=user_id, items=worn, split=split)
