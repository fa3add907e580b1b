"""Personalization judge: CLIP and histories behind HTTP. Logic: fashiondpo/judges/personalization.py."""

from __future__ import annotations

import torch
from fastapi import FastAPI

from fashiondpo.judges.embeddings import CatalogueEmbeddings
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.outfits.model import DataSet, History
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.serving.judging import LoadedJudge, create_judge_app
from fashiondpo.telemetry import Progress
from services.judge_personal.settings import JudgePersonalSettings


def create_app(settings: JudgePersonalSettings | None = None) -> FastAPI:
    """The service; settings come from the environment unless given."""
    settings = settings or JudgePersonalSettings()

    def load(progress: Progress) -> LoadedJudge:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        data_set = load_data_set(settings.mini(settings.data_set, "catalogue"))
        place = settings.embeddings_folder
        embeddings = CatalogueEmbeddings.open(place, data_set.catalogue) if place is not None else None
        features = OpenClipFeatures.load(
            settings.models.clip(settings.clip), settings.device, pretrained=settings.clip_pretrained
        )
        items = CatalogueFeatures(features, data_set.catalogue, cache=settings.features_cache, embeddings=embeddings)
        items.compute_all(progress)
        judge = PersonalizationJudge(features, items, _history(data_set, settings.history))
        return LoadedJudge(judge, data_set.catalogue, sees_history=True)

    return create_judge_app(
        load,
        settings,
        title="FashionDPO personalization judge",
        description="Scores how much a candidate resembles what its user wore, from -1 to 1.",
    )


def _history(data_set: DataSet, split: str) -> History:
    return History.joined(list(data_set.histories.values())) if split == "all" else data_set.history(split)
