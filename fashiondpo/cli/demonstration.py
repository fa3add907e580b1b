"""The steps of the demo over HTTP, each of which goes on from where an earlier start has stopped."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from fashiondpo.cli.options import mini_assets
from fashiondpo.cli.rounds import finish, show_round
from fashiondpo.cli.show import console, progress_bars, say, show_comparison
from fashiondpo.clients.addresses import Addresses
from fashiondpo.clients.generator import GeneratorClient
from fashiondpo.clients.judge import JudgeClient
from fashiondpo.clients.trainer import TrainerClient
from fashiondpo.contracts import CandidateSet, RoundRecord
from fashiondpo.errors import DataFileError, Unavailable
from fashiondpo.evaluation.gallery import draw_gallery
from fashiondpo.messages import GenerateRequest, Generation, GenerationProgress, RoundView
from fashiondpo.offline_evaluation import LocalEvaluator
from fashiondpo.remote import RemoteGenerator, RemoteJudge, outfit_request
from fashiondpo.run_report import evaluate_versions, gallery_rows
from fashiondpo.run_settings import RunSettings, TrainRequest
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.storage.records import replace_file
from fashiondpo.storage.redis_adapters import RedisAdapters
from fashiondpo.storage.redis_connection import connect
from fashiondpo.storage.redis_feedback import RedisFeedback
from fashiondpo.workspace import RunStores, Workspace

SPLIT = "test"
_SETS: TypeAdapter[tuple[CandidateSet, ...]] = TypeAdapter(tuple[CandidateSet, ...])
_SWAP_S = 60.0
_PAUSE_S = 0.1


class Demonstration:
    """What people see of the whole: to be used as a context, which closes its connections."""

    def __init__(
        self, run: Path, addresses: Addresses, request: TrainRequest, *, shown: int, report_outfits: int
    ) -> None:
        """Take up the demo of this folder.

        Args:
            run: its folder.
            addresses: of the services, which keep their artifacts in the same folder.
            request: the round that it starts.
            shown: how many outfits are completed before and after.
            report_outfits: how many the report is about.
        """
        self._run, self._request, self._shown, self._report_outfits = run, request, shown, report_outfits
        self._open = ExitStack()
        self._generator = self._open.enter_context(GeneratorClient(addresses.generator, timeout_s=120))
        self._trainer = self._open.enter_context(TrainerClient(addresses.trainer))
        urls = (addresses.judge_quality, addresses.judge_compat, addresses.judge_personal)
        self._judges = [RemoteJudge(self._open.enter_context(JudgeClient(url, timeout_s=120))) for url in urls]
        artifacts = FolderArtifacts(run / "artifacts")
        redis = self._open.enter_context(connect(addresses.redis_url))
        stores = RunStores(artifacts, RedisFeedback(redis), RedisAdapters(redis, artifacts))
        self._workspace = Workspace(run, mini_assets=mini_assets(), stores=stores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def play(self) -> Path:
        """All steps; returns the path of the report.

        Raises:
            Unavailable: if a service does not answer, or does not serve in time what it should.
            FashionDPOError: the error that ended the round, if one did.
        """
        console.rule("Before", align="left")
        before = self._completed("before")
        console.rule("A round", align="left")
        view = show_round(self._trainer, self._started().round_id)
        finish(view)
        console.rule("After", align="left")
        name, after = self._after(view.record)
        settings = RunSettings.model_validate({**view.record.settings, "report_outfits": self._report_outfits})
        self._draw(before, after, settings, self._run / f"before-and-{name}.png")
        console.rule("Report", align="left")
        return self._report(view, settings)

    def _started(self) -> RoundView:
        """The demo's round: the first one in this folder, however far it is."""
        rounds = list(self._trainer.all_rounds())
        view = rounds[-1] if rounds else self._trainer.train(self._request)
        say(f"{view.round_id} is {view.state}; it learns from outfits of the training split")
        return view

    def _after(self, record: RoundRecord) -> tuple[str, tuple[CandidateSet, ...]]:
        """What the new adapter paints: as the champion, or for a moment and on trial."""
        if record.published is None or record.verdict is None:
            raise Unavailable(f"{record.round_id} has ended without an adapter and a verdict")
        version = record.published.version
        if record.verdict.is_promoted:
            self._wait_until_serves(version)
            return "after", self._completed("after")
        say(f"Version {version} does not serve. To show a swap all the same, it does for a moment: a TRIAL, by force.")
        self._generator.activate(version, is_forced=True)
        try:
            self._wait_until_serves(version)
            return "trial", self._completed("trial")
        finally:
            self._generator.rollback()
            self._wait_until_serves(record.adapter.version)
            say("The trial is over: it was rolled back.")

    def _wait_until_serves(self, version: int) -> None:
        started = time.monotonic()
        while (state := self._generator.adapters()).active.version != version:
            if time.monotonic() - started > _SWAP_S:
                raise Unavailable(
                    f"the generator does not serve version {version}: {state.problem or 'no reason given'}"
                )
            time.sleep(_PAUSE_S)
        say(f"The generator serves version {version}, without a restart.")

    def _completed(self, name: str) -> tuple[CandidateSet, ...]:
        """The same outfits with the same seeds, painted with whatever serves; once, however often the demo is started."""
        path = self._run / f"{name}.json"
        if path.exists():
            sets = _read_sets(path)
        else:
            sets = self._painted(name)
            replace_file(path, _SETS.dump_json(sets, indent=2))
        version = sets[0].adapter.version
        of_whom = f"adapter version {version}" if version else "the base model"
        say(f"Completed {len(sets)} outfits of {SPLIT} users, {len(sets[0].candidates)} times each, with {of_whom}")
        return sets

    def _painted(self, name: str) -> tuple[CandidateSet, ...]:
        asked = [
            outfit_request(request.model_copy(update={"set_id": f"demo-{name}-{request.set_id}"}))
            for request in self._evaluator.requests
        ]
        with progress_bars() as bars:
            tell = bars(name)
            for news in self._generator.generate_stream(GenerateRequest(outfits=tuple(asked))):
                if isinstance(news, GenerationProgress):
                    tell(news.done, news.total, {})
                elif isinstance(news, Generation):
                    return news.candidate_sets
        raise Unavailable("the generator has ended its answer without a result")

    @cached_property
    def _evaluator(self) -> LocalEvaluator:
        """Knows the outfits that are shown, and has the judges look at them."""
        chosen = {"seed": self._request.seed}
        if self._request.candidates is not None:
            chosen["candidates"] = self._request.candidates
        return self._workspace.evaluator(
            SPLIT, self._shown, RunSettings.model_validate(chosen), generator=self._painter, judges=self._judges
        )

    @cached_property
    def _painter(self) -> RemoteGenerator:
        return RemoteGenerator(self._generator, is_recorded=False)

    def _draw(
        self, before: tuple[CandidateSet, ...], after: tuple[CandidateSet, ...], settings: RunSettings, path: Path
    ) -> None:
        weights = {str(name): weight for name, weight in settings.preferences.weights.items()}
        old, new = self._evaluator.measured(before), self._evaluator.measured(after)
        rows = gallery_rows(self._workspace, SPLIT, self._evaluator.blanks, old, new, weights, count=self._shown)
        replace_file(path, draw_gallery(rows))
        say(f"The same outfits before and after: {path}")

    def _report(self, view: RoundView, settings: RunSettings) -> Path:
        record = view.record
        assert record.published is not None  # else there was no after
        with progress_bars() as bars:
            result = evaluate_versions(
                self._workspace,
                settings,
                record.adapter.version,
                record.published.version,
                generator=self._painter,
                judges=self._judges,
                training=view.metrics,
                progress=bars,
            )
        show_comparison(result.comparison)
        return result.path


def _read_sets(path: Path) -> tuple[CandidateSet, ...]:
    try:
        return _SETS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataFileError(path, "holds no candidate sets; delete it, or the whole folder for a new demo") from error
