"""The metrics of a training run, a JSON line per update. Light: whoever shows them need not load torch."""

from __future__ import annotations

import json
from pathlib import Path

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics rows of a run, oldest first; a last line that was cut off is left out."""
    path = folder / METRICS_FILE
    rows: list[dict[str, float]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
