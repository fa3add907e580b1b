"""What tests of the trainer's API have in hand: a client, and what lies behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi.testclient import TestClient

from fashiondpo.contracts import (
    CRITERIA,
    AdapterRef,
    Candidate,
    CandidateSet,
    Outfit,
    Score,
    content_digest,
    content_ref,
)
from fashiondpo.storage.stores import Stores
from services.trainer.queue import MemoryQueue
from tests.tiny_models import TINY_SAMPLER

BASE = content_digest(b"base")


@dataclass
class TrainerApi:
    """A client, and the stores and the queue of the service."""

    client: TestClient
    stores: Stores
    queue: MemoryQueue

    def train(self, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
        response = self.client.post("/train", json=body or {}, headers=headers)
        assert response.status_code == 202, response.text
        return dict(response.json())

    def round(self, round_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/rounds/{round_id}").json())

    def refused(self, body: object, status: int = 400) -> str:
        response = self.client.post("/train", json=body)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        return str(response.json()["detail"])

    def change(self, round_id: str, **changes: object) -> None:
        self.stores.jobs.update(round_id, lambda job: job.model_copy(update=changes))

    def record_traffic(self, count: int, *, adapter: AdapterRef = AdapterRef()) -> list[str]:  # noqa: B008 - frozen
        """Sets that the champion made while it served, with their scores."""
        names = []
        for position in range(count):
            candidate_set = recorded_set(f"traffic-{adapter.version}-{position}", adapter)
            self.stores.feedback.put_set("traffic", candidate_set)
            self.stores.feedback.put_scores(candidate_set.set_id, scores_of(candidate_set))
            self.stores.traffic.add(candidate_set)
            names.append(candidate_set.set_id)
        self.stores.traffic.claim_recorded("scorer", count)
        self.stores.traffic.mark_scored("scorer", names)
        return names


def recorded_set(set_id: str, adapter: AdapterRef = AdapterRef(), *, candidates: int = 3) -> CandidateSet:  # noqa: B008
    outfit = Outfit(outfit_id=1, user_id=2, category_ids=(0, 1, 5, 8), item_ids=(1, None, 3, 4))
    return CandidateSet(
        set_id=set_id,
        outfit=outfit,
        slot=1,
        candidates=tuple(
            Candidate(candidate_id=f"{set_id}-{k}", index=k, seed=k, image=content_ref(f"{set_id}/{k}".encode(), "png"))
            for k in range(candidates)
        ),
        sampler=TINY_SAMPLER,
        base_digest=BASE,
        adapter=adapter,
        trajectory=content_ref(set_id.encode(), "safetensors"),
    )


def scores_of(candidate_set: CandidateSet) -> list[Score]:
    return [
        Score(candidate_id=c.candidate_id, criterion=criterion, judge_version="1", value=c.index / 10)
        for c in candidate_set.candidates
        for criterion in CRITERIA
    ]


def events(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and data of server-sent events."""
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            yield fields["event"], json.loads(fields["data"])
