"""Quality of the mini family: a small network that sees how damaged a picture of a garment is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from fashiondpo.contracts import JudgeInfo, Score
from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.judges.base import JudgeInput, Outcome, Scored, check_input, to_scores, unscored
from fashiondpo.judges.pixels import square_batch
from fashiondpo.judges.weights import load_into, read_config, save_module, weights_digest

LOWEST_LEVEL, HIGHEST_LEVEL = 1.0, 10.0
_BATCH = 256


@dataclass(frozen=True)
class QualityConfig:
    """Shape of the network: channels of its first layer, and the side in pixels that pictures are brought to."""

    width: int = 24
    image_size_px: int = 32


class QualityNet(nn.Module):
    """Three strided convolutions and a fourth, then one number: the log-odds that the picture is flawless."""

    def __init__(self, config: QualityConfig) -> None:
        """Fresh weights."""
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = 3
        for wider, stride in ((1, 2), (2, 2), (3, 2), (3, 1)):
            out = wider * config.width
            layers += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]
            channels = out
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, side, side) in -1…1 to log-odds (n,)."""
        log_odds: Tensor = self.head(self.body(pixels)).squeeze(1)
        return log_odds


def expected_level(log_odds: Tensor) -> Tensor:
    """The level from 1 to 10 that log-odds stand for; any shape."""
    return LOWEST_LEVEL + (HIGHEST_LEVEL - LOWEST_LEVEL) * torch.sigmoid(log_odds)


class MiniQualityJudge:
    """Expected quality level, 1…10, of each picture by itself."""

    def __init__(self, network: QualityNet, device: torch.device | str = "cpu") -> None:
        """Take over a trained network; it computes on `device`."""
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        version = f"mini-quality-{weights_digest(network.state_dict())[:12]}"
        self._info = JudgeInfo(criterion="quality", version=version, low=LOWEST_LEVEL, high=HIGHEST_LEVEL)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Load what `save` wrote; raises InvalidBundle if a part is missing or of another shape."""
        config = read_config(folder)
        try:
            network = QualityNet(QualityConfig(**config))  # type: ignore[arg-type]
        except (TypeError, RuntimeError, ValueError) as error:
            raise InvalidBundle(f"{folder} does not describe a quality network: {error}") from error
        load_into(network, folder)
        return cls(network, device)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_module(folder, self._network, asdict(self._network.config))

    @property
    def info(self) -> JudgeInfo:
        """Criterion, version and range."""
        return self._info

    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        """One score per candidate, in order."""
        outcomes: list[Outcome] = []
        ready: list[int] = []
        for row, judge_input in enumerate(inputs):
            outcomes.append(Scored(0.0))
            try:
                check_input(judge_input)
                ready.append(row)
            except InvalidInput as error:
                outcomes[row] = unscored(error)
        if ready:
            side = self._network.config.image_size_px
            pixels = square_batch([inputs[row].image for row in ready], side) * 2 - 1
            for row, level in zip(ready, expected_level(self.log_odds(pixels)), strict=True):
                outcomes[row] = Scored(float(level))
        return to_scores(inputs, self._info, outcomes)

    @torch.inference_mode()
    def log_odds(self, pixels: Tensor) -> Tensor:
        """Log-odds of being flawless for pixels (n, 3, side, side) in -1…1: shape (n,), on the CPU."""
        return torch.cat([self._network(batch.to(self._device)).cpu() for batch in torch.split(pixels, _BATCH)])
