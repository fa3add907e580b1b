"""Guidance by three conditions, added one after the other."""

from __future__ import annotations

from torch import Tensor

BRANCHES = 4
"""Forward passes per row: without conditions, with the category, with mutual too, with history too."""


def guide(branches: Tensor, scales: Tensor) -> Tensor:
    """The guided prediction e0 + s_c (ec - e0) + s_m (ecm - ec) + s_h (ecmh - ecm).

    Args:
        branches: predictions (4, n, c, h, w): none, category, category + mutual, all three.
        scales: (n, 3): category, mutual, history.

    Returns:
        (n, c, h, w). With all scales 1 it is the fully conditioned prediction.

    Raises:
        ValueError: if there are not four branches or not three scales per row.

    Source: DiFashion (arXiv:2402.17279), equation 13.
    """
    if branches.shape[0] != BRANCHES:
        raise ValueError(f"expected {BRANCHES} branches, got {branches.shape[0]}")
    if scales.shape != (branches.shape[1], 3):
        raise ValueError(f"expected scales of shape ({branches.shape[1]}, 3), got {tuple(scales.shape)}")
    category, mutual, history = (s.view(-1, *[1] * (branches.ndim - 2)) for s in scales.to(branches.dtype).unbind(1))
    none, with_category, with_mutual, with_all = branches.unbind(0)
    return (
        none
        + category * (with_category - none)
        + mutual * (with_mutual - with_category)
        + history * (with_all - with_mutual)
    )
