"""Precision of pictures against an independently written one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiondpo.judges.manifold import Manifold


def lies_among(picture: np.ndarray, real: np.ndarray, neighbours: int) -> bool:
    """arXiv:1904.06991, equation 1, in loops."""
    for index, centre in enumerate(real):
        others = sorted(np.linalg.norm(np.delete(real, index, axis=0) - centre, axis=1))
        if np.linalg.norm(picture - centre) <= others[neighbours - 1]:
            return True
    return False


class TestManifold:
    @given(seed=st.integers(0, 2**20), count=st.integers(5, 20), neighbours=st.integers(1, 4))
    @settings(max_examples=40, deadline=None)
    def test_is_the_papers_formula(self, seed, count, neighbours):
        rng = np.random.default_rng(seed)
        real, pictures = rng.normal(size=(count, 3)), 2 * rng.normal(size=(12, 3))
        found = Manifold(torch.from_numpy(real), neighbours).contains(torch.from_numpy(pictures))
        assert found.tolist() == [lies_among(picture, real, neighbours) for picture in pictures]

    def test_real_pictures_lie_among_themselves_and_far_ones_do_not(self):
        real = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
        manifold = Manifold(real)
        assert manifold.contains(real).all()
        assert not manifold.contains(real + 100).any()

    def test_of_no_pictures_says_nothing(self):
        assert Manifold(torch.randn(9, 2)).contains(torch.zeros(0, 2)).shape == (0,)

    def test_needs_more_pictures_than_neighbours(self):
        with pytest.raises(ValueError, match="3 real pictures do not have 3 neighbours each"):
            Manifold(torch.zeros(3, 2))
