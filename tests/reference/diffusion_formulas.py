"""What the sampler and the base training compute, written a second time: numpy, float64, no torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def stable_diffusion_betas(levels: int = 1000, first: float = 0.00085, last: float = 0.012) -> Array:
    """Squares of evenly spaced roots ("scaled linear")."""
    return np.linspace(math.sqrt(first), math.sqrt(last), levels) ** 2


def ddim_step(latents: Array, epsilon: Array, alpha: float, alpha_next: float, eta: float) -> tuple[Array, float]:
    """Mean and standard deviation, DDIM (arXiv:2010.02502), equations 12 and 16, one row."""
    std = eta * math.sqrt((1 - alpha_next) / (1 - alpha)) * math.sqrt(1 - alpha / alpha_next)
    clean = (latents - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
    return math.sqrt(alpha_next) * clean + math.sqrt(max(1 - alpha_next - std**2, 0)) * epsilon, std


def ddpm_posterior(latents: Array, clean: Array, alpha: float, alpha_next: float) -> tuple[Array, float]:
    """Mean and variance of the less noisy latents given both ends, DDPM (arXiv:2006.11239), equations 6 and 7.

    In DDPM's letters: alpha is alpha-bar of t, alpha_next of t - 1, beta the noise of the step between them.
    """
    beta = 1 - alpha / alpha_next
    of_clean = math.sqrt(alpha_next) * beta / (1 - alpha)
    of_latents = math.sqrt(1 - beta) * (1 - alpha_next) / (1 - alpha)
    return of_clean * clean + of_latents * latents, (1 - alpha_next) / (1 - alpha) * beta


def velocity(clean: Array, epsilon: Array, alpha: float) -> Array:
    """v of arXiv:2202.00512, section 2.4."""
    return math.sqrt(alpha) * epsilon - math.sqrt(1 - alpha) * clean


def guided(none: Array, category: Array, mutual: Array, history: Array, scales: tuple[float, float, float]) -> Array:
    """The guidance sum with every branch's coefficient worked out."""
    of_category, of_mutual, of_history = scales
    return (
        (1 - of_category) * none
        + (of_category - of_mutual) * category
        + (of_mutual - of_history) * mutual
        + of_history * history
    )


def min_snr_weight(alpha: float, prediction: str, gamma: float) -> float:
    """arXiv:2303.09556: min(SNR, gamma) for the clean image, divided by what turns its error into this target's."""
    snr = alpha / (1 - alpha)
    return min(snr, gamma) / {"epsilon": snr, "v_prediction": snr + 1}[prediction]
