"""Voters with a taste that no judge knows: whether votes move a generator can be tried out before people are asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from statistics import median, pstdev

import numpy as np

from fashiondpo.contracts import CandidateSet
from fashiondpo.errors import InvalidInput
from fashiondpo.messages import FeedbackRequest, Vote
from fashiondpo.outfits.colour import garment_pixels
from fashiondpo.outfits.images import decode_image
from fashiondpo.outfits.model import Image
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.storage.votes import Votes, vote_on_set

VOTERS = 5
DOUBT = 0.5
"""Standard deviation of what a voter sees, in units of the spread of the taste within a set."""


def darkness(image: Image) -> float:
    """How dark the garment is: 1 less the median over its pixels of the brightest channel; 0 if there is none."""
    garment = garment_pixels(image)
    return 1.0 - float(np.median(garment.max(1))) if len(garment) else 0.0


def coverage(image: Image) -> float:
    """How large the garment is: its share of the picture."""
    height, width = image.shape[:2]
    return len(garment_pixels(image)) / int(height * width)


TASTES: Mapping[str, Callable[[Image], float]] = {"dark": darkness, "large": coverage}


def ballot(values: Sequence[float], rng: random.Random) -> tuple[float, ...]:
    """What one voter says of a set's candidates: 1 for those that seem to lie above the middle of it, -1 for the others.

    Args:
        values: of the taste, per candidate.
        rng: of this voter's doubts.
    """
    spread, middle = DOUBT * pstdev(values), median(values)
    return tuple(1.0 if rng.gauss(value, spread) > middle else -1.0 for value in values)


def taste_of(name: str, candidate_sets: Sequence[CandidateSet], artifacts: ArtifactStore) -> np.ndarray:
    """The taste's value of every candidate, shape (sets, candidates).

    Raises:
        InvalidInput: if there is no such taste.
    """
    if name not in TASTES:
        raise InvalidInput(f"there is no taste {name!r}; known: {', '.join(TASTES)}")
    return np.array(
        [[TASTES[name](decode_image(artifacts.get(c.image))) for c in s.candidates] for s in candidate_sets]
    )


def cast_votes(
    name: str,
    candidate_sets: Sequence[CandidateSet],
    artifacts: ArtifactStore,
    votes: Votes,
    feedback: FeedbackStore,
    *,
    seed: int,
) -> None:
    """Let VOTERS voters with this taste vote on every set, each with doubts of their own; errors as `taste_of`."""
    values = taste_of(name, candidate_sets, artifacts)
    for candidate_set, of_set in zip(candidate_sets, values.tolist(), strict=True):
        for voter in range(VOTERS):
            said = ballot(of_set, random.Random(f"{seed}/{candidate_set.set_id}/{voter}"))
            given = (
                Vote(candidate_id=candidate.candidate_id, value=value)
                for candidate, value in zip(candidate_set.candidates, said, strict=True)
            )
            request = FeedbackRequest(set_id=candidate_set.set_id, voter_id=f"voter-{voter}", votes=tuple(given))
            vote_on_set(request, votes, feedback)
