"""A world small enough for tests: simple shapes for garments, four users, and CLIP of a few thousand weights."""

from __future__ import annotations

import numpy as np
import torch

from fashiondpo.contracts import Outfit
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.outfits.fashion_mnist import SIDE, Silhouettes
from fashiondpo.outfits.mini import UserGroup, World, build_world
from fashiondpo.outfits.model import Image
from fashiondpo.pretraining.captions import captions
from fashiondpo.pretraining.clip import NAME, ClipSettings, build_clip, clip_config
from fashiondpo.pretraining.tokenizer import train_tokenizer

CATEGORIES, PER_CATEGORY = 10, 12
GROUPS = (UserGroup("train", 40, 4, "train", None), UserGroup("valid", 12, 3, "test", None))
SMALL_CLIP = ClipSettings(
    embed_dim=16, vision_width=32, vision_layers=1, patch_px=8, text_width=32, text_layers=1, steps=1, batch_size=32
)


def shapes(seed: int = 0) -> Silhouettes:
    """Rectangles: each category has a height and a width of its own, give or take a pixel or two."""
    rng = np.random.default_rng(seed)
    images = np.zeros((CATEGORIES * PER_CATEGORY, SIDE, SIDE), np.uint8)
    labels = np.repeat(np.arange(CATEGORIES, dtype=np.uint8), PER_CATEGORY)
    for image, label in zip(images, labels, strict=True):
        height, width = 5 + 5 * (label % 5) + rng.integers(0, 2), 8 + 14 * (label // 5) + rng.integers(0, 2)
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        image[top : top + height, left : left + width] = rng.integers(150, 255)
    return Silhouettes(images, labels)


def world(seed: int = 3) -> World:
    return build_world({"train": shapes(0), "test": shapes(1)}, GROUPS, seed=seed)


def small_features(seed: int = 0) -> OpenClipFeatures:
    """Untrained, but real: images that differ get features that differ."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(captions())
    config = clip_config(SMALL_CLIP, len(tokenizer))
    return OpenClipFeatures(build_clip(config), name=NAME, config=config, tokenizer=tokenizer)


def outfit(*item_ids: int | None, user_id: int = 0, category_ids: tuple[int, ...] = (0, 1, 5, 8)) -> Outfit:
    return Outfit(outfit_id=1, user_id=user_id, category_ids=category_ids, item_ids=item_ids)


def garment(rgb: tuple[int, int, int], *, size_px: int = 32) -> Image:
    """A rectangle of one colour on white."""
    image = np.full((size_px, size_px, 3), 255, np.uint8)
    image[size_px // 4 : -size_px // 4, size_px // 4 : -size_px // 4] = rgb
    return image
