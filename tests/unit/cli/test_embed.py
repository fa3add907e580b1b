"""`fashiondpo embed` and `fashiondpo train-vbpr`: a catalogue's features once, and VBPR on them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from fashiondpo.judges.embedding import PROGRESS
from fashiondpo.judges.embeddings import MANIFEST, VECTORS, CatalogueEmbeddings, read_manifest
from fashiondpo.judges.vbpr import VBPR
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.sources import load_data_set
from tests.tiny_clip import save_tiny_clip


@pytest.fixture(scope="module")
def embedded(fashiondpo, tmp_path_factory) -> Path:
    """The smoke catalogue's embeddings, made in one go."""
    folder = tmp_path_factory.mktemp("embedded") / "mini"
    said = fashiondpo.well("embed", "--out", folder)
    assert "vectors of" in said and "mini-ViT-8-32" in said
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An imported data set of six items, an outfit in each split."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    kinds = ("shirt", "shoe")
    lines = [{"type": "item", "item_id": n, "category": kinds[n % 2], "image": f"{n}.png"} for n in range(1, 7)]
    users = {"train": 1, "valid": 2, "test": 3}
    lines += [
        {"type": "outfit", "outfit_id": n, "user_id": user, "split": split, "items": [2 * n - 1, 2 * n]}
        for n, (split, user) in enumerate(users.items(), start=1)
    ]
    (folder / "data_set.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for n in range(1, 7):
        (folder / "images" / f"{n}.png").write_bytes(encode_png(np.full((8, 8, 3), 30 * n, np.uint8)))
    return folder


class TestEmbed:
    def test_killed_in_the_middle_goes_on_and_ends_the_same(self, fashiondpo, embedded: Path, tmp_path: Path):
        out = tmp_path / "killed"
        command = ("embed", "--out", out, "--chunk", 32)
        done = 0

        def some_are_done() -> bool:
            return (out / PROGRESS).exists() and json.loads((out / PROGRESS).read_text())["done"] >= 64

        killed = fashiondpo.stopped(*command, when=some_are_done, by=signal.SIGKILL)
        assert killed.code == -signal.SIGKILL
        assert not (out / MANIFEST).exists()
        done = json.loads((out / PROGRESS).read_text())["done"]
        items = read_manifest(embedded).items
        assert 64 <= done < items
        fashiondpo.well(*command)
        vectors = [np.load(folder / VECTORS).astype(np.float32) for folder in (out, embedded)]
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-3)  # kernels differ by batch size

    def test_takes_a_published_model_from_its_place(self, fashiondpo, shop: Path, tmp_path: Path):
        clip = save_tiny_clip(tmp_path / "clip")
        out = tmp_path / "out"
        weights = clip / "open_clip_model.safetensors"
        fashiondpo.well("embed", "--data", shop, "--clip", weights, "--out", out, "--dtype", "float32")
        opened = CatalogueEmbeddings.open(out, load_data_set(shop).catalogue)
        assert (opened.dim, opened.of([3]).norm().item()) == (24, pytest.approx(1, abs=1e-5))

    def test_an_unknown_place_ends_in_a_clear_line(self, fashiondpo, tmp_path: Path):
        finished = fashiondpo("embed", "--clip", "open_clip:ViT-H-14/no-such-tag", "--out", tmp_path / "out")
        assert finished.code == 2
        assert "its tags are" in finished.err
        assert not (tmp_path / "out").exists()


class TestTrainVBPR:
    def test_trains_on_embeddings_without_any_clip_and_reports_both_splits(self, fashiondpo, embedded, tmp_path: Path):
        out = tmp_path / "vbpr"
        said = fashiondpo.well(
            "train-vbpr",
            "--embeddings",
            embedded,
            "--clip",
            "/nowhere",
            "--out",
            out,
            "--passes",
            2,
            "--batch-size",
            64,
        )
        assert "valid, " in said and "test, " in said and "AUC 0." in said
        network, report = VBPR.load(out), json.loads((out / "report.json").read_text())
        assert network.config.feature_id == report["feature_id"] == read_manifest(embedded).feature_id
        assert report["version"] == network.version
        assert 0 <= report["test"]["ranking"]["auc_same_category"] <= 1

    def test_computes_features_where_there_are_no_embeddings(self, fashiondpo, shop: Path, tmp_path: Path):
        clip, out = save_tiny_clip(tmp_path / "clip"), tmp_path / "vbpr"
        fashiondpo.well("train-vbpr", "--data", shop, "--clip", clip, "--out", out, "--passes", 1, "--batch-size", 2)
        assert VBPR.load(out).config.feature_dim == 24

    def test_does_not_overwrite_unless_asked(self, fashiondpo, embedded: Path, tmp_path: Path):
        command = ("train-vbpr", "--embeddings", embedded, "--out", tmp_path / "vbpr", "--passes", 1)
        fashiondpo.well(*command)
        before = (tmp_path / "vbpr" / "config.json").read_text()
        refused = fashiondpo(*command, "--seed", 8)
        assert (refused.code, "--replace" in refused.err) == (2, True)
        assert (tmp_path / "vbpr" / "config.json").read_text() == before
        fashiondpo.well(*command, "--seed", 8, "--replace")
        assert (tmp_path / "vbpr" / "config.json").read_text() != before

    def test_refuses_embeddings_of_another_catalogue(self, fashiondpo, embedded: Path, shop: Path, tmp_path: Path):
        finished = fashiondpo("train-vbpr", "--data", shop, "--embeddings", embedded, "--out", tmp_path / "vbpr")
        assert finished.code == 2
        assert "embed that catalogue" in finished.err
