"""Pictures in, figures out: every instrument looks at every picture once, a few outfits at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice

import numpy as np

from fashiondpo.diffusion.conditions import category_prompt
from fashiondpo.errors import Unavailable
from fashiondpo.evaluation.alignment import clip_score, means_by_outfit, retrieved
from fashiondpo.evaluation.distributions import (
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Pictures,
    ReferenceSet,
    SetFigure,
)
from fashiondpo.evaluation.paper_table import Measured
from fashiondpo.evaluation.statistics import Floats, pairwise_diversity
from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.outfits.model import Catalogue, Category, Image
from fashiondpo.paper_suite.instruments import PUBLISHED_FEATURES, FeatureExtractor, Instruments
from fashiondpo.paper_suite.painting import Filling
from fashiondpo.paper_suite.tasks import PaperTask
from fashiondpo.telemetry import Progress, no_progress

OUTFITS_AT_ONCE = 8
"""Whose pictures are in memory together."""

REFERENCE_AT_ONCE = 128
"""Real pictures in memory together."""

Values = dict[str, Floats]


@dataclass(frozen=True)
class _Batch:
    """The pictures of a few outfits, outfit after outfit, slot after slot, candidate after candidate."""

    fillings: Sequence[Filling]

    @cached_property
    def inputs(self) -> list[JudgeInput]:
        return [judge_input for filling in self.fillings for judge_input in filling.judge_inputs()]

    @cached_property
    def images(self) -> list[Image]:
        return [judge_input.image for judge_input in self.inputs]

    @cached_property
    def tasks(self) -> list[PaperTask]:
        """One per picture."""
        return [f.task for f in self.fillings for pictures in f.pictures.values() for _ in pictures]

    @cached_property
    def true_item_ids(self) -> list[int]:
        return [t.true_item_ids[i.slot] for t, i in zip(self.tasks, self.inputs, strict=True)]

    @cached_property
    def category_ids(self) -> list[int]:
        return [i.outfit.category_ids[i.slot] for i in self.inputs]

    @property
    def user_ids(self) -> list[int]:
        return [i.outfit.user_id for i in self.inputs]

    def outfits(self, first: int) -> list[int]:
        """The number of each picture's outfit, counted from `first`."""
        counts = [sum(map(len, filling.pictures.values())) for filling in self.fillings]
        return [first + position for position, count in enumerate(counts) for _ in range(count)]

    def slots(self) -> Iterator[slice]:
        """The rows of every slot: its candidates."""
        start = 0
        for filling in self.fillings:
            for pictures in filling.pictures.values():
                yield slice(start, start + len(pictures))
                start += len(pictures)


def measure(
    fillings: Iterable[Filling],
    instruments: Instruments,
    references: Mapping[str, ReferenceSet],
    catalogue: Catalogue,
    categories: Mapping[int, Category],
    *,
    progress: Progress = no_progress,
    total: int = 0,
) -> Measured:
    """Look at what fills the outfits.

    Args:
        fillings: outfits, read one after the other and not kept.
        instruments: what to look with.
        references: real pictures, by extractor.
        catalogue: where the true items are.
        categories: by id.
        progress, total: told after every few outfits.

    Raises:
        Unavailable: if a judge failed in a way that a later attempt may mend.
    """
    sentences = instruments.clip.texts([category_prompt(categories[c]) for c in sorted(categories)]).numpy()
    sentence_of = {category_id: row for row, category_id in enumerate(sorted(categories))}
    collected: defaultdict[str, list[Floats]] = defaultdict(list)
    outfits: list[int] = []
    done, waiting = 0, iter(fillings)
    while some := list(islice(waiting, OUTFITS_AT_ONCE)):
        batch = _Batch(some)
        outfits += batch.outfits(done)
        meant = sentences[[sentence_of[category_id] for category_id in batch.category_ids]]
        for name, values in _values(batch, instruments, meant, catalogue).items():
            collected[name].append(np.asarray(values, dtype=np.float64))
        done += len(some)
        progress(done, total or done, {})
    return _measured(
        {name: np.concatenate(parts) for name, parts in collected.items()}, outfits, instruments, references
    )


def reference_sets(
    extractors: Sequence[FeatureExtractor],
    items: CatalogueFeatures,
    item_ids: Sequence[int],
    progress: Progress = no_progress,
) -> dict[str, ReferenceSet]:
    """Features of real pictures, by extractor; each picture is read once.

    Args:
        extractors: those of `items` are taken from there.
        items: the catalogue.
        item_ids: which items.
        progress: counts items.
    """
    found: defaultdict[str, list[Floats]] = defaultdict(list)
    for start in range(0, len(item_ids), REFERENCE_AT_ONCE):
        batch = item_ids[start : start + REFERENCE_AT_ONCE]
        images = [items.catalogue.image(item_id) for item_id in batch]
        for extractor in extractors:
            name = extractor.feature_id
            vectors = items.of(batch) if name == items.features.feature_id else extractor.images(images)
            found[name].append(vectors.double().numpy())
        progress(start + len(batch), len(item_ids), {})
    return {name: ReferenceSet(np.concatenate(parts)) for name, parts in found.items()}


def _values(batch: _Batch, instruments: Instruments, meant: Floats, catalogue: Catalogue) -> Values:
    """Values per picture, (n,), and vectors, (n, d), by the metric's key or `features_` and the extractor's id."""
    vectors = instruments.clip.images(batch.images).double().numpy()
    found = {
        **_seen_by_clip(batch, instruments, vectors, meant),
        **_seen_by_classifier(batch, instruments),
        **{f"judge_{judge.info.criterion}": _scores(judge, batch.inputs) for judge in instruments.judges},
    }
    for extractor in instruments.extractors:
        is_clip = extractor.feature_id == instruments.clip.feature_id
        found[f"features_{extractor.feature_id}"] = (
            vectors if is_clip else extractor.images(batch.images).double().numpy()
        )
    if instruments.evaluator is not None:
        found["evaluator"] = _scores(instruments.evaluator, batch.inputs)
    if instruments.facts is not None:
        facts = instruments.facts.measure(batch.inputs, batch.true_item_ids)
        found |= {
            name: np.array([fact.get(name, np.nan) for fact in facts])
            for name in ("harmony", "palette", "colour_match")
        }
    if instruments.perceptual is not None:
        truths = [catalogue.image(item_id) for item_id in batch.true_item_ids]
        between = instruments.perceptual.between
        found["lpips"] = between(batch.images, truths).double().numpy()
        found["lpips_diversity"] = _per_slot(
            batch, lambda rows: between(*zip(*combinations(batch.images[rows], 2), strict=True)).mean().item()
        )
    return found


def _seen_by_clip(batch: _Batch, instruments: Instruments, vectors: Floats, meant: Floats) -> Values:
    users, categories = batch.user_ids, batch.category_ids
    own = instruments.tastes.similarity(vectors, users, categories)
    others = instruments.tastes.baseline(vectors, users, categories)
    return {
        "clip_score": clip_score(vectors, meant),
        "clip_image_score": clip_score(vectors, instruments.items.of(batch.true_item_ids).numpy()),
        "history": own,
        "history_of_others": others,
        "history_lead": own - others,
        "retrieval": _retrieved(batch, instruments.items, vectors),
        "diversity": _per_slot(batch, lambda rows: float(pairwise_diversity(vectors[None, rows])[0])),
    }


def _retrieved(batch: _Batch, items: CatalogueFeatures, vectors: Floats) -> Floats:
    """Whether each picture finds the true item among its choices; NaN where there are no wrong ones."""
    found = np.full(len(vectors), np.nan)
    for row, (task, judge_input) in enumerate(zip(batch.tasks, batch.inputs, strict=True)):
        if wrong := task.wrong_item_ids[judge_input.slot]:
            choices = items.of([task.true_item_ids[judge_input.slot], *wrong]).double().numpy()
            found[row] = retrieved(vectors[row : row + 1], choices[None])[0]
    return found


def _seen_by_classifier(batch: _Batch, instruments: Instruments) -> Values:
    chances = instruments.classifier.probabilities(batch.images).numpy()
    named = np.array(instruments.classifier.category_ids)[chances.argmax(1)]
    return {"chances": chances, "is_accuracy": (named == np.array(batch.category_ids)).astype(np.float64)}


def _scores(judge: Judge, inputs: Sequence[JudgeInput]) -> Floats:
    given = judge.score(inputs)
    if owed := [score for score in given if score.value is None and not score.is_final]:
        raise Unavailable(f"{len(owed)} scores are missing, the first because of: {owed[0].reason}")
    return np.array([np.nan if score.value is None else score.value for score in given], dtype=np.float64)


def _per_slot(batch: _Batch, of_rows: Callable[[slice], float]) -> Floats:
    """A value per slot, as often as it has candidates; NaN where there is one candidate alone."""
    found = np.full(len(batch.inputs), np.nan)
    for rows in batch.slots():
        if rows.stop - rows.start > 1:
            found[rows] = of_rows(rows)
    return found


def _measured(
    values: Values, outfits: Sequence[int], instruments: Instruments, references: Mapping[str, ReferenceSet]
) -> Measured:
    owners = np.array(outfits, dtype=np.intp)
    count = int(owners.max()) + 1
    figures: dict[str, SetFigure] = {"is": InceptionScore(Pictures(values["chances"], owners))}
    for extractor in instruments.extractors:
        name = extractor.feature_id
        pictures = Pictures(values[f"features_{name}"], owners)
        figures[f"fid_{name}"] = FrechetDistance(pictures, references[name])
        scale = 1.0 if name.startswith(PUBLISHED_FEATURES) else references[name].unit
        figures[f"kid_{name}"] = KernelDistance(pictures, references[name], scale=scale, factor=1000)
    means = {name: means_by_outfit(v, owners, count) for name, v in values.items() if v.ndim == 1}
    return Measured(means, figures)
