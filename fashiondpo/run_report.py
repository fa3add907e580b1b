"""Compare two adapter versions on held-out outfits and write the report of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.contracts import AdapterRef, CandidateSet
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.comparison import Comparison, combined_scores, compare
from fashiondpo.evaluation.gallery import GalleryRow
from fashiondpo.evaluation.gate import decide
from fashiondpo.evaluation.report import RunReport, write_report
from fashiondpo.offline import load_weights
from fashiondpo.offline_evaluation import Measurement, PolicyGenerator
from fashiondpo.outfits.images import decode_image
from fashiondpo.outfits.model import Blank
from fashiondpo.pipeline import SetJudge
from fashiondpo.run_settings import RunSettings
from fashiondpo.telemetry import Progress, timed
from fashiondpo.training.metrics import read_metrics
from fashiondpo.workspace import Workspace

GALLERY_OUTFITS = 12


@dataclass(frozen=True)
class Evaluated:
    """The figures, and where the report lies."""

    comparison: Comparison
    path: Path


def evaluate_versions(
    workspace: Workspace,
    settings: RunSettings,
    before: int,
    after: int,
    *,
    split: str = "test",
    outfits: int | None = None,
    generator: PolicyGenerator | None = None,
    judges: Sequence[SetJudge] | None = None,
    training: Sequence[Mapping[str, float]] | None = None,
    progress: Callable[[str], Progress],
) -> Evaluated:
    """Complete the same held-out outfits with two adapter versions, compare, and write report.html, .json and .png.

    Args:
        workspace: of the run.
        settings: candidates, seed, weights, how many outfits.
        before, after: adapter versions; 0 is the base model.
        split: "valid" or "test".
        outfits: how many; `settings.report_outfits` unless given.
        generator, judges: who paints and who judges; in this process unless given.
        training: figures of the training's updates; from the run's folder unless given.
        progress: gives a progress callback for each of the two.

    Raises:
        InvalidInput: if the split is the one that was learned from.
        NotFound: if there is no such version.
    """
    if split == "train":
        raise InvalidInput("a report on the training outfits would prove nothing: choose 'valid' or 'test'")
    count = outfits or settings.report_outfits
    evaluator = workspace.evaluator(split, count, settings, generator=generator, judges=judges)
    manifest = workspace.adapters.manifest(after) if after else None
    # an imported adapter has no round
    is_of_a_round = manifest is not None and manifest.round_id in workspace.feedback.round_ids()
    seconds = dict(workspace.feedback.round(manifest.round_id).seconds) if manifest and is_of_a_round else {}
    if training is None:
        training = read_metrics(workspace.folder / "training" / manifest.round_id) if manifest else ()
    measurements = []
    for name, version in (("before", before), ("after", after)):
        ref = workspace.adapters.manifest(version).ref if version else AdapterRef()
        evaluator = evaluator.with_progress(progress(name))
        with timed(seconds, "report"):
            measurements.append(evaluator.measure(ref, load_weights(workspace.adapters, ref)))
    old, new = measurements
    weights = {str(name): weight for name, weight in settings.preferences.weights.items()}
    comparison = compare(old.measured, new.measured, weights, seed=settings.seed)
    report = RunReport(
        title=f"Adapter {after} against {'the base model' if before == 0 else f'adapter {before}'}",
        comparison=comparison,
        verdict=(manifest.verdict if manifest else None) or decide(comparison, settings.gate),
        before=old.measured,
        after=new.measured,
        gallery=gallery_rows(workspace, split, evaluator.blanks, old, new, weights),
        training=training,
        seconds=seconds,
        facts=_facts(workspace, settings, split, old.candidate_sets[0]),
    )
    return Evaluated(comparison, write_report(workspace.folder, report))


def gallery_rows(
    workspace: Workspace,
    split: str,
    blanks: Sequence[Blank],
    before: Measurement,
    after: Measurement,
    weights: Mapping[str, float],
    *,
    count: int = GALLERY_OUTFITS,
) -> list[GalleryRow]:
    """The first outfits of the selection, one category after the other, whatever became of them."""
    old, new = combined_scores(before.measured, after.measured, weights)
    data_set = workspace.data_set
    catalogue, history = data_set.catalogue, data_set.history(split)
    rows = []
    for position in _spread_over_categories(blanks)[:count]:
        blank = blanks[position]
        outfit, category_id = blank.outfit, blank.outfit.category_ids[blank.slot]
        painted = [
            tuple(
                decode_image(workspace.artifacts.get(candidate.image))
                for candidate in measurement.candidate_sets[position].candidates
            )
            for measurement in (before, after)
        ]
        rows.append(
            GalleryRow(
                outfit_id=outfit.outfit_id,
                user_id=outfit.user_id,
                category=data_set.categories[category_id].name,
                given=tuple(None if item is None else catalogue.image(item) for item in outfit.item_ids),
                history=tuple(catalogue.image(item) for item in history.of(outfit.user_id, category_id)[:2]),
                true_item=catalogue.image(blank.true_item_id),
                before=painted[0],
                after=painted[1],
                before_scores=tuple(float(x) for x in old[position]),
                after_scores=tuple(float(x) for x in new[position]),
            )
        )
    return rows


def _spread_over_categories(blanks: Sequence[Blank]) -> list[int]:
    """Positions so that every category comes once before any comes twice."""
    seen: dict[int, int] = {}
    order = []
    for position, blank in enumerate(blanks):
        category_id = blank.outfit.category_ids[blank.slot]
        seen[category_id] = seen.get(category_id, 0) + 1
        order.append((seen[category_id], position))
    return [position for _, position in sorted(order)]


def _facts(workspace: Workspace, settings: RunSettings, split: str, painted: CandidateSet) -> dict[str, str]:
    sampler = painted.sampler
    guidance, training = sampler.guidance, settings.training
    return {
        "data set": f"{workspace.data_set.name}, {split} split",
        "base model": painted.base_digest[:12],
        "sampling": (
            f"{sampler.num_inference_steps} DDIM steps, noise {sampler.ddim_eta:g}, guidance category "
            f"{guidance.category:g}, mutual {guidance.mutual:g}, history {guidance.history:g}"
        ),
        "learned from": f"{settings.outfits} training outfits with {settings.candidates} candidates each",
        "objective": f"{training.objective}, beta {training.beta:g}, rank {training.rank}, rate {training.learning_rate:g}",
        "seed": str(settings.seed),
    }
