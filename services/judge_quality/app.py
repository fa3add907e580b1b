"""Quality judge behind HTTP. Logic: fashiondpo/judges/quality.py."""

from __future__ import annotations

import torch
from fastapi import FastAPI

from fashiondpo.judges.quality import MiniQualityJudge
from fashiondpo.serving.judging import LoadedJudge, create_judge_app
from fashiondpo.telemetry import Progress
from services.judge_quality.settings import JudgeQualitySettings


def create_app(settings: JudgeQualitySettings | None = None) -> FastAPI:
    """The service; settings come from the environment unless given."""
    settings = settings or JudgeQualitySettings()

    def load(_progress: Progress) -> LoadedJudge:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        return LoadedJudge(MiniQualityJudge.load(settings.mini(settings.weights, "judges/quality"), settings.device))

    return create_judge_app(
        load,
        settings,
        title="FashionDPO quality judge",
        description="Scores pictures of garments, each by itself, from 1 (ruined) to 10 (flawless).",
    )
