"""DiFashion's mutual encoder: what the other garments of the outfit say about this one."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class MutualEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A two-layer perceptron from the mean of the other items' latents to latents of the same shape, within -1…1.

    Names and shapes of the parameters are those of the published weights; `category_embedding` is stored there but was
    never used.

    Source: DiFashion (arXiv:2402.17279), section 3.3.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_categories: int = 50,
        category_embedding_dim: int = 64,
        latent_channels: int = 4,
        latent_size: int = 64,
        hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        elements = latent_channels * latent_size**2
        self.category_embedding = nn.Embedding(num_categories, category_embedding_dim)
        self.mlp = nn.Sequential(
            nn.Linear(elements, hidden_dim),
            nn.LeakyReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden_dim, elements),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (n, c, h, w) to latents of the same shape and type, whatever the type of the weights."""
        encoded: Tensor = self.mlp(latents.flatten(1).to(self.dtype))
        return encoded.to(latents.dtype).view_as(latents)

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Xavier-normal weights, zero biases."""
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
