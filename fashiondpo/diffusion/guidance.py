"""Guidance by three conditions, added one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BRANCHES = 4
"""Forward passes per row: without conditions, with the category, with mutual too, with history too."""


def guide(branches: Tensor, scales: Tensor, used: Sequence[int] = range(BRANCHES)) -> Tensor:
    """The guided prediction e0 + s_c (ec - e0) + s_m (ecm - ec) + s_h (ecmh - ecm), as a weighted sum of the branches.

    Args:
        branches: predictions (b, n, c, h, w), in the order none, category, category + mutual, all three.
        scales: (n, 3): category, mutual, history.
        used: which of the four the b branches are, ascending; those left out must have no weight for any row.

    Returns:
        (n, c, h, w). With all scales 1 it is the fully conditioned prediction.

    Raises:
        ValueError: if there are not as many branches as used, or not three scales per row.

    Source: DiFashion (arXiv:2402.17279), equation 13.
    """
    if branches.shape[0] != len(used):
        raise ValueError(f"expected {len(used)} branches, got {branches.shape[0]}")
    if scales.shape != (branches.shape[1], 3):
        raise ValueError(f"expected scales of shape ({branches.shape[1]}, 3), got {tuple(scales.shape)}")
    weights = branch_weights(scales)[list(used)].to(branches.dtype)
    weights = weights.view(*weights.shape, *[1] * (branches.ndim - 2))
    total = weights[0] * branches[0]
    for branch, weight in zip(branches[1:], weights[1:], strict=True):
        total = total + weight * branch
    return total


def branch_weights(scales: Tensor) -> Tensor:
    """How much each branch counts in the guidance sum, (4, n): 1 - s_c, s_c - s_m, s_m - s_h, s_h.

    A branch that no row gives any weight need not be computed: with equal scales of two conditions there is one.

    Args:
        scales: (n, 3): category, mutual, history.
    """
    category, mutual, history = scales.unbind(1)
    return torch.stack([1 - category, category - mutual, mutual - history, history])
