"""The app of a judge: POST /score and GET /info, with the model behind a micro-batcher.

    def create_app(settings: JudgeQualitySettings | None = None) -> FastAPI:
        settings = settings or JudgeQualitySettings()
        return create_judge_app(lambda progress: LoadedJudge(MiniQualityJudge.load(…)), settings, title="…")

A candidate that cannot be judged has its reason in its score; it never spoils the others, and never the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI

from fashiondpo.contracts import JudgeInfo, Score
from fashiondpo.errors import FashionDPOError
from fashiondpo.judges.base import Judge, JudgeInput, Unscored
from fashiondpo.messages import ScoreItem, ScoreRequest, ScoreResponse
from fashiondpo.outfits.model import Catalogue
from fashiondpo.serving.app import create_service
from fashiondpo.serving.batching import MicroBatcher
from fashiondpo.serving.health import ReadinessCheck
from fashiondpo.serving.judge_inputs import InputReader
from fashiondpo.serving.judge_metrics import JudgeMetrics
from fashiondpo.serving.judge_settings import JudgeSettings
from fashiondpo.serving.keys import Caller, requires
from fashiondpo.serving.loading import Loading
from fashiondpo.serving.steady import SteadyJudge
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.telemetry import Progress

NO_ARTIFACT = f"{'0' * 64}.png"


@dataclass(frozen=True)
class LoadedJudge:
    """A judge that is ready.

    Attributes:
        judge: scores; only one thread asks it.
        catalogue: whose items it can be asked to judge.
        sees_outfit, sees_history: whether it looks at the pictures of given garments, and of the user's history; what it
            does not look at is not read.
    """

    judge: Judge
    catalogue: Catalogue | None = None
    sees_outfit: bool = False
    sees_history: bool = False


@dataclass
class _Parts:
    """What the routes need: the judge, and everything between it and a request."""

    settings: JudgeSettings
    loading: Loading[LoadedJudge]
    metrics: JudgeMetrics
    artifacts: FolderArtifacts | None
    batcher: MicroBatcher[JudgeInput, Score] = field(init=False)
    readers: ThreadPoolExecutor = field(init=False)

    def open(self) -> None:
        self.readers = ThreadPoolExecutor(self.settings.read_threads, "read")
        self.batcher = MicroBatcher(
            lambda inputs: SteadyJudge(self.loading.value.judge).score(inputs),
            max_batch=self.settings.max_batch,
            max_wait_s=self.settings.max_wait_ms / 1000,
            max_queued=self.settings.max_queued,
            observe=self.metrics.batch_done,
        )
        self.metrics.watch(lambda: self.batcher.queued)
        self.batcher.start()

    def close(self) -> None:
        self.loading.close()
        self.batcher.close()
        self.readers.shutdown()

    async def score(self, items: Sequence[ScoreItem]) -> ScoreResponse:
        """One score per candidate, in order."""
        loaded = self.loading.value
        info = loaded.judge.info
        with self.metrics.timed(), self.batcher.room_for(len(items)) as ticket:
            found = await self._read(items, loaded)
            inputs = [one for one in found if isinstance(one, JudgeInput)]
            given: list[Score] = await asyncio.wrap_future(ticket.submit(inputs))
            judged = iter(given)
            scores = tuple(
                next(judged) if isinstance(one, JudgeInput) else _refused(item.candidate_id, one, info)
                for item, one in zip(items, found, strict=True)
            )
        self.metrics.scored(scores)
        return ScoreResponse(judge=info, scores=scores)

    async def _read(self, items: Sequence[ScoreItem], loaded: LoadedJudge) -> list[JudgeInput | Unscored]:
        """Pictures are read in a few threads, neighbours by the same one: they are likely to share garments."""
        size = -(-len(items) // self.settings.read_threads)
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(self.readers, self._reader(loaded).read_all, part) for part in parts]
        return [one for of_part in await asyncio.gather(*work) for one in of_part]

    def _reader(self, loaded: LoadedJudge) -> InputReader:
        return InputReader(
            self.artifacts,
            loaded.catalogue,
            max_px=self.settings.max_image_px,
            sees_outfit=loaded.sees_outfit,
            sees_history=loaded.sees_history,
        )

    def artifacts_problem(self) -> str | None:
        """For /readyz: whether the artifact store answers."""
        try:
            if self.artifacts is not None:
                self.artifacts.has(NO_ARTIFACT)
        except FashionDPOError as error:
            return str(error)
        return None


def create_judge_app(
    load: Callable[[Progress], LoadedJudge],
    settings: JudgeSettings,
    *,
    title: str,
    description: str = "",
    readiness: Mapping[str, ReadinessCheck] | None = None,
    close: Callable[[], None] = lambda: None,
) -> FastAPI:
    """A judge as a service.

    Args:
        load: makes the judge; called once, in a thread of its own, and told where to report progress.
        settings: shared settings of judges.
        title, description: of the OpenAPI document.
        readiness: checks for /readyz by name, besides those of all judges.
        close: called at the end, after the last score.
    """
    metrics = JudgeMetrics()
    artifacts = None if settings.artifacts_url is None else FolderArtifacts(settings.artifacts_url)
    parts = _Parts(settings, Loading("judge", load), metrics, artifacts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.open()
        parts.loading.start(app.state.lifetime)
        try:
            yield
        finally:
            await asyncio.to_thread(parts.close)
            close()

    checks: dict[str, ReadinessCheck] = {"judge": parts.loading.problem, **(readiness or {})}
    if artifacts is not None:
        checks["artifacts"] = parts.artifacts_problem
    return create_service(
        title=title,
        description=description,
        settings=settings,
        routers=[_judge_router(parts)],
        lifespan=lifespan,
        readiness=checks,
        metrics=metrics.service,
    )


def _judge_router(parts: _Parts) -> APIRouter:
    router = APIRouter(tags=["judge"])

    @router.post("/score")
    async def score(body: ScoreRequest, _caller: Annotated[Caller, Depends(requires("generate"))]) -> ScoreResponse:
        """Score a batch of candidates under this judge's criterion: one score per candidate, in order.

        A candidate that cannot be judged has the reason instead of a value; `is_final` is false where asking again may help.
        """
        return await parts.score(body.candidates)

    @router.get("/info")
    async def info(_caller: Annotated[Caller, Depends(requires("read"))]) -> JudgeInfo:
        """What this judge measures, on which scale, and which version of it this is."""
        return parts.loading.value.judge.info

    return router


def _refused(candidate_id: str, why: Unscored, info: JudgeInfo) -> Score:
    return Score(
        candidate_id=candidate_id,
        criterion=info.criterion,
        judge_version=info.version,
        reason=why.reason,
        is_final=why.is_final,
    )
