"""Does a picture lie among real ones? Improved precision (arXiv:1904.06991), picture by picture."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 3
"""As in the paper."""

_BATCH = 512


class Manifold:
    """Real pictures as balls in a feature space: around each one, as far as to its k-th nearest real neighbour."""

    def __init__(self, features: Tensor, neighbours: int = NEIGHBOURS) -> None:
        """Take over the features of real pictures, (n, d).

        Raises:
            ValueError: if there are no more than `neighbours`.
        """
        if len(features) <= neighbours:
            raise ValueError(f"{len(features)} real pictures do not have {neighbours} neighbours each")
        self._features = features
        nearest = [
            torch.cdist(batch, features).kthvalue(neighbours + 1, dim=1).values
            for batch in torch.split(features, _BATCH)
        ]
        self._radii = torch.cat(nearest)  # the nearest of all is the picture itself

    def contains(self, features: Tensor) -> Tensor:
        """Which pictures lie in some ball: features (m, d) to (m,) bool. Their share is the precision."""
        found = [(torch.cdist(batch, self._features) <= self._radii).any(1) for batch in torch.split(features, _BATCH)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)
