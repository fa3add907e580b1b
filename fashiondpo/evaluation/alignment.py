"""Figures of single pictures beside what they were meant to show, from embeddings. Pure numpy, float64.

Embeddings are of unit length where a cosine is meant, as CLIP's are here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fashiondpo.evaluation.statistics import Floats, mean_of_present


def clip_score(pictures: ArrayLike, meant: ArrayLike) -> Floats:
    """100 times the cosine, nothing below 0: of pictures with sentences (CLIP score) or with pictures (CLIP image score).

    Args:
        pictures: embeddings of any length but 0. Shape (n, d).
        meant: embedding of what each of them was meant to show. Shape (n, d).

    Returns:
        0…100, shape (n,).

    Raises:
        ValueError: if the shapes differ.

    Source: CLIPScore (arXiv:2104.08718), equation 1, with the factor 100 that evaluations of generators use.
    """
    return np.asarray(100 * np.maximum(cosines(pictures, meant), 0))


def cosines(one: ArrayLike, other: ArrayLike) -> Floats:
    """Cosine of each row with its counterpart, shape (n,); raises ValueError if the shapes differ."""
    left, right = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(f"expected embeddings of one shape (n, d), got {left.shape} and {right.shape}")
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.clip((left * right).sum(1) / lengths, -1, 1))


def taste(items: ArrayLike) -> Floats:
    """What stands for a user's items: the direction of their mean embedding, shape (d,); items (n, d), n at least 1."""
    mean = np.asarray(items, dtype=np.float64).mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def retrieved(pictures: ArrayLike, choices: ArrayLike) -> Floats:
    """Whether a picture lies nearer to the true item than to every wrong one; a tie counts as its share.

    Args:
        pictures: unit-length embeddings. Shape (n, d).
        choices: of the items to choose from, the true one first. Shape (n, c, d).

    Returns:
        1, 0, or 1 / m where the true item shares the first place with m - 1 others. Shape (n,).

    Raises:
        ValueError: if the shapes do not go together.
    """
    queries, items = np.asarray(pictures, dtype=np.float64), np.asarray(choices, dtype=np.float64)
    if queries.ndim != 2 or items.ndim != 3 or items.shape[::2] != queries.shape:
        raise ValueError(f"expected pictures (n, d) and choices (n, c, d), got {queries.shape} and {items.shape}")
    similarities = np.einsum("nd,ncd->nc", queries, items)
    best = similarities.max(1)
    is_first = similarities >= best[:, None]
    return np.where(is_first[:, 0], 1 / is_first.sum(1), 0.0)


def means_by_outfit(values: ArrayLike, outfits: ArrayLike, count: int) -> Floats:
    """Mean over the pictures of every outfit that have a value; NaN where none has.

    Args:
        values: one per picture; NaN = none. Shape (n,).
        outfits: position of each picture's outfit. Shape (n,).
        count: of outfits.

    Returns:
        Shape (count,).
    """
    found, owners = np.asarray(values, dtype=np.float64), np.asarray(outfits)
    return np.array([mean_of_present(found[owners == outfit], axis=0) for outfit in range(count)], dtype=np.float64)
