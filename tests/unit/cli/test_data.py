"""`fashiondpo data`: counts, imports, mini worlds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.sources import load_data_set

ITEMS = {1: "dress", 2: "sneakers", 3: "bag"}


@pytest.fixture
def own(tmp_path):
    """A folder of three pictures and its index."""
    images = tmp_path / "pictures"
    images.mkdir()
    for item_id in ITEMS:
        (images / f"{item_id}.png").write_bytes(encode_png(np.full((40, 30, 3), 60 * item_id, np.uint8)))
    lines = [
        {"type": "item", "item_id": item_id, "category": category, "image": f"{item_id}.png"}
        for item_id, category in ITEMS.items()
    ]
    lines.append({"type": "outfit", "outfit_id": 1, "user_id": 7, "split": "train", "items": list(ITEMS)})
    index = tmp_path / "index.jsonl"
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return images, index


class TestShow:
    def test_counts_the_mini_world(self, fashiondpo, smoke_run):
        shown = fashiondpo.well("data", "show")
        assert f"mini: {smoke_run.figures['catalogue']['items']:,.0f} items" in shown
        for split in ("train", "valid", "test"):
            (row,) = (line for line in shown.splitlines() if f" {split} " in line)
            assert [int(word) for word in row.replace("│", " ").split() if word.isdigit()] == [36, 12, 0, 12]


class TestImport:
    def test_writes_a_data_set_that_commands_can_use(self, fashiondpo, own, tmp_path):
        said = fashiondpo.well("data", "import", *own, "--out", tmp_path / "new", "--size-px", 16)
        assert f"Wrote 3 items to {tmp_path / 'new'}" in said
        data_set = load_data_set(tmp_path / "new")
        assert data_set.catalogue.image(1).shape == (16, 16, 3)
        assert "3 items" in fashiondpo.well("data", "show", tmp_path / "new")

    def test_names_the_line_that_is_wrong(self, fashiondpo, own, tmp_path):
        images, index = own
        index.write_text(index.read_text() + '{"type": "outfit", "outfit_id": 2, "items": [1, 99]}\n')
        finished = fashiondpo("data", "import", images, index, "--out", tmp_path / "new")
        assert finished.code == 2
        assert "line 5" in finished.err
        assert not (tmp_path / "new").exists()

    def test_refuses_to_overwrite_another_data_set_unless_asked(self, fashiondpo, own, tmp_path):
        images, index = own
        fashiondpo.well("data", "import", images, index, "--out", tmp_path / "new", "--size-px", 16)
        again = ("data", "import", images, index, "--out", tmp_path / "new", "--size-px", 8)
        assert fashiondpo(*again).code == 2
        fashiondpo.well(*again, "--replace")
        assert load_data_set(tmp_path / "new").catalogue.image_size == 8


class TestMini:
    def test_writes_a_world_of_its_own_for_every_seed(self, fashiondpo, smoke_run, tmp_path):
        for seed in (1, 2):
            fashiondpo.well(
                "data", "mini", "--fashion-mnist", smoke_run.silhouettes, "--out", tmp_path / str(seed), "--seed", seed
            )
        one, two = (load_data_set(tmp_path / str(seed)) for seed in (1, 2))
        assert len(one.split("train")) == len(two.split("train")) == 3200
        assert [o.category_ids for o in one.split("train")] != [o.category_ids for o in two.split("train")]

    def test_never_overwrites_one(self, fashiondpo, smoke_run, smoke_assets):
        finished = fashiondpo(
            "data", "mini", "--fashion-mnist", smoke_run.silhouettes, "--out", smoke_assets / "catalogue"
        )
        assert finished.code == 2
        assert "already holds a mini world" in finished.err
