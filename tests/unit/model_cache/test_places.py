import re
from pathlib import Path

import pytest
import typer

from fashiondpo.cli.commands import app
from fashiondpo.errors import DataFileError, InvalidInput, NotFound
from fashiondpo.model_cache.lock import (
    LOCK_FILE,
    LockedBundle,
    LockedFile,
    LockedSource,
    ModelLock,
    read_lock,
    write_lock,
)
from fashiondpo.model_cache.places import ModelPlaces, is_name
from tests.unit.profiles.test_profile import COMMIT, own_profile

MOVED = "f" * 40


@pytest.fixture
def places(tmp_path):
    return ModelPlaces(tmp_path, Path("assets/mini"))


def fetched(places, name):
    folder = places.cache / name
    folder.mkdir(parents=True)
    return folder


class TestPlace:
    def test_mini_is_in_the_assets(self, places):
        assert places.bundle("mini") == Path("assets/mini/bundle")
        assert places.clip("mini") == "assets/mini/judges/clip"
        assert places.vbpr("mini") == Path("assets/mini/judges/vbpr")
        assert places.quality("mini") == Path("assets/mini/judges/quality")
        assert places.judges("mini").held_out == Path("assets/mini/judges/held_out")
        assert places.judges("mini").embeddings is None

    def test_folder_is_itself_whether_or_not_it_is_there(self, places):
        assert places.bundle("/models/bundle") == Path("/models/bundle")
        assert places.bundle("./a/b@main") == Path("a/b@main")
        assert places.judges("mine").clip == Path("mine/clip")

    def test_name_that_open_clip_knows_is_left_to_it(self, places):
        assert places.clip("ViT-B-32") == "ViT-B-32"

    def test_profile_is_where_it_was_fetched_to(self, places):
        own_profile(places.cache)
        write_lock(places.cache, ModelLock().with_source("house/clip@main", LockedSource(commit=MOVED)))
        folder, clip = fetched(places, "bundles/house"), fetched(places, f"hub/house--clip/{MOVED}")
        vbpr = fetched(places, "vbpr/house")
        assert places.bundle("house") == folder
        assert places.clip("house") == str(clip)
        assert places.vbpr("house") == vbpr
        assert places.quality("house") == Path("assets/mini/judges/quality")
        assert places.judges("house").clip == clip

    def test_profile_whose_quality_a_server_judges_has_no_folder_for_it(self, places):
        lock = ModelLock().with_source("laion/CLIP-ViT-B-32-laion2B-s34B-b79K@main", LockedSource(commit=COMMIT))
        write_lock(places.cache, lock)
        fetched(places, f"hub/laion--CLIP-ViT-B-32-laion2B-s34B-b79K/{COMMIT}")
        fetched(places, "vbpr/ifashion")
        assert places.judges("sd2-ifashion").quality is None

    def test_of_embeddings_is_beside_the_judges_in_a_folder_or_where_their_profile_says_once_they_are_made(
        self, places
    ):
        mine = places.cache / "mine"
        assert places.embeddings_if_made(str(mine)) is None
        assert places.embeddings_if_made("sd2-ifashion") is None
        made, of_profile = fetched(places, "mine/embeddings"), fetched(places, "embeddings/ifashion")
        assert places.judges(str(mine)).embeddings == made
        assert places.embeddings_if_made("sd2-ifashion") == of_profile
        assert places.embeddings("sd2-ifashion") == of_profile
        assert places.embeddings("/anywhere") == Path("/anywhere")

    def test_hub_id_with_a_commit_needs_no_lock(self, places):
        clip = fetched(places, f"hub/house--clip/{COMMIT}")
        assert places.clip(f"house/clip@{COMMIT}") == str(clip)

    def test_hub_id_with_a_branch_is_the_commit_that_was_locked(self, places):
        write_lock(places.cache, ModelLock().with_source("house/base@main", LockedSource(commit=COMMIT)))
        fetched(places, f"hub/house--base/{COMMIT}/unet")
        folder = fetched(places, f"bundles/house--base@{COMMIT}")
        assert places.bundle("house/base@main") == folder

    def test_hub_id_that_came_as_a_bundle_is_used_as_it_came(self, places):
        folder = fetched(places, f"hub/house--base/{COMMIT}")
        (folder / "difashion.json").write_text("{}")
        assert places.bundle(f"house/base@{COMMIT}") == folder


class TestWhatIsNotThere:
    @pytest.mark.parametrize(
        ("place", "command"),
        [
            (f"house/base@{COMMIT}", f"fashiondpo models fetch house/base@{COMMIT} --cache {{cache}}`"),
            ("house/base@main", "fashiondpo models fetch house/base@main --cache {cache} --pin`"),
            ("sd2-ifashion", "fashiondpo models fetch sd2-ifashion --cache {cache} --pin`"),
        ],
    )
    @pytest.mark.parametrize("part", ["bundle", "clip"])
    def test_is_answered_with_the_command_that_fetches_it(self, places, part, place, command):
        with pytest.raises(NotFound) as raised:
            getattr(places, part)(place)
        assert f"`{command.format(cache=places.cache)}" in f"{raised.value}"

    def test_though_it_is_locked_is_answered_without_pinning(self, places):
        write_lock(places.cache, ModelLock().with_source("house/base@main", LockedSource(commit=COMMIT)))
        with pytest.raises(NotFound) as raised:
            places.bundle("house/base@main")
        assert "--pin" not in f"{raised.value}"

    def test_of_what_the_operator_brings_is_answered_with_its_place(self, places):
        with pytest.raises(NotFound, match=f"no VBPR weights at {places.cache}/vbpr/ifashion"):
            places.vbpr("sd2-ifashion")
        with pytest.raises(NotFound, match=f"no embeddings at {places.cache}/embeddings/ifashion"):
            places.embeddings("sd2-ifashion")

    def test_is_made_by_the_commands_that_are_named(self, places):
        with pytest.raises(NotFound) as of_embeddings:
            places.embeddings("sd2-ifashion")
        with pytest.raises(NotFound) as of_vbpr:
            places.vbpr("sd2-ifashion")
        for raised in (of_embeddings, of_vbpr):
            words = re.search("`fashiondpo (.+)`", str(raised.value)).group(1).split()
            command = typer.main.get_command(app).commands[words[0]]
            command.make_context(words[0], words[1:])

    def test_of_embeddings_for_which_a_profile_has_no_place_is_said(self, places):
        own_profile(places.cache)
        with pytest.raises(InvalidInput, match="house names no embeddings"):
            places.embeddings("house")

    def test_of_a_quality_model_that_a_server_runs_is_no_folder(self, places):
        with pytest.raises(InvalidInput, match="MiniCPM-Llama3-V-2_5, which a server of yours runs"):
            places.quality("sd2-ifashion")


class TestName:
    def test_is_what_means_the_same_from_any_folder(self, tmp_path):
        own_profile(tmp_path)
        assert all(is_name(place, tmp_path) for place in ("mini", "sd2-ifashion", "house", "a/b@main"))
        assert not any(is_name(place, tmp_path) for place in ("./mini", "models/mini", "other", "a/b"))


class TestLock:
    def test_is_read_as_it_was_written_in_the_order_of_names(self, tmp_path):
        file = LockedFile(size=3, sha256="a" * 64)
        lock = ModelLock().with_source(
            "b/b@main", LockedSource(commit=COMMIT, licence="mit", files={"z": file, "a": file})
        )
        lock = lock.with_source("a/a@main", LockedSource(commit=MOVED))
        lock = lock.with_bundle("house", LockedBundle(recipe="b" * 64, files={"x": file}))
        write_lock(tmp_path, lock)
        assert read_lock(tmp_path) == lock
        assert list(read_lock(tmp_path).sources) == ["a/a@main", "b/b@main"]
        assert list(read_lock(tmp_path).sources["b/b@main"].files) == ["a", "z"]

    def test_of_an_empty_cache_is_empty(self, tmp_path):
        assert read_lock(tmp_path / "none") == ModelLock()

    def test_that_is_damaged_is_refused_by_its_name(self, tmp_path):
        (tmp_path / LOCK_FILE).write_text('{"schema_version": 1, "sources": {"a/b@main": {"commit": "main"}}}')
        with pytest.raises(DataFileError, match=r"models\.lock\.json"):
            read_lock(tmp_path)
