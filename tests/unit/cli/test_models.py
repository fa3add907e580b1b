import re

import pytest

from tests.unit.profiles.test_profile import OWN, own_profile


class TestList:
    def test_says_of_every_profile_whether_it_is_complete(self, fashiondpo, tmp_path):
        own_profile(tmp_path)
        out = fashiondpo.well("models", "list", "--cache", tmp_path)
        states = dict(re.findall(r"│ ([a-z][\w-]*) +│ +\d+ │ ([\w ]+?) +│", out))
        assert states == {
            "mini": "complete", "sd2-ifashion": "not complete", "sd2-polyvore": "not complete", "house": "not complete",
        }  # fmt: skip


class TestShow:
    def test_prints_the_file_and_how_to_get_what_is_missing(self, fashiondpo, tmp_path):
        own_profile(tmp_path)
        out = fashiondpo.well("models", "show", "house", "--cache", tmp_path)
        assert OWN.strip() in out
        assert "house/clip@main: not fetched" in out
        assert f"fashiondpo models fetch house --cache {tmp_path} --pin" in out
        assert f"vbpr: there are no VBPR weights at {tmp_path}/vbpr/house" in out

    def test_says_how_embeddings_are_made_which_are_not_missing(self, fashiondpo, tmp_path):
        out = fashiondpo.well("models", "show", "sd2-polyvore", "--cache", tmp_path)
        made = f"`fashiondpo embed --data DATA --clip sd2-polyvore --out {tmp_path}/embeddings/polyvore`"
        assert f"note: there are no embeddings at {tmp_path}/embeddings/polyvore" in out and made in out
        assert "missing: embeddings" not in out

    def test_of_mini_misses_nothing(self, fashiondpo, tmp_path):
        assert "Everything is there." in fashiondpo.well("models", "show", "mini", "--cache", tmp_path)


class TestFetch:
    def test_of_mini_has_nothing_to_do(self, fashiondpo, tmp_path):
        assert "Nothing had to be fetched" in fashiondpo.well("models", "fetch", "mini", "--cache", tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (("fetch", "sd2-ifashion"), "needs the DiFashion weights"),
            (("fetch", "house/clip@main"), "can change under its name"),
            (("fetch", "somewhere"), "neither a profile nor"),
            (("show", "somewhere"), "there is no profile 'somewhere'"),
            (("verify", "sd2-ifashion"), "was not fetched"),
        ],
    )
    def test_that_cannot_be_says_why_and_what_to_do(self, fashiondpo, tmp_path, arguments, problem):
        finished = fashiondpo("models", *arguments, "--cache", tmp_path)
        assert finished.code == 2
        assert problem in finished.err


class TestCost:
    def test_is_counted_for_mini_and_compared_with_a_gpu(self, fashiondpo, tmp_path):
        out = fashiondpo.well(
            "models", "cost", "mini", "--cache", tmp_path, "--outfits", 10, "--rounds", 2, "--gpu-memory", 1
        )
        sizes = {what.strip(): float(size) for what, size in re.findall(r"│ ([^│]+) │ +([\d.,]+)[^│]*│", out)}
        assert sizes["to sample"] < sizes["to train"] < 1
        assert out.count(" fits") == 3
        one = sizes["an outfit's trajectory"] + sizes["an outfit's pictures, at most"]
        rounds = 2 * (10 * one + sizes["an adapter"] + sizes["a training's checkpoint"])
        assert sizes["2 rounds of 10 outfits, at most"] == pytest.approx(rounds, abs=0.2)

    def test_of_training_falls_with_the_visits_in_a_forward(self, fashiondpo, tmp_path):
        needed = []
        for visits in (1, 8):
            said = fashiondpo.well("models", "cost", "mini", "--cache", tmp_path, "--visits-per-forward", visits)
            needed.append(float(re.search(r"│ to train +│ +([\d.]+)", said).group(1)))
            assert f"forward and backward of {7 * visits} rows" in said
        assert needed[0] < needed[1]


class TestPlace:
    def test_that_was_not_fetched_is_answered_with_the_command_that_does(self, fashiondpo, tmp_path, monkeypatch):
        monkeypatch.setenv("FASHIONDPO_MODEL_CACHE", str(tmp_path / "cache"))
        for option in ("--bundle", "--judges"):
            finished = fashiondpo("round", "--run", tmp_path / "run", option, "sd2-ifashion")
            assert finished.code == 2
            assert f"`fashiondpo models fetch sd2-ifashion --cache {tmp_path / 'cache'} --pin`" in finished.err
