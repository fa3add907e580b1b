"""What the small data sets of these tests hold."""

from pathlib import Path

from PIL import Image as Pillow

CATEGORIES = {0: "skirt", 3: "earrings", 12: "women's casual pants", 35: "women's boot"}
ITEM_CATEGORIES = {1: 0, 2: 0, 3: 3, 4: 3, 5: 12, 6: 12, 7: 35, 8: 35, 9: 35}


def colour_of(item_id: int) -> tuple[int, int, int]:
    """The one colour of an item's picture."""
    return (20 * item_id % 256, 255 - item_id % 256, 7)


def save_picture(path: Path, item_id: int, size: tuple[int, int] = (6, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", size, colour_of(item_id)).save(path)
    return path


ITEM_LINES = [
    {"type": "item", "item_id": 1, "category": "dress", "image": "a/1.png"},
    {"type": "item", "item_id": 2, "category": "sneakers", "image": "a/2.jpg"},
    {"type": "item", "item_id": 3, "category": "bag", "image": "b c/3.png"},
    {"type": "item", "item_id": 4, "category": "bag", "image": "4.png"},
]
OUTFIT_LINES = [
    {"type": "outfit", "outfit_id": 1, "user_id": 7, "split": "train", "items": [1, 2, 3]},
    {"type": "outfit", "outfit_id": 2, "user_id": 8, "split": "test", "items": [1, 4]},
]
HISTORY_LINES = [
    {"type": "history", "user_id": 7, "items": [4, 2, 3]},
    {"type": "history", "user_id": 8, "items": [1], "split": "test"},
]
