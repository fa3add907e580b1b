"""Embeddings of a catalogue: made chunk by chunk, resumed, mapped, shared, and refused where they do not fit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fashiondpo.errors import Conflict, DataFileError, InvalidInput, MissingImages, UnknownItem
from fashiondpo.judges.embedding import PARTIAL, PROGRESS, embed_catalogue
from fashiondpo.judges.embeddings import MANIFEST, VECTORS, CatalogueEmbeddings
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.outfits.catalogue import FolderCatalogue
from fashiondpo.outfits.images import encode_png

ITEMS = (3, 7, 8, 20, 21, 40, 41, 99)


class Stopped(Exception):
    """What stands for a kill inside a process."""


class Brightness:
    """Features that say what they were made from; counts the pictures and can stop like a killed process."""

    dim = 3

    def __init__(self, feature_id: str = "brightness-1", stop_after: int | None = None) -> None:
        self.feature_id, self.seen, self.stop_after = feature_id, 0, stop_after

    def images(self, images) -> Tensor:
        if self.stop_after is not None and self.seen + len(images) > self.stop_after:
            raise Stopped
        self.seen += len(images)
        means = torch.from_numpy(np.stack(images)).double().mean((1, 2))
        return torch.nn.functional.normalize(means + 1, dim=1).float()


def save_picture(folder: Path, item_id: int) -> None:
    pixels = np.random.default_rng(item_id).integers(0, 256, (1, 1, 3), np.uint8)
    (folder / f"{item_id}.png").write_bytes(encode_png(np.broadcast_to(pixels, (4, 4, 3)).copy()))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for item_id in ITEMS:
        save_picture(folder, item_id)
    return folder


@pytest.fixture
def catalogue(pictures: Path) -> FolderCatalogue:
    return catalogue_of(pictures, ITEMS)


def catalogue_of(pictures: Path, item_ids: tuple[int, ...]) -> FolderCatalogue:
    return FolderCatalogue(
        "shop", dict.fromkeys(item_ids, 0), {i: f"{i}.png" for i in item_ids}, pictures, image_size=4
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "embeddings"


class TestEmbedCatalogue:
    @pytest.mark.parametrize("chunk", [1, 3, 8, 100])
    def test_has_every_item_s_features_by_its_id(self, catalogue: FolderCatalogue, out: Path, chunk: int):
        features = Brightness()
        embed_catalogue(features, catalogue, out, dtype="float32", chunk=chunk)
        wanted = [99, 3, 21, 3]
        expected = features.images([catalogue.image(item_id) for item_id in wanted])
        assert_close(CatalogueEmbeddings.open(out, catalogue).of(wanted), expected, rtol=0, atol=0)

    def test_half_precision_keeps_a_cosine_to_a_thousandth(self, catalogue: FolderCatalogue, out: Path):
        embed_catalogue(Brightness(), catalogue, out)
        exact = Brightness().images([catalogue.image(item_id) for item_id in ITEMS])
        rounded = CatalogueEmbeddings.open(out, catalogue).of(ITEMS)
        assert rounded.dtype == torch.float32
        assert_close(rounded @ rounded.T, exact @ exact.T, rtol=0, atol=1e-3)

    def test_says_what_it_made(self, catalogue: FolderCatalogue, out: Path):
        manifest = embed_catalogue(Brightness(), catalogue, out)
        assert (manifest.feature_id, manifest.items, manifest.dim, manifest.dtype) == ("brightness-1", 8, 3, "float16")
        assert json.loads((out / MANIFEST).read_text())["sha256"] == manifest.sha256
        assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [MANIFEST, VECTORS]

    def test_shows_progress_with_items_per_second(self, catalogue: FolderCatalogue, out: Path):
        shown = []
        embed_catalogue(Brightness(), catalogue, out, chunk=3, progress=lambda *step: shown.append(step))
        assert [(done, total) for done, total, _ in shown] == [(0, 8), (3, 8), (6, 8), (8, 8)]
        assert all(figures["items/s"] > 0 for _, _, figures in shown[1:])

    def test_called_again_computes_nothing(self, catalogue: FolderCatalogue, out: Path):
        first = embed_catalogue(Brightness(), catalogue, out)
        features = Brightness()
        assert embed_catalogue(features, catalogue, out) == first
        assert features.seen == 0

    @pytest.mark.parametrize("stop_after", [0, 2, 4, 7])
    def test_goes_on_where_it_was_stopped_and_ends_the_same(
        self, catalogue, out: Path, tmp_path: Path, stop_after: int
    ):
        with pytest.raises(Stopped):
            embed_catalogue(Brightness(stop_after=stop_after), catalogue, out, chunk=2)
        assert not (out / MANIFEST).exists()
        features = Brightness()
        resumed = embed_catalogue(features, catalogue, out, chunk=2)
        assert features.seen == 8 - stop_after // 2 * 2
        assert resumed == embed_catalogue(Brightness(), catalogue, tmp_path / "in-one-go")

    def test_killed_while_it_finishes_ends_the_same(self, catalogue: FolderCatalogue, out: Path):
        finished = embed_catalogue(Brightness(), catalogue, out)
        making = {name: getattr(finished, name) for name in ("feature_id", "dim", "dtype", "catalogue", "items")}
        making["item_ids_sha256"] = finished.item_ids_sha256
        for vectors in (VECTORS, PARTIAL):  # before and after the rows got their name
            (out / MANIFEST).unlink()
            (out / VECTORS).rename(out / vectors)
            (out / PROGRESS).write_text(json.dumps({"making": making, "done": 8}))
            features = Brightness()
            assert embed_catalogue(features, catalogue, out) == finished
            assert features.seen == 0

    def test_rows_that_are_gone_are_computed_again(self, catalogue: FolderCatalogue, out: Path):
        with pytest.raises(Stopped):
            embed_catalogue(Brightness(stop_after=4), catalogue, out, chunk=2)
        (out / PARTIAL).unlink()
        features = Brightness()
        embed_catalogue(features, catalogue, out)
        assert features.seen == 8

    @pytest.mark.parametrize("other", [{"feature_id": "brightness-2"}, {"dtype": "float32"}])
    @pytest.mark.parametrize("is_finished", [True, False])
    def test_refuses_a_folder_with_other_work(self, catalogue, out: Path, other: dict, is_finished: bool):
        if is_finished:
            embed_catalogue(Brightness(), catalogue, out)
        else:
            with pytest.raises(Stopped):
                embed_catalogue(Brightness(stop_after=4), catalogue, out, chunk=2)
        features = Brightness(other.get("feature_id", "brightness-1"))
        with pytest.raises(Conflict, match="brightness-1"):
            embed_catalogue(features, catalogue, out, dtype=other.get("dtype", "float16"))

    def test_notices_that_the_finished_vectors_were_damaged(self, catalogue: FolderCatalogue, out: Path):
        embed_catalogue(Brightness(), catalogue, out)
        content = bytearray((out / VECTORS).read_bytes())
        content[-1] ^= 1
        (out / VECTORS).write_bytes(content)
        with pytest.raises(DataFileError, match="missing or damaged"):
            embed_catalogue(Brightness(), catalogue, out)

    def test_features_that_are_not_finite_are_refused(self, catalogue: FolderCatalogue, out: Path):
        class Broken(Brightness):
            def images(self, images) -> Tensor:
                return super().images(images) * torch.nan

        with pytest.raises(InvalidInput, match="not finite"):
            embed_catalogue(Broken(), catalogue, out)
        assert not (out / MANIFEST).exists()

    def test_a_full_disk_is_an_error_and_no_crash(self, catalogue: FolderCatalogue, out: Path, monkeypatch):
        def no_room(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(DataFileError, match="No space left on device"):
            embed_catalogue(Brightness(), catalogue, out)

    def test_only_one_process_works_in_a_folder(self, catalogue: FolderCatalogue, out: Path):
        class Meanwhile(Brightness):
            def images(self, images) -> Tensor:
                with pytest.raises(Conflict, match="another process is embedding"):
                    embed_catalogue(Brightness(), catalogue, out)
                return super().images(images)

        assert embed_catalogue(Meanwhile(), catalogue, out).items == 8


class TestMissingPictures:
    def test_are_counted_and_named_before_anything_is_computed(self, catalogue, pictures: Path, out: Path):
        for item_id in (7, 99):
            (pictures / f"{item_id}.png").unlink()
        features = Brightness()
        with pytest.raises(MissingImages, match=r"2 item images are missing .*item 7 \(7\.png\), item 99 \(99\.png\)"):
            embed_catalogue(features, catalogue, out, chunk=2)
        assert features.seen == 0

    def test_can_be_left_out_and_are_named_when_asked_for(self, catalogue, pictures: Path, out: Path):
        (pictures / "7.png").unlink()
        (pictures / "20.png").write_bytes(b"no picture")
        manifest = embed_catalogue(Brightness(), catalogue, out, chunk=2, skip_missing=True)
        assert set(manifest.skipped) == {7, 20}
        opened = CatalogueEmbeddings.open(out, catalogue)
        assert_close(opened.of([8, 3]).norm(dim=1), torch.ones(2), rtol=0, atol=1e-3)
        assert [item_id in opened.skipped for item_id in (3, 7, 20)] == [False, True, True]
        with pytest.raises(MissingImages, match=r"item 7 \(picture missing\)"):
            opened.of([3, 7])

    def test_that_cannot_be_read_stop_the_work_by_name_and_keep_what_is_done(
        self, catalogue, pictures: Path, out: Path
    ):
        (pictures / "41.png").write_bytes(b"no picture")
        with pytest.raises(InvalidInput, match=r"item 41 cannot be embedded.*--skip-missing"):
            embed_catalogue(Brightness(), catalogue, out, chunk=2)
        save_picture(pictures, 41)
        features = Brightness()
        assert embed_catalogue(features, catalogue, out, chunk=2).skipped == {}
        assert features.seen == 2

    def test_that_are_there_by_now_are_embedded_when_it_goes_on(
        self, catalogue, pictures: Path, out: Path, tmp_path: Path
    ):
        (pictures / "7.png").unlink()
        with pytest.raises(Stopped):
            embed_catalogue(Brightness(stop_after=4), catalogue, out, chunk=2, skip_missing=True)
        save_picture(pictures, 7)
        manifest = embed_catalogue(Brightness(), catalogue, out, chunk=2, skip_missing=True)
        assert manifest == embed_catalogue(Brightness(), catalogue, tmp_path / "in-one-go")

    def test_of_every_item_leave_nothing_to_embed(self, catalogue, pictures: Path, out: Path):
        for path in pictures.iterdir():
            path.unlink()
        with pytest.raises(InvalidInput, match="nothing to embed"):
            embed_catalogue(Brightness(), catalogue, out, skip_missing=True)


class TestCatalogueEmbeddings:
    @pytest.fixture
    def made(self, catalogue: FolderCatalogue, out: Path) -> Path:
        embed_catalogue(Brightness(), catalogue, out)
        return out

    def test_refuse_an_item_that_the_catalogue_lacks(self, made: Path, catalogue: FolderCatalogue):
        with pytest.raises(UnknownItem, match="item 5"):
            CatalogueEmbeddings.open(made, catalogue).of([3, 5])

    def test_of_no_items_are_none(self, made: Path, catalogue: FolderCatalogue):
        assert CatalogueEmbeddings.open(made, catalogue).of([]).shape == (0, 3)

    @pytest.mark.parametrize("other", [ITEMS[:-1], (*ITEMS, 100), (*ITEMS[:-1], 98)])
    def test_of_another_catalogue_are_refused(self, made: Path, pictures: Path, other: tuple[int, ...]):
        with pytest.raises(InvalidInput, match="embed that catalogue"):
            CatalogueEmbeddings.open(made, catalogue_of(pictures, other))

    def test_of_another_model_are_refused_by_name(self, made: Path, catalogue: FolderCatalogue):
        opened = CatalogueEmbeddings.open(made, catalogue)
        with pytest.raises(InvalidInput, match="made by brightness-1, not by other-2"):
            CatalogueFeatures(Brightness("other-2"), catalogue, embeddings=opened)

    def test_that_are_unfinished_are_refused(self, catalogue: FolderCatalogue, out: Path):
        with pytest.raises(Stopped):
            embed_catalogue(Brightness(stop_after=4), catalogue, out, chunk=2)
        with pytest.raises(DataFileError, match="unfinished ones; run `fashiondpo embed` to the end"):
            CatalogueEmbeddings.open(out, catalogue)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda folder: (folder / MANIFEST).write_text("{"),
            lambda folder: (folder / MANIFEST).write_text('{"format": 2}'),
            lambda folder: (folder / VECTORS).unlink(),
            lambda folder: (folder / VECTORS).write_bytes((folder / VECTORS).read_bytes()[:-8]),
            lambda folder: np.save(folder / VECTORS, np.zeros((8, 3), np.float32)),
            lambda folder: np.save(folder / VECTORS, np.array([{"a": 1}], dtype=object)),
        ],
    )
    def test_that_are_damaged_are_refused(self, made: Path, catalogue: FolderCatalogue, damage):
        damage(made)
        with pytest.raises(DataFileError):
            CatalogueEmbeddings.open(made, catalogue)

    def test_stand_for_computed_features_without_a_single_forward(self, made: Path, catalogue: FolderCatalogue):
        features = Brightness()
        items = CatalogueFeatures(features, catalogue, embeddings=CatalogueEmbeddings.open(made, catalogue))
        items.compute_all(lambda *_: pytest.fail("something is computed"))
        assert_close(items.of([99, 3]), CatalogueEmbeddings.open(made, catalogue).of([99, 3]))
        assert features.seen == 0


TOUCH = """
    import sys
    from pathlib import Path
    import numpy as np
    vectors = np.load(sys.argv[1], mmap_mode="r")
    total = float(vectors.sum(dtype=np.float64))
    print(total, flush=True)
    sys.stdin.readline()
    sizes, is_ours = {}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()
        if "-" in word[0] and not word[0].endswith(":"):
            is_ours = line.endswith("vectors.npy")
        elif is_ours:
            sizes[word[0]] = sizes.get(word[0], 0) + int(word[1]) if word[1].isdigit() else 0
    print(sizes["Rss:"], sizes["Pss:"], sizes["Private_Dirty:"], flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's accounts of shared memory")
def test_two_processes_that_map_the_same_embeddings_share_their_memory(tmp_path: Path):
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).random((200_000, 16), np.float32))
    command = [sys.executable, "-c", dedent(TOUCH), str(tmp_path / "vectors.npy")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert len({process.stdout.readline() for process in processes}) == 1  # both have read all of it
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for resident, share, own in (map(int, process.stdout.readline().split()) for process in processes):
            assert resident > 12_000  # KiB: the whole file
            assert share < 0.6 * resident
            assert own == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()
