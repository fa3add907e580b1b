"""What became of a generator over several rounds: every published adapter against the base, on the same outfits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fashiondpo.contracts import AdapterRef, Frozen, Interval
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.charts import round_curve
from fashiondpo.evaluation.comparison import Comparison, compare
from fashiondpo.offline import load_weights
from fashiondpo.run_settings import RunSettings
from fashiondpo.storage.records import replace_file
from fashiondpo.telemetry import Progress
from fashiondpo.workspace import Workspace


class RoundPoint(Frozen):
    """One round: the version it published, whether the gate promoted it, and the version against the base."""

    round_id: str
    version: int
    is_promoted: bool
    comparison: Comparison


class RoundCurve(Frozen):
    """All rounds of a run, oldest first."""

    split: str
    points: tuple[RoundPoint, ...]


def measure_rounds(
    workspace: Workspace, settings: RunSettings, *, split: str = "test", progress: Callable[[str], Progress]
) -> RoundCurve:
    """Complete the same held-out outfits with the base and with every round's adapter; write rounds.json and charts.

    Args:
        workspace: of the run.
        settings: candidates, seed, weights, `report_outfits`.
        split: "valid" or "test".
        progress: gives a progress callback for each version.

    Raises:
        InvalidInput: if the split is the one that was learned from, or no round is finished.
    """
    if split == "train":
        raise InvalidInput("a curve on the training outfits would prove nothing: choose 'valid' or 'test'")
    records = workspace.finished_rounds()
    if not records:
        raise InvalidInput(f"no round is finished in {workspace.folder}")
    evaluator = workspace.evaluator(split, settings.report_outfits, settings)
    weights = {str(name): weight for name, weight in settings.preferences.weights.items()}
    base = evaluator.with_progress(progress("base")).measure(AdapterRef(), None)
    points = []
    for record in records:
        if record.published is None or record.verdict is None:
            raise InvalidInput(f"{record.round_id} ended without publishing an adapter")
        version = record.published.version
        ref = workspace.adapters.manifest(version).ref
        seen = evaluator.with_progress(progress(record.round_id)).measure(ref, load_weights(workspace.adapters, ref))
        comparison = compare(base.measured, seen.measured, weights, seed=settings.seed)
        points.append(
            RoundPoint(
                round_id=record.round_id,
                version=version,
                is_promoted=record.verdict.is_promoted,
                comparison=comparison,
            )
        )
    curve = RoundCurve(split=split, points=tuple(points))
    write_curve(workspace.folder, curve)
    return curve


def write_curve(folder: Path, curve: RoundCurve) -> None:
    """rounds.json, and a chart for the combined score, every judge, every held-out figure and diversity."""
    replace_file(folder / "rounds.json", curve.model_dump_json(indent=2).encode() + b"\n")
    comparisons = [point.comparison for point in curve.points]
    replace_file(folder / "rounds-combined.png", round_curve([c.combined.interval for c in comparisons], unit="σ"))
    for name in comparisons[0].judges:
        changes = [_in_sigma(c.judges[name].interval, c.judges[name].sigma) for c in comparisons]
        replace_file(folder / f"rounds-{name}.png", round_curve(changes, unit="σ"))
    for name in comparisons[0].held_out:
        changes = [c.held_out[name].interval for c in comparisons]
        replace_file(folder / f"rounds-{name}.png", round_curve(changes, unit="change"))
    changes = [c.diversity.interval for c in comparisons]
    replace_file(folder / "rounds-diversity.png", round_curve(changes, unit="change"))


def _in_sigma(change: Interval, sigma: float) -> Interval:
    unit = sigma or 1.0
    return Interval(mean=change.mean / unit, low=change.low / unit, high=change.high / unit)
