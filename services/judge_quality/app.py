"""Quality judge behind HTTP. Logic: fashiondpo/judges/quality.py, minicpm.py and remote_quality.py."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI

from fashiondpo.clients.vlm import ModelServerClient
from fashiondpo.judges.dialects import dialect
from fashiondpo.serving.health import ReadinessCheck
from fashiondpo.serving.judging import LoadedJudge, create_judge_app
from fashiondpo.telemetry import Progress, log
from services.judge_quality.settings import JudgeQualitySettings


def create_app(settings: JudgeQualitySettings | None = None) -> FastAPI:
    """The service; settings come from the environment unless given."""
    settings = settings or JudgeQualitySettings()
    server = settings.chosen.server(settings.key) if settings.kind == "remote" else None

    def load(_progress: Progress) -> LoadedJudge:
        if settings.kind != "remote":
            _limit_threads(settings.threads)
        mini = settings.weights_folder if settings.kind == "mini" else settings.assets
        judge = settings.chosen.judge(mini=mini, device=settings.device, server=server)
        log().info("quality_judge", backend=settings.kind, version=judge.info.version)
        return LoadedJudge(judge)

    return create_judge_app(
        load,
        settings,
        title="FashionDPO quality judge",
        description="Scores pictures of garments, each by itself, from 1 (ruined) to 10 (flawless), or to 5.",
        readiness=_readiness(server, settings),
        close=server.close if server is not None else lambda: None,
    )


def _readiness(server: ModelServerClient | None, settings: JudgeQualitySettings) -> Mapping[str, ReadinessCheck]:
    if server is None:
        return {}
    health_path = dialect(settings.chosen.dialect).health_path
    return {"model_server": lambda: server.problem(health_path)}


def _limit_threads(threads: int | None) -> None:
    if threads is not None:
        import torch  # a judge that asks a server has no use for it

        torch.set_num_threads(threads)
