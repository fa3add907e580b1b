"""What a vision-language model is asked about a picture of a garment, and what its answer is worth.

The model chooses one letter; each letter stands for a level. Letters, because they are single tokens for every
tokenizer ("10" is two), so that one step of the model gives the probability of every level. The score is the expected
level, which tells candidates apart that a single choice would not. A rubric has one scale, and its prompt names no other.
"""

from __future__ import annotations

import hashlib
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fashiondpo.errors import UnparseableAnswer
from fashiondpo.judges.base import Scored

Levels = Literal[5, 10]

_QUESTION = (
    "This picture was made by a computer to show one garment or accessory for a shop. How good is the picture? "
    "Look at four things: whether it is sharp; whether the garment could exist, with its parts where they belong; "
    "whether there are artefacts, such as smears, stains, holes, stray lines or noise; and whether the background is "
    "plain and clean. Do not judge taste, colour or style."
)
_MEANINGS: dict[int, tuple[str, ...]] = {
    5: (
        "ruined: one cannot tell what it shows",
        "bad: a garment can be guessed, but it is misshapen, smeared or noisy",
        "fair: clearly a garment, with faults that one sees at once",
        "good: a plausible garment with small faults",
        "flawless: sharp, plausible, clean, like a photograph from a shop",
    ),
    10: (
        "ruined: nothing can be recognised",
        "nearly ruined: some shape, but no garment",
        "very bad: a garment can barely be guessed",
        "bad: a garment, but badly misshapen or smeared",
        "poor: recognisable, with several strong faults",
        "fair: clearly a garment, with faults that one sees at once",
        "decent: plausible, with some visible faults",
        "good: plausible and fairly sharp, with small faults",
        "very good: sharp and plausible; faults only on a close look",
        "flawless: sharp, plausible, clean, like a photograph from a shop",
    ),
}


@dataclass(frozen=True)
class Rubric:
    """A question with one scale of levels, lowest first.

    Attributes:
        question: what is asked.
        meanings: what each level means; level k is `meanings[k - 1]`.
    """

    question: str
    meanings: tuple[str, ...]

    @property
    def levels(self) -> int:
        """How many levels there are; the best is this number, the worst is 1."""
        return len(self.meanings)

    @property
    def labels(self) -> tuple[str, ...]:
        """The letter of each level, lowest first: A means level 1."""
        return tuple(string.ascii_uppercase[: self.levels])

    @cached_property
    def prompt(self) -> str:
        """The whole text that goes beside the picture."""
        lines = [f"{label}. {meaning}" for label, meaning in zip(self.labels, self.meanings, strict=True)]
        return "\n".join([self.question, "", *lines, "", self.reminder])

    @property
    def reminder(self) -> str:
        """How to answer."""
        return f"Answer with one letter from {self.labels[0]} to {self.labels[-1]} and nothing else."

    @cached_property
    def version(self) -> str:
        """Changes with every word of the prompt; part of a judge's version."""
        return f"rubric-{self.levels}-{hashlib.sha256(self.prompt.encode()).hexdigest()[:8]}"

    def level_of(self, label: str) -> int:
        """The level of a letter, 1 for A; raises UnparseableAnswer for any other text."""
        if label not in self.labels:
            raise UnparseableAnswer(f"expected one letter from {self.labels[0]} to {self.labels[-1]}, got {label!r}")
        return self.labels.index(label) + 1


def quality_rubric(levels: Levels) -> Rubric:
    """The rubric of quality on 5 or 10 levels.

    Raises:
        ValueError: for another number of levels.

    Source: quality by a vision-language model on 5 or 10 levels, FashionDPO (arXiv:2504.12900); the words are ours.
    """
    if levels not in _MEANINGS:
        raise ValueError(f"there are rubrics of {', '.join(map(str, _MEANINGS))} levels, not of {levels}")
    return Rubric(_QUESTION, _MEANINGS[levels])


def label_probabilities(log_probs: Sequence[float]) -> tuple[float, ...]:
    """Probabilities of the levels, given that one of them was chosen.

    Args:
        log_probs: of each level's label, in nats, unnormalised or of the whole vocabulary; -inf where a label was not
            among those that were told.

    Returns:
        As many probabilities, which sum to 1.

    Raises:
        UnparseableAnswer: if a value is NaN or +inf, or no label has any probability.
    """
    if any(math.isnan(value) or value == math.inf for value in log_probs):
        raise UnparseableAnswer(f"log-probabilities that are no numbers: {list(log_probs)}")
    highest = max(log_probs)
    if highest == -math.inf:
        raise UnparseableAnswer("none of the labels has a probability")
    weights = [math.exp(value - highest) for value in log_probs]
    return tuple(weight / math.fsum(weights) for weight in weights)


def expected_level(probabilities: Sequence[float]) -> float:
    """Sum of k times p(k) over the levels k = 1 … n."""
    return math.fsum(level * probability for level, probability in enumerate(probabilities, start=1))


def entropy(probabilities: Sequence[float]) -> float:
    """In nats: 0 for a model that is sure, log n for one that has no idea."""
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def scored_by_probabilities(rubric: Rubric, log_probs: Mapping[str, float]) -> Scored:
    """The expected level, with what explains it.

    Args:
        rubric: which labels there are.
        log_probs: by label, in nats; a label that is missing has no probability.

    Returns:
        Diagnostics: `label`, the likeliest; `entropy` in nats; `label_mass`, the probability that all labels had together
        before they were normalised, where low means that the model wanted to say something else.

    Raises:
        UnparseableAnswer: as `label_probabilities`.
    """
    values = [log_probs.get(label, -math.inf) for label in rubric.labels]
    probabilities = label_probabilities(values)
    best = max(range(rubric.levels), key=probabilities.__getitem__)
    # rounding of servers may carry it a little beyond 1
    mass = min(1.0, math.fsum(math.exp(value) for value in values))
    return Scored(
        min(float(rubric.levels), max(1.0, expected_level(probabilities))),
        {
            "by": "probabilities",
            "label": rubric.labels[best],
            "entropy": round(entropy(probabilities), 6),
            "label_mass": round(mass, 6),
        },
    )


def scored_by_label(rubric: Rubric, label: str) -> Scored:
    """The level of the one label that was chosen; raises UnparseableAnswer if it is none."""
    return Scored(float(rubric.level_of(label)), {"by": "label", "label": label})
