"""The stages of a round as commands, each restartable, and the whole round as one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fashiondpo.cli.options import (
    BundlePlace,
    Candidates,
    DataPlace,
    Device,
    JudgesPlace,
    Mode,
    Outfits,
    OwnBundle,
    OwnData,
    OwnJudges,
    Processes,
    Quality,
    RunFolder,
    Seed,
    SettingsFile,
    new_workspace,
    opened_workspace,
    run_settings,
    settings_of,
)
from fashiondpo.cli.paper import Clip, Evaluator, Inception, Lpips, Tasks, paper_files, paper_suite
from fashiondpo.cli.show import console, progress_bars, say, show_comparison, show_verdict
from fashiondpo.contracts import ROUND_STAGES, RoundRecord, RoundStage
from fashiondpo.errors import InvalidInput
from fashiondpo.pipeline import (
    collect_round,
    gate_round,
    judge_round,
    pair_round,
    publish_round,
    run_round,
    train_round,
)
from fashiondpo.run_settings import RunSettings
from fashiondpo.telemetry import timed

if TYPE_CHECKING:
    from fashiondpo.workspace import Workspace


def generate(
    run: RunFolder = Path("runs/default"),
    data_place: DataPlace = "mini",
    bundle: BundlePlace = "mini",
    judges: JudgesPlace = "mini",
    quality: Quality = None,
    outfits: Outfits = None,
    candidates: Candidates = None,
    seed: Seed = None,
    mode: Mode = None,
    settings_file: SettingsFile = None,
    device: Device = "cpu",
) -> None:
    """Collect: paint and record the candidates of a round's training outfits. Begins a round if none is open."""
    settings = run_settings(
        file=settings_file, mode=mode, outfits=outfits, candidates=candidates, seed=seed, bundle=bundle
    )
    workspace = new_workspace(run, data_place, bundle, judges, device, quality=quality)
    _advance(workspace, settings, workspace.next_round(settings), "collect")


def score(run: RunFolder = Path("runs/default"), device: Device = "cpu") -> None:
    """Judge: let the three judges score every candidate of the open round."""
    _advance_open_round(run, device, "judge")


def pairs(run: RunFolder = Path("runs/default"), device: Device = "cpu") -> None:
    """Pair: turn scores into preference pairs."""
    _advance_open_round(run, device, "pair")


def train(run: RunFolder = Path("runs/default"), processes: Processes = 1, device: Device = "cpu") -> None:
    """Train: fine-tune the adapter on the pairs; goes on from its last checkpoint."""
    workspace, record = opened_workspace(run, device)
    workspace.processes, workspace.tell_memory = processes, _say_memory
    _advance(workspace, settings_of(record), record, "train")


def gate(run: RunFolder = Path("runs/default"), device: Device = "cpu") -> None:
    """Gate and publish: let validation outfits decide, and register the adapter as promoted or refused."""
    record = _advance_open_round(run, device, "gate")
    if record.verdict is not None:
        show_verdict(record.verdict)
    _advance_open_round(run, device, "publish")


def evaluate(
    run: RunFolder = Path("runs/default"),
    before: Annotated[int, typer.Option(help="Adapter version to compare with; 0 is the base model.")] = 0,
    after: Annotated[int | None, typer.Option(help="Adapter version to look at; the newest unless given.")] = None,
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    outfits: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    suite: Annotated[
        Literal["report", "paper"],
        typer.Option(help="report: judges before and after, with pictures. paper: FID, IS, CLIP score, LPIPS, …"),
    ] = "report",
    task: Tasks = None,
    clip: Clip = None,
    inception: Inception = None,
    lpips: Lpips = None,
    evaluator: Evaluator = None,
    data_place: OwnData = None,
    bundle: OwnBundle = None,
    judges: OwnJudges = None,
    quality: Quality = None,
    device: Device = "cpu",
) -> None:
    """Compare two adapter versions on held-out outfits, same outfits and seeds, and write the report."""
    files = paper_files(clip, inception, lpips, evaluator)
    if suite == "report" and (task or any(files.values())):
        raise InvalidInput("--task, --clip, --inception, --lpips and --evaluator belong to --suite paper")
    if data_place or bundle or judges or quality:
        workspace = new_workspace(
            run, data_place or "mini", bundle or "mini", judges or "mini", device, quality=quality
        )
        begun = workspace.last_round()
        settings = RunSettings() if begun is None else settings_of(begun)
    else:
        workspace, record = opened_workspace(run, device)
        settings = settings_of(record)
    versions = workspace.adapters.versions()
    if not versions:
        raise InvalidInput(
            f"{run} has no adapter yet: finish a round first, or bring one in with `fashiondpo import … --run {run}`"
        )
    chosen = after if after is not None else versions[-1]
    if suite == "paper":
        paper_suite(workspace, settings, before, chosen, tasks=task, split=split, outfits=outfits, files=files)
        return
    from fashiondpo.run_report import evaluate_versions  # loads torch: not for --help

    with progress_bars() as bars:
        result = evaluate_versions(workspace, settings, before, chosen, split=split, outfits=outfits, progress=bars)
    show_comparison(result.comparison)
    say(f"The report lies in {result.path}")


def round_(
    run: RunFolder = Path("runs/default"),
    data_place: DataPlace = "mini",
    bundle: BundlePlace = "mini",
    judges: JudgesPlace = "mini",
    quality: Quality = None,
    outfits: Outfits = None,
    candidates: Candidates = None,
    report_outfits: Annotated[int | None, typer.Option(help="Test outfits of the report.")] = None,
    seed: Seed = None,
    mode: Mode = None,
    settings_file: SettingsFile = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many the folder shall hold in all.")] = 1,
    processes: Processes = 1,
    device: Device = "cpu",
) -> None:
    """A whole round: collect, judge, pair, train, gate, publish, and a report on test outfits. Goes on if stopped."""
    started = time.perf_counter()
    settings = run_settings(
        file=settings_file,
        mode=mode,
        outfits=outfits,
        candidates=candidates,
        seed=seed,
        report_outfits=report_outfits,
        bundle=bundle,
    )
    # loads torch: not for --help, nor to refuse a setting
    from fashiondpo.run_report import evaluate_versions

    workspace = new_workspace(run, data_place, bundle, judges, device, quality=quality)
    workspace.processes, workspace.tell_memory = processes, _say_memory
    workspace.data_set.blanks_of("test", settings.report_outfits)  # too many are refused now, not after the training
    if (finished := len(workspace.finished_rounds())) >= rounds:
        say(f"{finished} rounds are finished in {run}; --rounds {finished + 1} adds another")
    while len(workspace.finished_rounds()) < rounds:
        _finish_round(workspace, settings)
    first, last = workspace.finished_rounds()[0], workspace.finished_rounds()[-1]
    if last.published is None:
        raise InvalidInput(f"{last.round_id} ended without publishing an adapter")
    with progress_bars() as bars:
        result = evaluate_versions(workspace, settings, first.adapter.version, last.published.version, progress=bars)
    show_comparison(result.comparison)
    say(f"Took {time.perf_counter() - started:.0f} s. The report lies in {result.path}")


def _say_memory(needed: str) -> None:
    say(f"The training needs about {needed} of memory")


def _finish_round(workspace: Workspace, settings: RunSettings) -> None:
    """Bring the open round, or a new one, to its end."""
    record = workspace.next_round(settings)
    console.rule(f"{record.round_id}, from adapter version {record.adapter.version}", align="left")
    with progress_bars() as bars:
        parts = workspace.parts(record, settings, train_progress=bars("train"), gate_progress=bars("gate"))
        record = run_round(record, workspace.requests(record, settings), parts, progress=lambda stage: bars(stage))
    if record.verdict is not None:
        show_verdict(record.verdict)


def _advance_open_round(run: Path, device: str, stage: RoundStage) -> RoundRecord:
    workspace, record = opened_workspace(run, device)
    return _advance(workspace, settings_of(record), record, stage)


def _advance(workspace: Workspace, settings: RunSettings, record: RoundRecord, stage: RoundStage) -> RoundRecord:
    """Do one stage of the open round; say so if it is done already, refuse if an earlier one is missing."""
    at, wanted = ROUND_STAGES.index(record.stage), ROUND_STAGES.index(stage)
    if at > wanted:
        say(f"{record.round_id}: stage {stage!r} is done already; {_what_is_next(record)}")
        return record
    if at < wanted:
        raise InvalidInput(f"{record.round_id} is at stage {record.stage!r}: do that before {stage!r}")
    seconds = dict(record.seconds)
    with progress_bars() as bars, timed(seconds, stage):
        parts = workspace.parts(record, settings, train_progress=bars("train"), gate_progress=bars("gate"))
        match stage:
            case "collect":
                requests = workspace.requests(record, settings)
                record = collect_round(record, requests, parts, bars("collect"), lambda: False)
            case "judge":
                record = judge_round(record, parts, bars("judge"), lambda: False)
            case "pair":
                record = pair_round(record, parts)
            case "train":
                record = train_round(record, parts)
            case "gate":
                record = gate_round(record, parts)
            case _:
                record = publish_round(record, parts)
    record = record.model_copy(update={"seconds": seconds})
    workspace.feedback.put_round(record)
    say(f"{record.round_id}: {stage} took {seconds[stage]:.0f} s; {_what_is_next(record)}")
    return record


def _what_is_next(record: RoundRecord) -> str:
    return "the round is finished" if record.stage == "done" else f"next is {record.stage!r}"
