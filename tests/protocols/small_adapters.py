"""Small adapters to put into registries, and verdicts of the gate on them."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from fashiondpo.contracts import AdapterManifest, AdapterRef, GateVerdict, Interval, content_digest
from fashiondpo.storage.adapters import AdapterRegistry

BASE = content_digest(b"base")
PROMOTED = GateVerdict(
    is_promoted=True,
    reasons=("win rate clears the threshold",),
    win_rate=Interval(mean=0.6, low=0.52, high=0.68),
    combined_delta=Interval(mean=0.1, low=0.05, high=0.15),
    diversity_ratio=0.98,
    outfits=200,
)
REJECTED = PROMOTED.model_copy(update={"is_promoted": False, "reasons": ("diversity fell", "too few outfits")})


def make_weights(value: float = 0.0) -> bytes:
    return save({"to_q.lora_A.weight": np.full((4, 8), value, np.float32)})


def publish(registry: AdapterRegistry, round_id: str = "r1", value: float = 0.0, **fields: object) -> AdapterManifest:
    arguments = {
        "base_digest": BASE,
        "parent": AdapterRef(),
        "rank": 4,
        "targets": ["to_q", "to_out.0"],
        "training": {"pairs": 120, "loss": 0.69, "optimizer": "adamw", "is_resumed": False, "limit": None},
        "verdict": PROMOTED,
    }
    return registry.publish(make_weights(value), round_id=round_id, **(arguments | fields))
