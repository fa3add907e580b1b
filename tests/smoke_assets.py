"""The mini family hardly trained, from made-up silhouettes: everything is there and runs, nothing is any good."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fashiondpo.contracts import GuidanceScales, SamplerSettings
from fashiondpo.evaluation.gate import GateSettings
from fashiondpo.outfits.fashion_mnist import SIDE
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.pretraining.mini import SMOKE_RECIPE, Figures, train_mini
from fashiondpo.run_settings import RunSettings
from fashiondpo.telemetry import Progress, no_progress
from fashiondpo.training.config import TrainSettings

PER_CATEGORY = {"train": 20, "t10k": 110}
"""Silhouettes in each file. The world's valid and test users take theirs from before and after position 100."""

SHORT_SAMPLER = SamplerSettings(
    num_inference_steps=3,
    guidance=GuidanceScales(category=3.0, mutual=2.0, history=2.0),
    mutual_weight=0.3,
    state_dtype="float32",
)
SMALL_RUN = RunSettings(
    outfits=4,
    candidates=3,
    gate_outfits=3,
    report_outfits=3,
    sampler=SHORT_SAMPLER,
    training=TrainSettings(
        learning_rate=1e-2, passes=1, outfits_per_update=2, steps_per_outfit=2, visits_per_forward=4, checkpoint_every=1
    ),
)
"""A round of seconds; three validation outfits are too few for the gate, so its adapter is refused."""

UNSEEN_CHANGE = SMALL_RUN.model_copy(
    update={
        "training": SMALL_RUN.training.model_copy(update={"learning_rate": 1e-9}),
        "gate": GateSettings(min_win_rate_low=0, min_diversity_ratio=0, min_outfits=1, max_fall=None),
    }
)
"""Its adapter paints the same pictures as before: a tie on every outfit, which this gate lets pass."""


class StoppedError(Exception):
    """Somebody pulled the plug."""


@dataclass(frozen=True)
class SmokeRun:
    """How the smoke assets came about: stopped twice, then finished after a change of settings.

    Attributes:
        silhouettes: folder of the idx files.
        folder: the finished assets.
        begun: the parts that each of the three runs began.
        kept_old_target: whether what had been at the target was there until the last run.
        figures: what the last run returned.
    """

    silhouettes: Path
    folder: Path
    begun: tuple[tuple[str, ...], ...]
    kept_old_target: bool
    figures: dict[str, Figures]


def write_silhouettes(folder: Path) -> Path:
    """Rectangles in files of Fashion-MNIST's format: each category has a height and a width of its own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, per_category in PER_CATEGORY.items():
        labels = rng.permutation(np.repeat(np.arange(len(CATEGORIES), dtype=np.uint8), per_category))
        images = np.zeros((len(labels), SIDE, SIDE), np.uint8)
        for image, label in zip(images, labels, strict=True):
            height, width = 8 + 4 * (label % 5) + rng.integers(3), 9 + 12 * (label // 5) + rng.integers(3)
            image[2 : 2 + height, 2 : 2 + width] = rng.integers(150, 255, (height, width))
        _write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        _write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)
    return folder


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), compresslevel=1))


def train_smoke_assets(folder: Path) -> SmokeRun:
    """Train them in `folder / "mini"`, with two interruptions on the way."""
    silhouettes, target = write_silhouettes(folder / "fashion-mnist"), folder / "mini"
    target.mkdir()
    (target / "old.txt").write_text("yesterday's models")
    (target / "figures.json").write_text("{}")
    before = replace(SMOKE_RECIPE, held_out=replace(SMOKE_RECIPE.held_out, steps=2))
    begun: tuple[list[str], list[str], list[str]] = ([], [], [])
    for log in begun[:2]:
        try:
            train_mini(silhouettes, target, before, progress=_stopping(log, at="generator"))
        except StoppedError:
            continue
    kept = (target / "old.txt").exists()
    figures = train_mini(silhouettes, target, SMOKE_RECIPE, progress=_stopping(begun[2]))
    return SmokeRun(silhouettes, target, tuple(map(tuple, begun)), kept, dict(figures))


def _stopping(begun: list[str], *, at: str | None = None) -> Callable[[str], Progress]:
    """Notes every part that is begun, and ends the run before one of them."""

    def begin(part: str) -> Progress:
        begun.append(part)
        if part == at:
            raise StoppedError(part)
        return no_progress

    return begin
