"""Compare ways of training fairly: the same candidates, the same scores, the same held-out outfits, several seeds.

Per seed a round's candidates are collected and judged once; every configuration trains on them from the same parent and
is measured on validation outfits, which no round learns from. Each result is one line of `results.jsonl`, so an
experiment that was stopped goes on with what is missing. Nothing here is needed to run rounds.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pydantic import Field, ValidationError

from fashiondpo.contracts import AdapterRef, Frozen, Interval, Name, PreferencePair, RoundRecord
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import DataFileError, InvalidInput
from fashiondpo.evaluation.comparison import Comparison, compare
from fashiondpo.offline_evaluation import Measurement
from fashiondpo.pipeline import collect_round, judge_round, pair_round
from fashiondpo.preferences import JudgeCriterion, preference_pairs
from fashiondpo.run_settings import RunSettings
from fashiondpo.simulated_votes import TASTES, cast_votes, taste_of
from fashiondpo.storage.records import first_problem
from fashiondpo.storage.votes import MemoryVotes
from fashiondpo.telemetry import Progress, no_progress
from fashiondpo.training.metrics import read_metrics
from fashiondpo.workspace import Workspace

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 %, for 1 to 9 degrees of freedom."""


class Experiment(Frozen):
    """What is compared.

    `configurations` name changes of `run.training`, for instance {"slow": {"learning_rate": 0.001}}; the first is the one
    that the others are compared with. `weights` gives some of them judges' weights of their own, and with them pairs of
    their own; the combined score is that of `run` for all. With a `taste`, simulated voters vote on the candidates: what
    gives "votes" a weight learns from them, and the taste is measured like a held-out figure, for all.
    """

    run: RunSettings = RunSettings()
    configurations: dict[Name, dict[str, Any]] = Field(min_length=1)
    weights: dict[Name, dict[JudgeCriterion, float]] = {}
    taste: str | None = Field(None, description="Of simulated voters: " + " or ".join(TASTES) + ".")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    split: str = Field("valid", pattern="^(valid|test)$", description="test only once, for the last word.")

    def settings(self, configuration: str, seed: int) -> RunSettings:
        """The run's settings with this configuration's changes and this seed everywhere.

        Raises:
            InvalidInput: if the changes are none of TrainSettings.
        """
        chosen = self.run.model_dump(mode="json")
        chosen["seed"] = seed
        chosen["training"] |= {"seed": seed} | self.configurations[configuration]
        if configuration in self.weights:
            chosen["preferences"]["weights"] = self.weights[configuration]
        try:
            return RunSettings.model_validate(chosen)
        except ValidationError as error:
            raise InvalidInput(f"configuration {configuration!r} cannot be: {first_problem(error)}") from error


class Result(Frozen):
    """What one configuration came to with one seed.

    Attributes:
        train_seconds: of the training alone; candidates are shared.
        training: figures of its last updates.
        comparison: adapter against the parent on held-out outfits.
    """

    configuration: Name
    seed: int
    train_seconds: float
    training: dict[str, float]
    comparison: Comparison


class Row(Frozen):
    """One line of the table: means over seeds, with 95 % intervals over seeds where there are at least two."""

    configuration: Name
    seeds: int
    combined: Interval
    against_first: Interval
    win_rate: float
    judges: dict[str, float]
    held_out: dict[str, float]
    diversity_ratio: float
    train_seconds: float


def read_experiment(file: Path) -> Experiment:
    """Read and check an experiment; every configuration is tried out on paper before anything is painted.

    Raises:
        InvalidInput: if it is no JSON, or a setting cannot be.
    """
    try:
        found = Experiment.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        raise InvalidInput(f"{file} describes no experiment: {first_problem(error)}") from error
    for configuration in found.configurations:
        found.settings(configuration, found.seeds[0])
    if unknown := sorted(found.weights.keys() - found.configurations.keys()):
        raise InvalidInput(f"{file}: weights are given for {', '.join(unknown)}, which is no configuration")
    if found.taste is not None and found.taste not in TASTES:
        raise InvalidInput(f"{file}: there is no taste {found.taste!r}; known: {', '.join(TASTES)}")
    return found


def run_experiment(
    experiment: Experiment,
    open_workspace: Callable[[Path], Workspace],
    folder: Path,
    *,
    progress: Callable[[str], Progress] = lambda _name: no_progress,
) -> list[Result]:
    """Do what is not yet done, and return all results.

    Args:
        experiment: what to compare.
        open_workspace: opens a run's folder.
        folder: for `results.jsonl` and a run's folder per seed.
        progress: gives a progress callback for each piece of work.

    Raises:
        InvalidInput: if the folder holds another experiment.
        DataFileError: if its results cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(experiment, folder)
    results = read_results(folder)
    done = {(result.configuration, result.seed) for result in results}
    for seed in experiment.seeds:
        missing = [name for name in experiment.configurations if (name, seed) not in done]
        if not missing:
            continue
        workspace = open_workspace(folder / f"seed-{seed}")
        record, before = _prepared(experiment, workspace, seed, progress)
        for name in missing:
            result = _tried(experiment, workspace, record, before, name, seed, progress)
            with (folder / "results.jsonl").open("a") as file:
                file.write(result.model_dump_json() + "\n")
            results.append(result)
    return results


def read_results(folder: Path) -> list[Result]:
    """The results so far.

    Raises:
        DataFileError: if a line is none.
    """
    path = folder / "results.jsonl"
    try:
        return [Result.model_validate_json(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValidationError as error:
        raise DataFileError(path, f"holds a line that is no result: {first_problem(error)}") from error


def table(results: Sequence[Result]) -> list[Row]:
    """A row per configuration, in the order in which they first came; compared seed by seed with the first."""
    of: dict[str, dict[int, Result]] = {}
    for result in results:
        of.setdefault(result.configuration, {})[result.seed] = result
    first = next(iter(of.values()), {})
    return [_row(name, found, first) for name, found in of.items()]


def seed_interval(values: Sequence[float]) -> Interval:
    """Mean of a figure over seeds with Student's 95 % interval; of a single seed the interval is the value itself.

    Raises:
        ValueError: if there is no value.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean=mean, low=mean, high=mean)
    t = _T_975[count - 2] if count - 2 < len(_T_975) else 1.96
    reach = t * stdev(values) / math.sqrt(count)
    return Interval(mean=mean, low=mean - reach, high=mean + reach)


def _row(name: str, found: Mapping[int, Result], first: Mapping[int, Result]) -> Row:
    results = list(found.values())
    shared = [seed for seed in found if seed in first]
    comparisons = [result.comparison for result in results]

    def means(part: str) -> dict[str, float]:
        tables = [getattr(comparison, part) for comparison in comparisons]
        return {
            figure: fmean(
                of[figure].delta / (of[figure].sigma or 1.0) if part == "judges" else of[figure].delta for of in tables
            )
            for figure in tables[0]
        }

    return Row(
        configuration=name,
        seeds=len(results),
        combined=seed_interval([comparison.combined.delta for comparison in comparisons]),
        against_first=seed_interval(
            [found[s].comparison.combined.delta - first[s].comparison.combined.delta for s in shared] or [0.0]
        ),
        win_rate=fmean(comparison.win_rate for comparison in comparisons),
        judges=means("judges"),
        held_out=means("held_out"),
        diversity_ratio=fmean(comparison.diversity_ratio for comparison in comparisons),
        train_seconds=fmean(result.train_seconds for result in results),
    )


def _check_same(experiment: Experiment, folder: Path) -> None:
    """Configurations and seeds may be added later; what they share may not change."""
    path, shared = (
        folder / "experiment.json",
        experiment.model_dump(mode="json", exclude={"configurations", "weights", "seeds"}),
    )
    if path.exists() and json.loads(path.read_text()) != shared:
        raise InvalidInput(f"{folder} holds an experiment with another run or split: choose another folder")
    path.write_text(json.dumps(shared, indent=2) + "\n")


def _prepared(
    experiment: Experiment, workspace: Workspace, seed: int, progress: Callable[[str], Progress]
) -> tuple[RoundRecord, Measurement]:
    """Candidates with scores and pairs, collected once per seed, and what the parent achieves on held-out outfits."""
    settings = experiment.settings(next(iter(experiment.configurations)), seed)
    shared = experiment.run.model_copy(update={"seed": seed})
    trainings = [experiment.settings(name, seed).training for name in experiment.configurations]
    record = workspace.next_round(shared, trainings)
    parts = workspace.parts(record, shared)
    if record.stage == "collect":
        requests = workspace.requests(record, settings)
        record = collect_round(record, requests, parts, progress(f"collect {seed}"), lambda: False)
        workspace.feedback.put_round(record)
    if record.stage == "judge":
        record = judge_round(record, parts, progress(f"judge {seed}"), lambda: False)
        record = pair_round(record, parts)
        workspace.feedback.put_round(record)
    evaluator = workspace.evaluator(
        experiment.split, settings.report_outfits, settings, progress=progress(f"parent {seed}")
    )
    if experiment.taste is not None:
        sets = [workspace.feedback.set(set_id) for set_id in record.set_ids]
        cast_votes(experiment.taste, sets, workspace.artifacts, MemoryVotes(), workspace.feedback, seed=seed)
    return record, _with_taste(experiment, workspace, evaluator.measure(AdapterRef(), None))


def _with_taste(experiment: Experiment, workspace: Workspace, found: Measurement) -> Measurement:
    """What was measured, and beside it how much the experiment's taste, if it has one, likes the candidates."""
    if experiment.taste is None:
        return found
    values = taste_of(experiment.taste, found.candidate_sets, workspace.artifacts).mean(1)
    held_out = {**found.measured.held_out, f"taste_{experiment.taste}": values}
    return replace(found, measured=replace(found.measured, held_out=held_out))


def _tried(
    experiment: Experiment,
    workspace: Workspace,
    record: RoundRecord,
    before: Measurement,
    configuration: str,
    seed: int,
    progress: Callable[[str], Progress],
) -> Result:
    settings, name = experiment.settings(configuration, seed), f"{configuration} {seed}"
    sets = [workspace.feedback.set(set_id) for set_id in record.set_ids]
    trainer = workspace.trainer(settings.training, progress(f"train {name}"))
    if configuration in experiment.weights:
        pairs: Sequence[PreferencePair] = preference_pairs(
            map(workspace.feedback.scored, record.set_ids), settings.preferences
        )
    else:
        pairs = workspace.feedback.pairs(record.round_id)
    started = time.perf_counter()
    trained = trainer.train(configuration, sets, pairs, record.adapter)
    seconds = time.perf_counter() - started
    weights = AdapterWeights.from_bytes(workspace.artifacts.get(trained.weights))
    ref = AdapterRef(version=1, digest=trained.weights.split(".")[0])
    evaluator = workspace.evaluator(
        experiment.split, settings.report_outfits, settings, progress=progress(f"measure {name}")
    )
    after = _with_taste(experiment, workspace, evaluator.measure(ref, weights))
    judges_weights = {str(criterion): weight for criterion, weight in experiment.run.preferences.weights.items()}
    return Result(
        configuration=configuration,
        seed=seed,
        train_seconds=seconds,
        training=_last_figures(read_metrics(workspace.folder / "training" / configuration)),
        comparison=compare(before.measured, after.measured, judges_weights, seed=seed),
    )


def _last_figures(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the last tenth of the updates."""
    last = rows[-max(1, len(rows) // 10) :]
    return {name: fmean(row[name] for row in last) for name in last[0] if name not in ("step", "seconds")}
