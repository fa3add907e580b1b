import json
import random

import pytest

from fashiondpo.contracts import GuidanceScales
from fashiondpo.diffusion.model import load_bundle
from fashiondpo.errors import Conflict, CorruptArtifact, InvalidInput, NotFound, Unavailable
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.model_cache.fetching import ModelFetcher
from fashiondpo.model_cache.hub import HuggingFaceHub
from fashiondpo.model_cache.lock import LOCK_FILE, read_lock
from fashiondpo.model_cache.verifying import verify
from fashiondpo.outfits.mini import CATEGORIES
from tests.model_hub import commit_of, folder_files

FIRST = commit_of("first")
CLIP = f"house/clip@{FIRST}"
WEIGHTS = "model.safetensors"


def fetched(fetcher, place, *, pin=False, **more):
    return fetcher.fetch(fetcher.plan(place, pin=pin), **more)


def visible(places):
    """What a service could find."""
    return [path for name in ("hub", "bundles") for path in (places.cache / name).rglob("*") if path.is_file()]


class TestRepository:
    def test_is_fetched_whole_and_found_afterwards(self, fetcher, places, hub):
        fetched(fetcher, CLIP)
        assert folder_files(places.hub_folder_of(CLIP)) == hub.repositories["house/clip"].commits[FIRST]
        assert OpenClipFeatures.load(places.clip(CLIP)).dim > 0

    def test_is_planned_with_sizes_and_licence_before_anything_is_downloaded(self, fetcher, places, hub):
        plan = fetcher.plan(CLIP)
        (listing,) = plan.listings
        assert listing.licence == "mit"
        assert plan.download_bytes == sum(map(len, hub.repositories["house/clip"].commits[FIRST].values()))
        assert hub.downloads() == []
        assert not places.cache.exists()

    def test_of_difashion_becomes_a_bundle_without_a_profile(self, fetcher, places):
        done = fetched(fetcher, f"house/all@{FIRST}", categories=CATEGORIES)
        assert done.bundle == places.bundle(f"house/all@{FIRST}")
        assert load_bundle(done.bundle).categories == CATEGORIES

    def test_of_stable_diffusion_alone_stays_as_it_is(self, fetcher, places):
        assert fetched(fetcher, f"house/base@{FIRST}").bundle is None
        with pytest.raises(NotFound):
            places.bundle(f"house/base@{FIRST}")

    def test_gives_no_pickles_and_no_second_copies(self, fetcher, hub, published_files):
        files = folder_files(published_files / "all")
        surplus = [
            "v2.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/x.bin",
            "safety/model.safetensors",
        ]
        hub.add("house/all", files | dict.fromkeys(surplus, b"x" * 2000))
        (listing,) = fetcher.plan(f"house/all@{FIRST}").listings
        assert {file.path for file in listing.files} == set(files)

    @pytest.mark.parametrize("name", ["../../escaped.json", "/etc/escaped.json"])
    def test_with_a_file_that_leads_out_of_its_folder_is_refused(self, fetcher, hub, name):
        hub.add("house/clip", {name: b"{}"})
        with pytest.raises(InvalidInput, match="leads out of its folder"):
            fetcher.plan(CLIP)

    def test_that_the_hub_does_not_have_is_told(self, fetcher):
        with pytest.raises(NotFound, match="no house/none"):
            fetcher.plan(f"house/none@{FIRST}")

    def test_of_a_commit_that_is_gone_is_told(self, fetcher):
        with pytest.raises(NotFound, match="no such revision"):
            fetcher.plan(f"house/clip@{commit_of('gone')}")

    def test_is_refused_under_another_form(self, fetcher):
        with pytest.raises(InvalidInput, match="neither a profile nor"):
            fetcher.plan("house/clip")


class TestProfile:
    def test_becomes_a_bundle_that_samples_as_the_profile_says(self, fetcher, places, house):
        done = fetched(fetcher, house, pin=True, categories=CATEGORIES)
        bundle = load_bundle(places.bundle(house))
        assert done.is_new_bundle
        assert bundle.sampler.num_inference_steps == 3
        assert bundle.sampler.guidance == GuidanceScales(category=6.0)
        assert bundle.sampler.legacy_null_history
        assert bundle.categories == CATEGORIES
        assert places.clip(house) == str(places.hub_folder_of("house/clip@main"))

    def test_takes_only_the_files_that_it_names(self, fetcher, places, house):
        fetched(fetcher, house, pin=True)
        assert not (places.hub_folder_of("house/base@main") / "unwanted.ckpt").exists()

    def test_fetched_again_asks_nobody_and_changes_nothing(self, fetcher, places, house, hub):
        fetched(fetcher, house, pin=True, categories=CATEGORIES)
        hub.requests.clear()
        lock = (places.cache / LOCK_FILE).read_bytes()
        done = fetched(fetcher, house)
        assert hub.requests == []
        assert (done.downloaded_bytes, done.is_new_bundle) == (0, False)
        assert (places.cache / LOCK_FILE).read_bytes() == lock

    def test_with_another_sampler_is_converted_again_without_a_download(self, fetcher, places, house, hub):
        fetched(fetcher, house, pin=True)
        before = load_bundle(places.bundle(house))
        profile = places.cache / "profiles" / "house.toml"
        profile.write_text(profile.read_text().replace("num_inference_steps = 3", "num_inference_steps = 5"))
        hub.requests.clear()
        done = fetched(fetcher, house, categories=CATEGORIES)
        after = load_bundle(places.bundle(house))
        assert hub.requests == []
        assert done.is_new_bundle
        assert (before.sampler.num_inference_steps, after.sampler.num_inference_steps) == (3, 5)

    def test_without_the_weights_that_its_operator_brings_fetches_nothing(self, fetcher, places, house, hub):
        (places.cache / "difashion" / "house").unlink()
        with pytest.raises(
            NotFound, match=r"put their folder, with unet/ and fashion_encoder/ in it, at .*difashion/house"
        ):
            fetcher.plan(house, pin=True)
        assert hub.requests == []

    def test_that_needs_a_file_which_is_missing_is_told_before_anything_is_downloaded(self, fetcher, house, hub):
        del hub.repositories["house/base"].commits[FIRST]["scheduler/scheduler_config.json"]
        with pytest.raises(NotFound, match=r"house/base@main has no file scheduler/\*\.json"):
            fetcher.plan(house, pin=True)
        assert hub.downloads() == []

    def test_mini_needs_nothing(self, fetcher, hub):
        assert fetched(fetcher, "mini").bundle is None
        assert hub.requests == []


class TestRevision:
    def test_that_is_a_branch_is_refused_unless_it_is_pinned(self, fetcher, places, hub):
        with pytest.raises(InvalidInput, match=r"house/clip@main can change .*--pin"):
            fetcher.plan("house/clip@main")
        assert hub.requests == []

    def test_that_was_pinned_stays_though_the_branch_moves(self, fetcher, places, hub):
        fetched(fetcher, "house/clip@main", pin=True)
        repository = hub.repositories["house/clip"]
        repository.push(repository.commits[FIRST] | {"new.json": b"{}"}, "second")
        plan = fetcher.plan("house/clip@main", pin=True)
        assert [(source.place, now) for source, now in plan.moved] == [("house/clip@main", commit_of("second"))]
        assert plan.listings == ()
        assert read_lock(places.cache).sources["house/clip@main"].commit == FIRST

    def test_is_locked_before_its_files_come(self, fetcher, places, hub):
        hub.altered[WEIGHTS] = b"other"
        with pytest.raises((CorruptArtifact, Unavailable)):
            fetched(fetcher, "house/clip@main", pin=True)
        repository = hub.repositories["house/clip"]
        repository.push(repository.commits[FIRST] | {"new.json": b"{}"}, "second")
        hub.altered.clear()
        fetched(fetcher, "house/clip@main")
        assert not (places.hub_folder_of("house/clip@main") / "new.json").exists()

    def test_whose_lock_goes_with_it_is_the_same_on_another_machine(self, fetcher, places, hub, tmp_path):
        fetched(fetcher, "house/clip@main", pin=True)
        repository = hub.repositories["house/clip"]
        repository.push({"open_clip_config.json": b"{}", WEIGHTS: b"x"}, "second")
        other = type(places)(tmp_path / "other", places.assets)
        other.cache.mkdir()
        (other.cache / LOCK_FILE).write_bytes((places.cache / LOCK_FILE).read_bytes())
        fetched(ModelFetcher(other, HuggingFaceHub(hub.url)), "house/clip@main")
        assert folder_files(other.hub_folder_of("house/clip@main")) == repository.commits[FIRST]

    @pytest.mark.parametrize("path", [WEIGHTS, "open_clip_config.json"])
    def test_whose_content_is_not_the_locked_one_is_refused(self, fetcher, places, hub, path):
        fetched(fetcher, CLIP)
        folder = places.hub_folder_of(CLIP)
        (folder / WEIGHTS).unlink()
        commits = hub.repositories["house/clip"].commits
        changed = bytearray(commits[FIRST][path])
        changed[-2] ^= 1
        commits[FIRST] = commits[FIRST] | {path: bytes(changed)}
        with pytest.raises((Conflict, CorruptArtifact), match=r"models\.lock\.json"):
            fetched(fetcher, CLIP)
        assert not (folder / WEIGHTS).exists()


class TestTransfer:
    def test_that_breaks_goes_on_where_it_was(self, fetcher, places, hub):
        content = random.Random(1).randbytes(12 * 2**20)
        hub.add("house/large", {WEIGHTS: content})
        hub.cut_after[WEIGHTS] = 11 * 2**20
        fetched(fetcher, f"house/large@{FIRST}")
        # the client writes pieces of 10 MiB
        assert hub.requests[-1] == f"GET /large/house/large/{FIRST}/{WEIGHTS} bytes={10 * 2**20}-"
        assert (places.hub_folder_of(f"house/large@{FIRST}") / WEIGHTS).read_bytes() == content

    def test_of_a_process_that_was_killed_goes_on_where_it_was(self, fetcher, places, hub):
        plan = fetcher.plan(CLIP)
        part = places.cache / ".staging" / places.hub_folder_of(CLIP).relative_to(places.cache) / f"{WEIGHTS}.part"
        part.parent.mkdir(parents=True)
        content = hub.repositories["house/clip"].commits[FIRST][WEIGHTS]
        part.write_bytes(content[:5000])
        assert fetcher.plan(CLIP).download_bytes == plan.download_bytes - 5000
        fetched(fetcher, CLIP)
        assert any("/large/" in request and request.endswith("bytes=5000-") for request in hub.requests)
        assert (places.hub_folder_of(CLIP) / WEIGHTS).read_bytes() == content

    def test_that_continues_something_else_begins_anew(self, fetcher, places, hub):
        part = places.cache / ".staging" / places.hub_folder_of(CLIP).relative_to(places.cache) / f"{WEIGHTS}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"something else")
        fetched(fetcher, CLIP)
        assert folder_files(places.hub_folder_of(CLIP)) == hub.repositories["house/clip"].commits[FIRST]

    def test_with_another_digest_is_refused_and_leaves_nothing(self, fetcher, places, hub):
        content = hub.repositories["house/clip"].commits[FIRST][WEIGHTS]
        hub.altered[WEIGHTS] = b"\0" * len(content)
        with pytest.raises(CorruptArtifact, match="does not have the digest that the hub names"):
            fetched(fetcher, CLIP)
        assert visible(places) == []
        assert list(places.cache.rglob("*.part")) == []

    def test_of_a_small_file_is_checked_too(self, fetcher, places, hub):
        path = "open_clip_config.json"
        content = hub.repositories["house/clip"].commits[FIRST][path]
        hub.altered[path] = content.replace(b"1", b"2")
        with pytest.raises(CorruptArtifact, match=path):
            fetched(fetcher, CLIP)
        assert visible(places) == []

    def test_takes_what_came_whole_before_from_the_staging_folder(self, fetcher, places, hub):
        del hub.repositories["house/clip"].commits[FIRST][WEIGHTS]
        plan = fetcher.plan(CLIP)
        hub.repositories["house/clip"].commits[FIRST] |= {"z.json": b"{}"}
        broken = fetcher.plan(CLIP)
        del hub.repositories["house/clip"].commits[FIRST]["z.json"]
        with pytest.raises(NotFound):
            fetcher.fetch(broken)
        hub.requests.clear()
        fetcher.fetch(plan)
        assert hub.downloads() == []

    def test_that_does_not_fit_on_the_disk_is_not_begun(self, fetcher, places, hub):
        hub.listed_size[WEIGHTS] = 10**18
        with pytest.raises(Unavailable, match=r"MiB free, 9\d\d,\d\d\d,.* MiB are needed"):
            fetched(fetcher, CLIP)
        assert hub.downloads() == []

    def test_tells_how_far_it_is(self, fetcher, hub):
        hub.add("house/large", {"model.safetensors": bytes(3 * 2**20)})
        seen = []
        fetched(fetcher, f"house/large@{FIRST}", on_download=lambda done, total, _: seen.append((done, total)))
        assert seen[-1] == (3, 3)
        assert seen == sorted(seen)

    def test_that_nobody_answers_says_that_the_same_command_goes_on(self, fetcher, hub):
        plan = fetcher.plan(CLIP)
        hub.repositories.clear()
        with pytest.raises(NotFound):
            fetcher.fetch(plan)

    def test_is_refused_offline(self, fetcher, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(Unavailable, match="HF_HUB_OFFLINE"):
            fetcher.plan(CLIP)


class TestVerify:
    def test_reads_every_file_of_hub_and_bundle(self, fetcher, places, house):
        done = fetched(fetcher, house, pin=True)
        found = verify(places, house)
        everything = len(visible(places))
        assert (found.files, found.problems) == (everything, ())
        assert str(done.bundle) in {str(path.parent) for path in visible(places)}

    def test_finds_a_flipped_bit_a_missing_and_a_shortened_file(self, fetcher, places, house):
        fetched(fetcher, house, pin=True)
        bundle, clip = places.bundle(house), places.hub_folder_of("house/clip@main")
        weights = bundle / "unet" / "diffusion_pytorch_model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        (clip / WEIGHTS).unlink()
        (bundle / "difashion.json").write_text("{}")
        problems = verify(places, house).problems
        assert [problem.split(": ")[1].split(" ")[:2] for problem in problems] == [
            ["is", "missing"], ["has", "2"], ["has", "other"],
        ]  # fmt: skip

    def test_of_what_was_never_fetched_names_the_command(self, places, house):
        with pytest.raises(NotFound, match="fashiondpo models fetch house"):
            verify(places, house)


def test_a_lock_says_what_was_fetched(fetcher, places):
    fetched(fetcher, CLIP)
    lock = json.loads((places.cache / LOCK_FILE).read_text())
    entry = lock["sources"][CLIP]
    assert (entry["commit"], entry["licence"]) == (FIRST, "mit")
    assert set(entry["files"]) == set(folder_files(places.hub_folder_of(CLIP)))
