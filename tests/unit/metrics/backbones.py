"""Files of torchvision's networks, with random weights."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor


def random_backbone(name: str, *, seed: int = 0) -> dict[str, Tensor]:
    """A file of torchvision's model of that name, classifier and all, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device("meta"):
            shapes = getattr(torchvision.models, name)(weights=None).state_dict()
        of_features = {key: value for key, value in shapes.items() if key.startswith("features.")}
        found = {key: 0.1 * torch.randn(value.shape) for key, value in of_features.items()}
    return found | {"classifier.1.weight": torch.zeros(2, 2)}
