"""The combined score and the bootstrap of a share, written a second way: with loops and with the binomial law."""

import math
import statistics

from scipy.stats import binom


def combined_score(before, scores, weights, outfit, candidate):
    """One candidate's combined score; `before` and `scores` are gapless lists [outfit][candidate][judge]."""
    total = 0.0
    for judge, weight in enumerate(weights):
        every = [values[judge] for candidates in before for values in candidates]
        unit = statistics.pstdev(every)
        total += weight * (scores[outfit][candidate][judge] - statistics.fmean(every)) / unit
    return total / sum(weights)


def mean_pair_distance(vectors):
    """Mean distance over all unordered pairs of one outfit's vectors."""
    pairs = [(a, b) for i, a in enumerate(vectors) for b in vectors[i + 1 :]]
    return statistics.fmean(math.dist(a, b) for a, b in pairs)


def share_interval(successes, trials, level=0.95):
    """Where resampled shares of 0/1 outcomes fall: binomial quantiles, since each draw succeeds with p = s/n."""
    law = binom(trials, successes / trials)
    return law.ppf((1 - level) / 2) / trials, law.ppf((1 + level) / 2) / trials
