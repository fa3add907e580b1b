"""The judge services over the real mini weights, and candidates for them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image as Pillow

from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import DataSet, Image
from services.judge_compat.app import create_app as create_compat
from services.judge_compat.settings import JudgeCompatSettings
from services.judge_personal.app import create_app as create_personal
from services.judge_personal.settings import JudgePersonalSettings
from services.judge_quality.app import create_app as create_quality
from services.judge_quality.settings import JudgeQualitySettings
from tests.api.small_service import wait_until_ready

JUDGES = ("quality", "compatibility", "personalization")


def judge_app(criterion: str, *, data: Path, features_cache: Path, **settings: Any) -> FastAPI:
    """One of the three services, as its factory makes it; the quality judge has no catalogue."""
    match criterion:
        case "quality":
            return create_quality(JudgeQualitySettings(**settings))
        case "compatibility":
            return create_compat(JudgeCompatSettings(data_set=data, features_cache=features_cache, **settings))
    return create_personal(JudgePersonalSettings(data_set=data, features_cache=features_cache, **settings))


@contextmanager
def serving(app: FastAPI) -> Iterator[TestClient]:
    """The app with its lifespan begun, and ready."""
    with TestClient(app) as client:
        wait_until_ready(client)
        yield client


def base64_of(image: Image) -> str:
    """As PNG."""
    return base64.b64encode(encode_png(image)).decode()


def file_of(picture: Pillow.Image, form: str = "PNG", **options: Any) -> str:
    """A picture file in base64, in whatever format."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def candidates(data: DataSet, count: int, *, split: str = "test") -> list[dict[str, Any]]:
    """Score items whose pictures are items of the catalogue, each in an outfit of its own."""
    items = []
    for n, blank in enumerate(data.blanks_of(split, count)):
        image = data.catalogue.image(blank.true_item_id)
        items.append(
            {
                "candidate_id": f"c-{n}",
                "outfit": blank.outfit.model_dump(mode="json"),
                "slot": blank.slot,
                "image": base64_of(image),
            }
        )
    return items


def noise(seed: int = 0, size_px: int = 32) -> Image:
    """A picture of nothing."""
    return np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), np.uint8)
