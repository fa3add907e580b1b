"""What tests of whole training runs share: settings of every objective, and what is looked at afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fashiondpo.diffusion.model import DiFashion
from fashiondpo.training.metrics import read_metrics
from tests.tiny_rounds import SETTINGS

DIFFUSION_DPO = SETTINGS.model_copy(update={"objective": "diffusion_dpo", "beta": 500.0})
DIFFUSION_NFT = SETTINGS.model_copy(update={"objective": "diffusion_nft", "beta": 1.0})
OBJECTIVES = pytest.mark.parametrize(
    "settings", [SETTINGS, DIFFUSION_DPO, DIFFUSION_NFT], ids=["d3po", "diffusion_dpo", "diffusion_nft"]
)


def output(bundle: DiFashion) -> Tensor:
    """Of the UNet as it is now, for always the same input."""
    generator = torch.Generator().manual_seed(0)
    inputs, prompt = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 24, 16, generator=generator)
    found: Tensor = bundle.unet(inputs, torch.tensor([500]), prompt).sample
    return found.detach()


def timeless(folder: Path) -> list[dict[str, float]]:
    """The metrics, less what the clock says."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_metrics(folder)]
