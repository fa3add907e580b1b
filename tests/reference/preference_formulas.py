"""Preference scores written a second way: on arrays, with numpy, without any of the package's code."""

import numpy as np


def default_scores(raw, weights):
    """Raw scores of one outfit, shape (judges, K), judges with a gap left out -> weighted z-scores, shape (K,)."""
    raw, weights = np.asarray(raw, float), np.asarray(weights, float)
    present = np.isfinite(raw).all(axis=1)
    raw, weights = raw[present], weights[present] / weights[present].sum()
    centred = raw - raw.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    return weights @ np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)


def paper_scores(raw, weights):
    """Raw scores of a round without gaps, shape (outfits, judges, K) -> fused min-max scores, shape (outfits, K)."""
    raw, weights = np.asarray(raw, float), np.asarray(weights, float)
    low = raw.min(axis=(0, 2), keepdims=True)
    high = raw.max(axis=(0, 2), keepdims=True)
    return np.einsum("ojk,j->ok", (raw - low) / (high - low), weights / weights.sum())


def paper_pairs(scores):
    """Fused scores, shape (outfits, K) -> {(outfit, better, worse)} by one median over everything."""
    above = scores > np.median(scores)
    return {
        (outfit, int(i), int(j))
        for outfit in range(len(scores))
        for i in np.flatnonzero(above[outfit])
        for j in np.flatnonzero(~above[outfit])
    }
