"""A mini data set of a few thousand items: the shipped silhouettes and rules, far fewer users. Embedded in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fashiondpo.outfits.fashion_mnist import Silhouettes
from fashiondpo.outfits.mini import UserGroup, build_world, load_world, save_mini
from fashiondpo.run_settings import MINI_ASSETS

GROUPS = (
    UserGroup("train", 20, 8, "shipped", (0, 40)),
    UserGroup("valid", 15, 4, "shipped", (40, 60)),
    UserGroup("test", 80, 4, "shipped", (60, 80)),
)


def save_small_catalogue(folder: Path) -> Path:
    """Write it; the folder is one that `load_data_set` reads."""
    shipped = load_world(MINI_ASSETS / "catalogue")
    labels = np.zeros(len(shipped.silhouettes), np.uint8)
    labels[shipped.item_silhouette] = shipped.item_category
    sources = {"shipped": Silhouettes(shipped.silhouettes, labels)}
    save_mini(build_world(sources, GROUPS, seed=1), folder)
    return folder
