"""Simulated voters: their taste is what it says, their doubts average out, their votes are votes like any other."""

import random

import numpy as np
import pytest

from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.images import encode_png
from fashiondpo.preferences import PreferenceSettings, preference_pairs
from fashiondpo.simulated_votes import VOTERS, ballot, cast_votes, coverage, darkness, taste_of
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.feedback import MemoryFeedback
from fashiondpo.storage.votes import MemoryVotes
from tests.protocols.small_records import make_set


def garment(shade: int, side: int = 8) -> np.ndarray:
    """A square of one shade in the middle of a white picture of 16 pixels."""
    image = np.full((16, 16, 3), 255, dtype=np.uint8)
    edge = (16 - side) // 2
    image[edge : 16 - edge, edge : 16 - edge] = (shade, shade // 2, 0)
    return image


class TestTastes:
    def test_darkness_is_one_less_the_brightest_channel(self):
        assert darkness(garment(51)) == pytest.approx(1 - 0.2)

    def test_coverage_is_the_garments_share_of_the_picture(self):
        assert coverage(garment(51, side=8)) == pytest.approx(64 / 256)

    def test_an_empty_picture_pleases_nobody(self):
        white = np.full((16, 16, 3), 255, dtype=np.uint8)
        assert (darkness(white), coverage(white)) == (0, 0)

    def test_an_unknown_taste_is_named_with_those_that_are_known(self):
        with pytest.raises(InvalidInput, match="no taste 'loud'; known: dark, large"):
            taste_of("loud", [], MemoryArtifacts())


class TestBallot:
    def test_without_a_difference_there_is_nothing_to_like(self):
        assert ballot([0.3, 0.3, 0.3], random.Random(0)) == (-1, -1, -1)

    def test_voters_often_like_what_lies_above_and_seldom_what_lies_below(self):
        rng = random.Random(1)
        said = np.array([ballot([0.0, 0.4, 0.6, 1.0], rng) for _ in range(400)])
        likes = (said > 0).mean(0)
        assert likes[0] < 0.02
        assert likes[3] > 0.98
        # doubts are half the spread of the values, 0.36: 0.1 from the middle is 0.56 of a standard deviation
        assert likes[1] == pytest.approx(0.29, abs=0.07)
        assert likes[2] == pytest.approx(0.71, abs=0.07)


class TestCastVotes:
    @pytest.fixture
    def stores(self):
        return MemoryArtifacts(), MemoryFeedback()

    def painted(self, artifacts, shades):
        base = make_set("s")
        candidates = tuple(
            base.candidates[0].model_copy(
                update={
                    "candidate_id": f"{base.set_id}-{k}",
                    "index": k,
                    "image": artifacts.put(encode_png(garment(shade)), "png"),
                }
            )
            for k, shade in enumerate(shades)
        )
        return base.model_copy(update={"candidates": candidates})

    def test_pairs_that_follow_from_votes_prefer_what_the_taste_prefers(self, stores):
        artifacts, feedback = stores
        voted_on = self.painted(artifacts, (20, 90, 160, 230))
        feedback.put_set("r", voted_on)
        cast_votes("dark", [voted_on], artifacts, MemoryVotes(), feedback, seed=0)
        scored = feedback.scored(voted_on.set_id)
        assert {score.diagnostics["voters"] for score in scored.scores} == {VOTERS}
        pairs = preference_pairs([scored], PreferenceSettings(weights={"votes": 1}))
        assert {(0, 3), (0, 2), (1, 3)} <= {(pair.chosen, pair.rejected) for pair in pairs}
        assert not {(3, 0), (2, 0), (3, 1)} & {(pair.chosen, pair.rejected) for pair in pairs}

    def test_the_seed_decides_every_vote(self, stores):
        artifacts, feedback = stores
        voted_on = self.painted(artifacts, (100, 110, 120, 130))
        feedback.put_set("r", voted_on)
        found = []
        for seed in (0, 0, 1):
            cast_votes("dark", [voted_on], artifacts, MemoryVotes(), feedback, seed=seed)
            found.append([score.value for score in feedback.scored(voted_on.set_id).scores])
        assert found[0] == found[1]
        assert found[0] != found[2]
