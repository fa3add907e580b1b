"""What tests of the generator service ask for, and adapters of its tiny bundle."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import load_bundle
from tests.tiny_models import random_adapter

READER, PAINTER, OTHER_PAINTER, TRAINER, CHIEF = (
    f"{name}-0123456789abcdef" for name in ("reader", "painter", "other", "trainer", "chief")
)
KEYS = (
    f"ann:read:{READER} ben:generate:{PAINTER} bea:generate:{OTHER_PAINTER} "
    f"cleo:generate+train:{TRAINER} dora:admin:{CHIEF}"
)
EVENTS = {"Accept": "text/event-stream"}
ASYNC = {"Prefer": "respond-async"}
LONG = 900
"""Denoising steps of a generation that is still painted when the test has looked."""


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def completion(*, steps: int | None = None, slots: list[dict] | None = None, **more: object) -> dict:
    """A body of POST /generate: one outfit of the mini catalogue with an empty slot; `more` goes to the request."""
    outfit: dict[str, object] = {
        "user_id": 1,
        "slots": slots or [{"item_id": 6}, {"item_id": 40}, {"category_id": 8}],
    }
    for name in ("set_id", "outfit_id", "seeds", "history"):
        if name in more:
            outfit[name] = more.pop(name)
    body: dict = {"outfits": [outfit], "num_candidates": 2, **more}
    if steps is not None:
        body["sampler"] = {"num_inference_steps": steps}
    return body


def adapter_of(bundle_folder: Path, *, seed: int = 1, rank: int = 4, scale: float = 0.3) -> AdapterWeights:
    """Weights that change what the bundle paints."""
    return random_adapter(load_bundle(bundle_folder), rank=rank, seed=seed, scale=scale)


def registration(content: bytes, name: str, **more: object) -> dict:
    """A body of POST /adapters."""
    return {"weights": base64.b64encode(content).decode(), "round_id": name, **more}


def events_of(lines: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """Names and data of a stream's events."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
