"""Train the mini family's quality judge to read off how far a picture is from a flawless one.

It learns from damage of known strength, drawn continuously, and not good-or-bad: so it still ranks decent pictures among
themselves. And it learns from what the generator paints, beside real garments that went through the same VAE: a judge that
knows damage alone rewards what damage is not, fuller colours for instance, and does not see the generator's own mistakes.
Pictures that went through the VAE count as flawless, or it would learn to spot the VAE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from fashiondpo.judges.quality import MiniQualityJudge, QualityConfig, QualityNet, expected_level
from fashiondpo.judges.weights import round_to_half
from fashiondpo.pretraining.batches import as_pixels, drawn, mirrored
from fashiondpo.pretraining.corruptions import corrupt
from fashiondpo.telemetry import Progress, no_progress

BEST_TARGET = 0.9
"""Target of an undamaged picture; short of 1, so that scores do not pile up at the top of the scale."""
PAINTED_DAMAGE = 0.4
"""Label of what the generator paints: its average candidate, between a garment and one painted in too few steps."""
_CLEARLY_DAMAGED = 0.3


@dataclass(frozen=True)
class QualityPictures:
    """What the judge learns from or is tested on; all images (n, side, side, 3) uint8.

    Attributes:
        raw: undamaged pictures.
        decoded: undamaged pictures that went through the VAE.
        damaged: pictures decoded from damaged latents, or badly sampled.
        damage: how damaged each of them is, 0…1. Shape (len(damaged),).
        painted: what the generator paints.
    """

    raw: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    damaged: NDArray[np.uint8]
    damage: NDArray[np.float64]
    painted: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if len(self.damaged) != len(self.damage):
            raise ValueError(f"{len(self.damaged)} damaged pictures, but {len(self.damage)} labels")
        if len(self.damage) and not ((self.damage >= 0) & (self.damage <= 1)).all():
            raise ValueError(f"damage must lie in 0…1, got {self.damage.min()}…{self.damage.max()}")


@dataclass(frozen=True)
class QualitySettings:
    """Size and schedule; the defaults made the shipped model.

    Attributes:
        evenness: weight of the squared difference between the mean log-odds of raw and of decoded good pictures. The
            labels alone do not make them equal, because a VAE's traces look like weak damage.
    """

    evenness: float = 0.3
    width: int = 24
    steps: int = 600
    batch_size: int = 192
    learning_rate: float = 3e-3
    device: str = "cpu"


@dataclass(frozen=True)
class QualityReport:
    """How the judge does on pictures it has not seen.

    Attributes:
        auc_corrupted: that a good picture scores above a clearly corrupted one.
        auc_damaged: the same against clearly damaged decoded or sampled ones.
        rank_correlation_corrupted, rank_correlation_damaged: Spearman, of score and lack of damage.
        auc_painted: that a good decoded picture scores above one that the generator has painted.
        auc_raw_over_decoded: 0.5 is wanted: the VAE's traces must not count.
        good_mean, good_std: level of good pictures; a spread near 0 would mean saturation.
    """

    auc_corrupted: float
    auc_damaged: float
    rank_correlation_corrupted: float
    rank_correlation_damaged: float
    auc_painted: float
    auc_raw_over_decoded: float
    good_mean: float
    good_std: float


def train_quality(
    pictures: QualityPictures,
    settings: QualitySettings | None = None,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> MiniQualityJudge:
    """Train on good pictures, freshly corrupted ones, and the damaged and painted ones handed in.

    A quarter of each batch is good, a quarter is corrupted on the fly (from raw and decoded alike), an eighth damaged and
    the rest painted.

    Raises:
        ValueError: if a kind of picture is missing.
    """
    settings = settings or QualitySettings()
    if not all(map(len, (pictures.raw, pictures.decoded, pictures.damaged, pictures.painted))):
        raise ValueError("raw, decoded, damaged and painted pictures are all needed")
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    network = QualityNet(QualityConfig(settings.width, pictures.raw.shape[1])).to(settings.device)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps)
    for step in range(settings.steps):
        pixels, damage = _batch(pictures, settings.batch_size, generator)
        target = BEST_TARGET * (1 - damage) + (1 - BEST_TARGET) * damage
        log_odds = network(pixels.to(settings.device))
        loss = F.binary_cross_entropy_with_logits(log_odds, target.to(settings.device))
        raw, decoded = log_odds[: 2 * (settings.batch_size // 8)].chunk(2)
        gap = raw.mean() - decoded.mean()
        loss = loss + settings.evenness * gap**2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, settings.steps, {"loss": loss.item(), "gap": gap.item()})
    round_to_half(network)
    return MiniQualityJudge(network, settings.device)


def _batch(pictures: QualityPictures, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Pixels (size, 3, side, side) in -1…1 and damage (size,); an eighth raw and an eighth decoded good ones first."""
    eighth = size // 8
    raw, decoded = (drawn(kind, 2 * eighth, generator)[0] for kind in (pictures.raw, pictures.decoded))
    originals = torch.cat([raw[eighth:], decoded[eighth:]])
    strength = torch.rand(len(originals), generator=generator)
    damaged, rows = drawn(pictures.damaged, eighth, generator)
    painted, _ = drawn(pictures.painted, size - 5 * eighth, generator)
    pixels = torch.cat([raw[:eighth], decoded[:eighth], corrupt(originals, strength, generator), damaged, painted])
    of_damaged = torch.from_numpy(pictures.damage).float()[rows]
    damage = torch.cat([torch.zeros(2 * eighth), strength, of_damaged, torch.full((len(painted),), PAINTED_DAMAGE)])
    pixels = mirrored(pixels, generator)
    return pixels + 0.01 * torch.randn(pixels.shape, generator=generator), damage


def auc(better: Tensor, worse: Tensor) -> float:
    """Chance that one of `better` (n,) lies above one of `worse` (m,); ties count half."""
    difference = better[:, None] - worse[None]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two (n,); equal values share their mean rank."""
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    below = (values[:, None] > values[None]).sum(1)
    equal = (values[:, None] == values[None]).sum(1)
    return below.double() + (equal.double() - 1) / 2


@torch.inference_mode()
def quality_report(judge: MiniQualityJudge, pictures: QualityPictures, *, seed: int = 1) -> QualityReport:
    """Test a judge on unseen pictures; the seed decides how they are corrupted."""
    generator = Generator().manual_seed(seed)
    raw, decoded = judge.log_odds(as_pixels(pictures.raw)), judge.log_odds(as_pixels(pictures.decoded))
    good = torch.cat([raw, decoded])
    originals = torch.cat([as_pixels(pictures.raw), as_pixels(pictures.decoded)])
    strength = torch.rand(len(originals), generator=generator)
    corrupted = judge.log_odds(corrupt(originals, strength, generator))
    damaged, damage = judge.log_odds(as_pixels(pictures.damaged)), torch.from_numpy(pictures.damage)
    levels = expected_level(good)
    return QualityReport(
        auc_corrupted=auc(good, corrupted[strength > _CLEARLY_DAMAGED]),
        auc_damaged=auc(good, damaged[damage > _CLEARLY_DAMAGED]),
        rank_correlation_corrupted=rank_correlation(corrupted, -strength),
        rank_correlation_damaged=rank_correlation(damaged, -damage),
        auc_painted=auc(decoded, judge.log_odds(as_pixels(pictures.painted))),
        auc_raw_over_decoded=auc(raw, decoded),
        good_mean=float(levels.mean()),
        good_std=float(levels.std()),
    )
