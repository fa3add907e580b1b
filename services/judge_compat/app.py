"""Compatibility judge: VBPR behind HTTP. Logic: fashiondpo/judges/compatibility.py."""

from __future__ import annotations

import torch
from fastapi import FastAPI

from fashiondpo.judges.compatibility import CompatibilityJudge
from fashiondpo.judges.embeddings import CatalogueEmbeddings
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.serving.judging import LoadedJudge, create_judge_app
from fashiondpo.telemetry import Progress
from services.judge_compat.settings import JudgeCompatSettings


def create_app(settings: JudgeCompatSettings | None = None) -> FastAPI:
    """The service; settings come from the environment unless given."""
    settings = settings or JudgeCompatSettings()

    def load(progress: Progress) -> LoadedJudge:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        catalogue = load_data_set(settings.mini(settings.data_set, "catalogue")).catalogue
        place = settings.embeddings_folder
        embeddings = CatalogueEmbeddings.open(place, catalogue) if place is not None else None
        features = OpenClipFeatures.load(
            settings.models.clip(settings.clip), settings.device, pretrained=settings.clip_pretrained
        )
        items = CatalogueFeatures(features, catalogue, cache=settings.features_cache, embeddings=embeddings)
        items.compute_all(progress)
        vbpr = settings.models.vbpr(settings.vbpr)
        judge = CompatibilityJudge.load(vbpr, features, items, settings.device)
        return LoadedJudge(judge, catalogue, sees_outfit=True)

    return create_judge_app(
        load,
        settings,
        title="FashionDPO compatibility judge",
        description="Scores how well a candidate goes with the other garments of its outfit; higher is better.",
    )
