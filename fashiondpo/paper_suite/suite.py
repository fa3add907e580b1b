"""`fashiondpo evaluate --suite paper`: two adapter versions complete the same outfits, and every metric looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.contracts import AdapterRef, CandidateSet
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.distributions import ReferenceSet, too_few_pictures
from fashiondpo.evaluation.paper_gallery import CompletedOutfit, draw_outfits
from fashiondpo.evaluation.paper_report import write_paper_report
from fashiondpo.evaluation.paper_table import LeftOut, Measured, MetricRow, PaperMetrics, PaperTable, Task, metric_row
from fashiondpo.offline import load_weights
from fashiondpo.outfits.model import Image
from fashiondpo.paper_suite.instruments import Instruments, SuiteFiles, open_instruments
from fashiondpo.paper_suite.measuring import measure, reference_sets
from fashiondpo.paper_suite.painting import Filling, Painter, painted_filling, true_filling
from fashiondpo.paper_suite.strangers import STRANGERS
from fashiondpo.paper_suite.tasks import PaperTask, has_own_wrong_items, paper_tasks, reference_item_ids
from fashiondpo.run_settings import RunSettings
from fashiondpo.telemetry import Progress
from fashiondpo.workspace import Workspace

GALLERY_OUTFITS = 6
PAINTED_FOLDER = "paper-metrics"

Bars = Callable[[str], Progress]


@dataclass(frozen=True)
class PaperEvaluation:
    """The figures, and where the report lies."""

    metrics: PaperMetrics
    path: Path


def evaluate_paper(
    workspace: Workspace,
    settings: RunSettings,
    before: int,
    after: int,
    *,
    tasks: Sequence[Task] = ("pfitb", "gor"),
    split: str = "test",
    outfits: int | None = None,
    files: SuiteFiles | None = None,
    progress: Bars,
) -> PaperEvaluation:
    """Paint, measure, and write paper-metrics.json, .md and .html into the run's folder.

    Args:
        workspace: of the run.
        settings: candidates, seed, sampler, weights of the judges, how many outfits.
        before, after: adapter versions; 0 is the base model.
        tasks: which of the papers' tasks.
        split: "valid" or "test".
        outfits: how many for each task; `settings.report_outfits` unless given.
        files: weights beside the run's own.
        progress: gives a progress callback for each piece of work.

    Raises:
        InvalidInput: if the split is the one that was learned from, both versions are the same, or there are too few
            outfits.
        InvalidBundle: if a file of weights holds something else.
        NotFound: if there is no such version.
    """
    if split == "train":
        raise InvalidInput("figures of the training outfits would prove nothing: choose 'valid' or 'test'")
    if before == after:
        raise InvalidInput(f"there is nothing to compare adapter version {after} with: --before names the same")
    if not tasks:
        raise InvalidInput("name a task: pfitb or gor")
    count = outfits or settings.report_outfits
    work = [(task, paper_tasks(workspace.data_set, split, task, count, seed=settings.seed)) for task in tasks]
    instruments = open_instruments(workspace, split, settings.preferences, files or SuiteFiles(), seed=settings.seed)
    real = reference_item_ids(workspace.data_set, split, seed=settings.seed)
    references = reference_sets(instruments.extractors, instruments.items, real, progress("real pictures"))
    refs = [workspace.adapters.manifest(version).ref if version else AdapterRef() for version in (before, after)]
    suite = _Suite(workspace, settings, split, instruments, references, (name_of(before), name_of(after)), progress)
    found = [suite.table(task, todo, refs) for task, todo in work]
    metrics = PaperMetrics(
        title=f"Metrics of the papers: {name_of(after)} against {name_of(before)}",
        before=name_of(before),
        after=name_of(after),
        facts=_facts(workspace, settings, split, instruments, found[0].painted),
        tables=tuple(one.table for one in found),
    )
    galleries = {one.table.task: one.gallery for one in found}
    return PaperEvaluation(metrics, write_paper_report(workspace.folder, metrics, galleries))


def name_of(version: int) -> str:
    """How people call an adapter version."""
    return "base" if version == 0 else f"adapter {version}"


@dataclass(frozen=True)
class _Found:
    """Of one task: the table, the gallery's PNG, and a set that shows how everything was painted."""

    table: PaperTable
    gallery: bytes
    painted: CandidateSet


@dataclass(frozen=True)
class _Suite:
    """What the tasks have in common."""

    workspace: Workspace
    settings: RunSettings
    split: str
    instruments: Instruments
    references: dict[str, ReferenceSet]
    names: tuple[str, str]
    progress: Bars

    def table(self, task: Task, todo: Sequence[PaperTask], refs: Sequence[AdapterRef]) -> _Found:
        """Everything about one task."""
        catalogue = self.workspace.data_set.catalogue
        painted = [self._paint(task, todo, ref, name) for ref, name in zip(refs, self.names, strict=True)]
        truth = self._measure(f"{task} true items", (true_filling(one, catalogue) for one in todo), len(todo))
        old, new = (
            self._measure(f"{task} {name}", (self._filling(*pair) for pair in zip(todo, sets, strict=True)), len(todo))
            for sets, name in zip(painted, self.names, strict=True)
        )
        pictures = sum(len(s.candidates) for sets in painted[0] for s in sets)
        lines = [
            metric_row(metric, old, new, truth, outfits=len(todo), seed=self.settings.seed)
            for metric in self.instruments.metrics()
        ]
        real = len(next(iter(self.references.values())).vectors)
        table = PaperTable(
            task=task,
            outfits=len(todo),
            candidates=self.settings.candidates,
            pictures=pictures,
            real_pictures=real,
            rows=tuple(line for line in lines if isinstance(line, MetricRow)),
            left_out=(*self.instruments.left_out, *(line for line in lines if isinstance(line, LeftOut))),
            warnings=tuple(self._warnings(pictures, real)),
        )
        rows = [self._completed(*(self._filling(todo[p], sets[p]) for sets in painted)) for p in _shown(todo)]
        return _Found(table, draw_outfits(rows, self.names), painted[0][0][0])

    def _paint(
        self, task: Task, todo: Sequence[PaperTask], ref: AdapterRef, name: str
    ) -> list[tuple[CandidateSet, ...]]:
        generator = self.workspace.generator(self.split, is_recorded=False)
        generator.activate(ref, load_weights(self.workspace.adapters, ref))
        painter = Painter(
            generator,
            self.workspace.folder / PAINTED_FOLDER,
            self.settings.candidates,
            self.settings.seed,
            self.settings.sampler,
        )
        try:
            return painter.paint(todo, self.progress(f"{task} paint {name}"))
        finally:
            generator.activate(AdapterRef(), None)

    def _measure(self, name: str, fillings: Iterable[Filling], total: int) -> Measured:
        data_set = self.workspace.data_set
        return measure(
            fillings,
            self.instruments,
            self.references,
            data_set.catalogue,
            data_set.categories,
            progress=self.progress(name),
            total=total,
        )

    def _filling(self, task: PaperTask, sets: Sequence[CandidateSet]) -> Filling:
        return painted_filling(task, sets, self.workspace.artifacts)

    def _warnings(self, pictures: int, real: int) -> Iterator[str]:
        for extractor in self.instruments.extractors:
            if said := too_few_pictures(pictures, real, extractor.dim):
                yield f"FID (features: {extractor.feature_id}): {said}"

    def _completed(self, before: Filling, after: Filling) -> CompletedOutfit:
        data_set, task, outfit = self.workspace.data_set, before.task, before.task.complete
        image = data_set.catalogue.image
        category_ids = [outfit.category_ids[slot] for slot in task.slots]
        worn = data_set.history(self.split).of(outfit.user_id, category_ids[0])
        return CompletedOutfit(
            title=", ".join(data_set.categories[category_id].name for category_id in category_ids),
            subtitle=f"user {outfit.user_id}, outfit {outfit.outfit_id}",
            truth=tuple(image(item_id) for item_id in outfit.given_item_ids),
            slots=task.slots,
            history=tuple(image(item_id) for item_id in worn[: len(outfit.item_ids)]),
            before=_candidates(before),
            after=_candidates(after),
        )


def _shown(todo: Sequence[PaperTask]) -> list[int]:
    """Positions of the gallery's outfits: every category of a first painted slot once before any comes twice."""
    seen: dict[int, int] = {}
    order = []
    for position, task in enumerate(todo):
        category_id = task.outfit.category_ids[task.slots[0]]
        seen[category_id] = seen.get(category_id, 0) + 1
        order.append((seen[category_id], position))
    return [position for _, position in sorted(order)[:GALLERY_OUTFITS]]


def _candidates(filling: Filling) -> tuple[tuple[Image, ...], ...]:
    return tuple(
        tuple(picture.image for picture in candidate) for candidate in zip(*filling.pictures.values(), strict=True)
    )


def _facts(
    workspace: Workspace, settings: RunSettings, split: str, instruments: Instruments, painted: CandidateSet
) -> dict[str, str]:
    sampler, data_set = painted.sampler, workspace.data_set
    guidance = sampler.guidance
    labels = {name: weight for name, weight in settings.preferences.weights.items() if weight > 0}
    own = has_own_wrong_items(data_set, split)
    return {
        "data set": f"{data_set.name}, {split} split",
        "base model": painted.base_digest[:12],
        "sampling": (
            f"{sampler.num_inference_steps} DDIM steps, noise {sampler.ddim_eta:g}, guidance category "
            f"{guidance.category:g}, mutual {guidance.mutual:g}, history {guidance.history:g}"
        ),
        "seed": str(settings.seed),
        "labels": ", ".join(f"{name} {weight / sum(labels.values()):.0%}" for name, weight in labels.items()),
        "categories named by": instruments.classifier.name,
        "CLIP": instruments.clip.feature_id,
        "retrieval": (
            "PFITB: the data set's own four wrong items, of any category; GOR: four of the same category, drawn"
            if own
            else "four wrong items of the same category, drawn from the split's outfits"
        ),
        "other users' history": f"the mean over {STRANGERS} others, drawn, who have a history of the same category",
        "real pictures": f"items of the {split} split's outfits, each once",
    }
