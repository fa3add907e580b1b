"""The mini world: Fashion-MNIST silhouettes tinted in HSV, outfits in colour harmony, users with palettes and tastes.

Everything follows from a seed. An item is a silhouette and a colour. An outfit has four slots: top, trousers, shoes, bag,
or dress, coat, shoes, bag. Its colours follow one scheme (mono, analogous, complementary) around one of the user's two
hues; a quarter of the items, two at most, take the user's neutral. A user's history holds four items of every category
they like, in the colours of their palette. Users of different groups are different people, and silhouettes are never
shared between train, valid and test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fashiondpo.contracts import Outfit
from fashiondpo.errors import DataFileError, InvalidInput, UnknownItem
from fashiondpo.outfits.colour import HUES, NEUTRALS, SCHEMES, sample_rgb, scheme_colours
from fashiondpo.outfits.fashion_mnist import SIDE, Silhouettes
from fashiondpo.outfits.model import Category, DataSet, History, Image, Item

IMAGE_SIZE_PX = 32
CATEGORIES: Mapping[int, Category] = {
    i: Category(i, name, is_paired=i in (5, 7, 9))
    for i, name in enumerate(
        ("t-shirt", "trousers", "pullover", "dress", "coat", "sandals", "shirt", "sneakers", "bag", "ankle boots")
    )
}
TROUSERS, DRESS, COAT, BAG = 1, 3, 4, 8
TOPS = (0, 2, 4, 6)
SHOES = (5, 7, 9)
SLOTS = 4
HISTORY_PER_CATEGORY = 4
_ATLAS_COLUMNS = 100
_WORLD_FILE, _ATLAS_FILE = "world.safetensors", "silhouettes.png"


@dataclass(frozen=True)
class UserGroup:
    """Users who share a pool of silhouettes.

    Attributes:
        split: name of the split their outfits form.
        users, outfits_per_user: how many.
        source: "train" or "test" files of Fashion-MNIST.
        pool: half-open range of positions within each category's silhouettes; None for all.
    """

    split: str
    users: int
    outfits_per_user: int
    source: str
    pool: tuple[int, int] | None


SHIPPED_GROUPS = (
    UserGroup("train", 400, 8, "train", (0, 450)),
    UserGroup("valid", 150, 4, "test", (0, 100)),
    UserGroup("test", 200, 4, "test", (100, 220)),
)
PRETRAIN_GROUP = UserGroup("pretrain", 1300, 8, "train", None)
"""More users for training the models themselves; their silhouettes come from the training files alone."""


@dataclass(frozen=True)
class World:
    """The mini world as arrays; row i of the item arrays is item i + 1 (0 is the blank).

    Attributes:
        silhouettes: (s, 28, 28) uint8, grey on black.
        item_category, item_colour: (n,) uint8.
        item_rgb: (n, 3) uint8.
        item_silhouette: (n,) int32, positions in `silhouettes`.
        outfit_items: (o, 4) int32, item ids.
        outfit_user: (o,) int32.
        history_items: (h,) int32 item ids, and history_user (h,) int32.
        user_palette: (u, 3) uint8: two hues and a neutral of user u.
        user_split: (u,) uint8: position in `splits`.
        splits: names.
    """

    silhouettes: NDArray[np.uint8]
    item_category: NDArray[np.uint8]
    item_colour: NDArray[np.uint8]
    item_rgb: NDArray[np.uint8]
    item_silhouette: NDArray[np.int32]
    outfit_items: NDArray[np.int32]
    outfit_user: NDArray[np.int32]
    history_items: NDArray[np.int32]
    history_user: NDArray[np.int32]
    user_palette: NDArray[np.uint8]
    user_split: NDArray[np.uint8]
    splits: tuple[str, ...]


class MiniCatalogue:
    """Items of a mini world, painted when they are asked for."""

    name = "mini"
    image_size = IMAGE_SIZE_PX

    def __init__(self, world: World) -> None:
        self.world = world

    def item(self, item_id: int) -> Item:
        """The item; raises UnknownItem."""
        return Item(item_id, int(self.world.item_category[self._row(item_id)]))

    def image(self, item_id: int) -> Image:
        """Its picture, shape (32, 32, 3); raises UnknownItem."""
        image: Image = self.images([item_id])[0]
        return image

    def images(self, item_ids: Sequence[int]) -> NDArray[np.uint8]:
        """Pictures of many items at once, shape (n, 32, 32, 3); raises UnknownItem."""
        rows = np.array([self._row(item_id) for item_id in item_ids], dtype=np.intp)
        return render(self.world.silhouettes[self.world.item_silhouette[rows]], self.world.item_rgb[rows])

    def colour(self, item_id: int) -> int:
        """The colour it was made in, an index of `fashiondpo.outfits.colour.COLOURS`; raises UnknownItem."""
        return int(self.world.item_colour[self._row(item_id)])

    def palette(self, user_id: int) -> tuple[int, ...]:
        """The user's two hues and neutral.

        Raises:
            InvalidInput: if there is no such user.
        """
        if not 0 <= user_id < len(self.world.user_palette):
            raise InvalidInput(f"user {user_id} is not in the mini world of {len(self.world.user_palette)} users")
        return tuple(int(colour) for colour in self.world.user_palette[user_id])

    def item_ids(self) -> Sequence[int]:
        """Every item, ascending."""
        return self._item_ids

    @cached_property
    def _item_ids(self) -> range:
        return range(1, len(self.world.item_category) + 1)

    def _row(self, item_id: int) -> int:
        if not 1 <= item_id <= len(self.world.item_category):
            raise UnknownItem(item_id, self.name)
        return item_id - 1


def render(silhouettes: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tint grey silhouettes and lay them on white, with a margin of two pixels.

    Args:
        silhouettes: (n, 28, 28), grey on black.
        rgb: (n, 3).

    Returns:
        (n, 32, 32, 3).
    """
    grey = silhouettes.astype(np.float32)[..., None] / 255
    mask = np.clip(grey * 5, 0, 1)  # the faint rim blends into the background
    tinted = (0.5 + 0.5 * grey) * (rgb.astype(np.float32) / 255)[:, None, None, :]
    canvas = np.ones((len(silhouettes), IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.float32)
    margin = (IMAGE_SIZE_PX - SIDE) // 2
    canvas[:, margin:-margin, margin:-margin] = 1 - mask + mask * tinted
    return np.round(canvas * 255).astype(np.uint8)


class _WorldBuilder:
    """Collects items, outfits and histories user by user."""

    def __init__(self, sources: Mapping[str, Silhouettes]) -> None:
        self.sources = sources
        self.items: list[tuple[int, int, NDArray[np.uint8], tuple[str, int]]] = []
        self.outfits: list[tuple[int, list[int]]] = []
        self.history: list[tuple[int, int]] = []
        self.palettes: list[tuple[int, int, int]] = []
        self.user_splits: list[int] = []
        self._by_category = {(name, c): source.of_category(c) for name, source in sources.items() for c in CATEGORIES}

    def add_user(self, group: UserGroup, split_index: int, rng: np.random.Generator) -> None:
        user_id = len(self.palettes)
        first = int(rng.integers(len(HUES)))
        second = int((first + rng.choice([1, -1, 6])) % len(HUES))
        neutral = len(HUES) + int(rng.integers(len(NEUTRALS)))
        self.palettes.append((first, second, neutral))
        self.user_splits.append(split_index)
        tops, shoes = rng.dirichlet([0.6] * len(TOPS)), rng.dirichlet([0.6] * len(SHOES))
        dress_share = float(rng.choice([0.05, 0.3, 0.7], p=[0.5, 0.3, 0.2]))

        liked = {TROUSERS, BAG}
        liked |= {c for c, p in zip(TOPS, tops, strict=True) if p > 0.12}
        liked |= {c for c, p in zip(SHOES, shoes, strict=True) if p > 0.15}
        liked |= {DRESS, COAT} if dress_share > 0.1 else set()
        for category_id in sorted(liked):
            for _ in range(HISTORY_PER_CATEGORY):
                colour = int(rng.choice((first, second, neutral), p=(0.6, 0.25, 0.15)))
                self.history.append((user_id, self._add_item(group, category_id, colour, rng)))
        for _ in range(group.outfits_per_user):
            shoe = int(rng.choice(SHOES, p=shoes))
            is_dress = rng.uniform() < dress_share
            top = (DRESS, COAT) if is_dress else (int(rng.choice(TOPS, p=tops)), TROUSERS)
            colours = _outfit_colours(first, second, neutral, rng)
            slots = zip((*top, shoe, BAG), colours, strict=True)
            self.outfits.append((user_id, [self._add_item(group, category, colour, rng) for category, colour in slots]))

    def _add_item(self, group: UserGroup, category_id: int, colour: int, rng: np.random.Generator) -> int:
        positions = self._by_category[group.source, category_id]
        low, high = group.pool or (0, len(positions))
        silhouette = int(positions[int(rng.integers(low, min(high, len(positions))))])
        self.items.append((category_id, colour, sample_rgb(colour, rng), (group.source, silhouette)))
        return len(self.items)

    def world(self, splits: tuple[str, ...]) -> World:
        categories, colours, rgb, places = zip(*self.items, strict=True)
        used = sorted(set(places))
        position = {place: i for i, place in enumerate(used)}
        return World(
            silhouettes=np.stack([self.sources[source].images[i] for source, i in used]),
            item_category=np.array(categories, np.uint8),
            item_colour=np.array(colours, np.uint8),
            item_rgb=np.stack(rgb),
            item_silhouette=np.array([position[place] for place in places], np.int32),
            outfit_items=np.array([items for _, items in self.outfits], np.int32),
            outfit_user=np.array([user for user, _ in self.outfits], np.int32),
            history_items=np.array([item for _, item in self.history], np.int32),
            history_user=np.array([user for user, _ in self.history], np.int32),
            user_palette=np.array(self.palettes, np.uint8),
            user_split=np.array(self.user_splits, np.uint8),
            splits=splits,
        )


def _outfit_colours(first: int, second: int, neutral: int, rng: np.random.Generator) -> list[int]:
    base = first if rng.uniform() < 0.7 else second
    allowed = scheme_colours(base, SCHEMES[int(rng.choice(3, p=[0.35, 0.35, 0.3]))])
    colours = [int(rng.choice(allowed)) for _ in range(SLOTS)]
    for slot in [s for s in range(SLOTS) if rng.uniform() < 0.25][:2]:
        colours[slot] = neutral
    return colours


def build_world(
    sources: Mapping[str, Silhouettes], groups: Sequence[UserGroup] = SHIPPED_GROUPS, *, seed: int = 7
) -> World:
    """Make up a world. The same sources, groups and seed give the same world.

    Each user draws from a generator of their own, so more users in one group leave the others as they were.

    Args:
        sources: silhouettes by the names that the groups use.
        groups: who lives in it.
        seed: decides everything else.

    Raises:
        InvalidInput: if groups that must not share silhouettes do.
    """
    _refuse_shared_silhouettes(groups)
    builder = _WorldBuilder(sources)
    for index, group in enumerate(groups):
        for user in range(group.users):
            key = [seed, *group.split.encode(), user]
            builder.add_user(group, index, np.random.default_rng(key))
    return builder.world(tuple(group.split for group in groups))


def _refuse_shared_silhouettes(groups: Sequence[UserGroup]) -> None:
    held_out = [g for g in groups if g.split in ("valid", "test")]
    for group in held_out:
        for other in groups:
            if other is group or other.source != group.source:
                continue
            low, high = group.pool or (0, 10**9)
            other_low, other_high = other.pool or (0, 10**9)
            if low < other_high and other_low < high:
                raise InvalidInput(f"groups {group.split!r} and {other.split!r} would share silhouettes")


def world_data_set(world: World, *, name: str = "mini") -> DataSet:
    """The world behind the common interface."""
    catalogue = MiniCatalogue(world)
    categories = world.item_category
    outfits: dict[str, list[Outfit]] = {split: [] for split in world.splits}
    for outfit_id, (user, items) in enumerate(
        zip(world.outfit_user.tolist(), world.outfit_items.tolist(), strict=True)
    ):
        outfits[world.splits[world.user_split[user]]].append(
            Outfit(
                outfit_id=outfit_id,
                user_id=user,
                item_ids=tuple(items),
                category_ids=tuple(int(categories[item - 1]) for item in items),
            )
        )
    histories: dict[str, dict[int, dict[int, list[int]]]] = {split: {} for split in world.splits}
    for user, item in zip(world.history_user.tolist(), world.history_items.tolist(), strict=True):
        of_user = histories[world.splits[world.user_split[user]]].setdefault(user, {})
        of_user.setdefault(int(categories[item - 1]), []).append(item)
    return DataSet(name, catalogue, CATEGORIES, outfits, {split: History(items) for split, items in histories.items()})


_ARRAYS = tuple(n for n in World.__dataclass_fields__ if n not in ("silhouettes", "splits"))


def save_mini(world: World, folder: Path) -> None:
    """Write the world: one safetensors file of indices and one PNG atlas of silhouettes that can be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = -(-len(world.silhouettes) // _ATLAS_COLUMNS)
    tiles = np.zeros((rows * _ATLAS_COLUMNS, SIDE, SIDE), np.uint8)
    tiles[: len(world.silhouettes)] = world.silhouettes
    atlas = tiles.reshape(rows, _ATLAS_COLUMNS, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, -1)
    Pillow.fromarray(atlas).save(folder / _ATLAS_FILE, optimize=True)
    # one entry, because safetensors writes several in an order that changes from run to run
    metadata = {"world": json.dumps({"splits": world.splits, "silhouettes": len(world.silhouettes)})}
    save_file({name: getattr(world, name) for name in _ARRAYS}, folder / _WORLD_FILE, metadata=metadata)


def load_world(folder: Path) -> World:
    """Read what `save_mini` wrote.

    Raises:
        DataFileError: if a file is missing, truncated or of another kind.
    """
    from safetensors import safe_open

    path = folder / _WORLD_FILE
    try:
        arrays = load_file(path)
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataFileError(path, f"not a readable mini world: {error}") from error
    if missing := [name for name in _ARRAYS if name not in arrays] + [k for k in ("world",) if k not in metadata]:
        raise DataFileError(path, f"not a mini world: {', '.join(missing)} missing")
    described = json.loads(metadata["world"])
    return World(
        silhouettes=_read_atlas(folder / _ATLAS_FILE, int(described["silhouettes"])),
        splits=tuple(described["splits"]),
        **{name: arrays[name] for name in _ARRAYS},
    )


def _read_atlas(path: Path, count: int) -> NDArray[np.uint8]:
    try:
        atlas = np.asarray(Pillow.open(path).convert("L"))
    except (OSError, ValueError) as error:
        raise DataFileError(path, f"not a readable atlas of silhouettes: {error}") from error
    rows = atlas.shape[0] // SIDE
    tiles = atlas.reshape(rows, SIDE, -1, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)
    if len(tiles) < count:
        raise DataFileError(path, f"{count} silhouettes announced, {len(tiles)} found")
    return np.ascontiguousarray(tiles[:count])


def read_mini(folder: Path) -> DataSet:
    """A saved mini world behind the common interface; raises DataFileError."""
    return world_data_set(load_world(folder))
