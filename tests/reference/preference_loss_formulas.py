"""Preference losses and their gradients written a second way: ratios instead of logarithms, numpy, float64."""

import numpy as np


def d3po(chosen, rejected, beta, clip_range, sides):
    """Log-ratios of pairs -> loss per pair and its gradients by either log-ratio; each of shape (pairs,).

    The Bradley-Terry probability that the chosen one wins, with clipped ratios to the power of beta as strengths.
    """
    low, high = 1 - clip_range, 1 + clip_range
    better, worse = np.exp(np.asarray(chosen, float)), np.exp(np.asarray(rejected, float))
    moves_better, moves_worse = better < high, worse > low
    if sides == "both":
        moves_better &= better > low
        moves_worse &= worse < high
        strength, other = np.clip(better, low, high), np.clip(worse, low, high)
    else:
        strength, other = np.minimum(better, high), np.maximum(worse, low)
    wins = strength**beta / (strength**beta + other**beta)
    return -np.log(wins), -beta * (1 - wins) * moves_better, beta * (1 - wins) * moves_worse


def diffusion_dpo(chosen, chosen_reference, rejected, rejected_reference, beta):
    """Squared errors of pairs -> loss per pair: the error that was saved, to the power of e, as strength."""
    strength = np.exp(beta * (np.asarray(chosen_reference, float) - np.asarray(chosen, float)))
    other = np.exp(beta * (np.asarray(rejected_reference, float) - np.asarray(rejected, float)))
    return -np.log(strength / (strength + other))


def win_shares(pairs, candidates):
    """A table of who beat whom, read row by row: a win counts 1, no decision 1/2, a defeat 0."""
    table = np.full((candidates, candidates), 0.5)
    for chosen, rejected in pairs:
        table[chosen, rejected], table[rejected, chosen] = 1, 0
    return (table.sum(1) - 0.5) / (candidates - 1)


def diffusion_nft(prediction, reference, target, win_share, beta):
    """The two squares multiplied out: reference error + step length + twice the step along what the candidate teaches."""
    rows = [np.asarray(x, float).reshape(len(win_share), -1) for x in (prediction, reference, target)]
    step, error = beta * (rows[0] - rows[1]), rows[1] - rows[2]
    lean = 2 * np.asarray(win_share, float) - 1
    return (error**2).mean(1) + (step**2).mean(1) + 2 * lean * (step * error).mean(1)
