"""The objectives over recorded steps: one forward of all candidates serves all their pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fashiondpo.diffusion.conditions import mixed_latents
from fashiondpo.diffusion.ddim import PredictionType
from fashiondpo.diffusion.lora import POLICY
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import Visit, replay_log_probs, visit_conditions
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.loss import d3po_loss, diffusion_dpo_loss, diffusion_nft_loss, kl_estimate, win_shares

REFERENCE = "reference"
"""PEFT's name of the frozen parent adapter, where an objective must run the reference policy again."""

MAX_ERROR_WEIGHT = 5.0
"""Of noise prediction; the gamma of min-SNR (arXiv:2303.09556)."""

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class VisitLosses:
    """Losses of all pairs of some visits, and what tells whether they mean anything.

    Attributes:
        loss: per pair, (p,); for diffusion_nft per candidate, (n,).
        is_right: whether the policy already prefers the chosen one more than the reference does, (p,).
        margin: log-ratio of the chosen minus that of the rejected, (p,), nats per latent element.
        is_clipped: whether a clip stops the gradient of either half, (p,).
        kl: estimate of the distance to the reference, per candidate, (n,).
    """

    loss: Tensor
    is_right: Tensor
    margin: Tensor
    is_clipped: Tensor
    kl: Tensor

    def detached(self) -> VisitLosses:
        """The same figures without their graph."""
        return VisitLosses(**{field.name: getattr(self, field.name).detach().cpu() for field in fields(self)})


def visit_losses(
    bundle: DiFashion,
    visits: Sequence[Visit],
    pairs: Sequence[Pairs],
    settings: TrainSettings,
    noise_keys: Sequence[tuple[int, int, int]],
) -> VisitLosses:
    """Losses of every pair of every visit.

    Args:
        bundle: with the policy's adapter active.
        visits: recorded steps.
        pairs: per visit, (chosen, rejected) candidates.
        settings: objective, beta and clip.
        noise_keys: per visit, the seed of what diffusion_dpo draws.
    """
    if settings.objective == "d3po":
        return _d3po(bundle, visits, pairs, settings)
    if settings.objective == "diffusion_dpo":
        return _diffusion_dpo(bundle, visits, pairs, settings, noise_keys)
    return _diffusion_nft(bundle, visits, pairs, settings, noise_keys)


def loss_terms(pairs: Pairs, candidates: int, settings: TrainSettings) -> int:
    """How many losses a visit has: one per pair, or for diffusion_nft one per candidate."""
    return candidates if settings.objective == "diffusion_nft" else len(pairs)


def _d3po(bundle: DiFashion, visits: Sequence[Visit], pairs: Sequence[Pairs], settings: TrainSettings) -> VisitLosses:
    replayed = replay_log_probs(bundle.unet, bundle.schedule, visits)
    # recorded while sampling: neither a second network nor a second pass
    recorded = [visit.trajectory.log_probs[:, visit.step].to(bundle.device) for visit in visits]
    log_ratios = [now - then for now, then in zip(replayed, recorded, strict=True)]
    chosen, rejected = _gathered(log_ratios, pairs)
    loss = d3po_loss(chosen, rejected, beta=settings.beta, clip_range=settings.clip_range, sides=settings.clip_sides)
    low, high = math.log1p(-settings.clip_range), math.log1p(settings.clip_range)
    is_clipped = (chosen > high) | (rejected < low)
    if settings.clip_sides == "both":
        is_clipped |= (chosen < low) | (rejected > high)
    return VisitLosses(loss, chosen > rejected, chosen - rejected, is_clipped, kl_estimate(torch.cat(log_ratios)))


def _gathered(values: Sequence[Tensor], pairs: Sequence[Pairs]) -> tuple[Tensor, Tensor]:
    """Values of the chosen and of the rejected candidates of all pairs, two tensors of shape (p,)."""
    chosen = [value[[c for c, _ in of_visit]] for value, of_visit in zip(values, pairs, strict=True)]
    rejected = [value[[r for _, r in of_visit]] for value, of_visit in zip(values, pairs, strict=True)]
    return torch.cat(chosen), torch.cat(rejected)


def _diffusion_dpo(
    bundle: DiFashion,
    visits: Sequence[Visit],
    pairs: Sequence[Pairs],
    settings: TrainSettings,
    noise_keys: Sequence[tuple[int, int, int]],
) -> VisitLosses:
    candidates = [visit.trajectory.num_candidates for visit in visits]
    noised = _noised(bundle, visits, noise_keys)
    with torch.no_grad(), reference_policy(bundle.unet):
        reference = torch.split(noised.errors(noised.predictions(bundle.unet)), candidates)
    policy = torch.split(noised.errors(noised.predictions(bundle.unet)), candidates)
    chosen, rejected = _gathered(policy, pairs)
    chosen_reference, rejected_reference = _gathered(reference, pairs)
    loss = diffusion_dpo_loss(chosen, chosen_reference, rejected, rejected_reference, beta=settings.beta)
    margin = (chosen_reference - chosen) - (rejected_reference - rejected)
    distance = (torch.cat(policy) - torch.cat(reference)).abs()
    return VisitLosses(loss, margin > 0, margin, torch.zeros_like(margin, dtype=torch.bool), distance)


def _diffusion_nft(
    bundle: DiFashion,
    visits: Sequence[Visit],
    pairs: Sequence[Pairs],
    settings: TrainSettings,
    noise_keys: Sequence[tuple[int, int, int]],
) -> VisitLosses:
    candidates = [visit.trajectory.num_candidates for visit in visits]
    noised = _noised(bundle, visits, noise_keys)
    with torch.no_grad(), reference_policy(bundle.unet):
        reference = noised.predictions(bundle.unet)
    policy = noised.predictions(bundle.unet)
    shares = torch.cat([win_shares(p, count) for p, count in zip(pairs, candidates, strict=True)]).to(bundle.device)
    loss = noised.weights * diffusion_nft_loss(policy, reference, noised.target, shares, beta=settings.beta)
    with torch.no_grad():
        saved = noised.weights * (noised.errors(reference) - noised.errors(policy))
        chosen, rejected = _gathered(torch.split(saved, candidates), pairs)
        distance = noised.weights * (policy - reference).pow(2).flatten(1).mean(1)
    margin = chosen - rejected
    return VisitLosses(loss, margin > 0, margin, torch.zeros_like(margin, dtype=torch.bool), distance)


@dataclass(frozen=True)
class _NoisedBatch:
    """Finished latents, noised to one random level per visit; candidates of a visit share level and noise.

    Shared noise, because candidates are compared with each other and should differ in nothing else.

    Attributes:
        inputs, timesteps, prompts: of the fully conditioned prediction.
        target: what it should be, (n, c, h, w).
        weights: what turns a squared error of the prediction into one of the denoised latents, (n,).
    """

    inputs: Tensor
    timesteps: Tensor
    prompts: Tensor
    target: Tensor
    weights: Tensor

    def predictions(self, unet: UNet2DConditionModel) -> Tensor:
        """The fully conditioned prediction, (n, c, h, w), float32."""
        output: Tensor = unet(self.inputs, self.timesteps, self.prompts).sample
        return output.float()

    def errors(self, predictions: Tensor) -> Tensor:
        """Mean squared errors, (n,)."""
        return (predictions - self.target).pow(2).flatten(1).mean(1)


def _noised(bundle: DiFashion, visits: Sequence[Visit], noise_keys: Sequence[tuple[int, int, int]]) -> _NoisedBatch:
    levels, noises = [], []
    for visit, key in zip(visits, noise_keys, strict=True):
        generator = torch.Generator().manual_seed(hash(key) % 2**63)
        # the first and last 2 % of the levels teach nothing about the picture
        edge = bundle.schedule.num_train_timesteps // 50
        level = torch.randint(edge, bundle.schedule.num_train_timesteps - edge, (1,), generator=generator)
        levels.append(level.expand(visit.trajectory.num_candidates))
        noise = torch.randn(bundle.latent_shape, generator=generator)
        noises.append(noise.expand(visit.trajectory.num_candidates, *noise.shape))
    timesteps, noise = torch.cat(levels), torch.cat(noises).to(bundle.device)
    alpha = bundle.schedule.alphas[timesteps].float().to(bundle.device).view(-1, 1, 1, 1)
    clean = torch.cat([visit.trajectory.final_latents for visit in visits]).to(bundle.device)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    is_epsilon = bundle.schedule.prediction_type == "epsilon"
    target = noise if is_epsilon else alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    conditions = [condition for visit in visits for condition in visit_conditions(visit)]
    mutual = torch.stack([c.mutual_latents for c in conditions]).to(bundle.device)
    history = torch.stack([c.history_latents for c in conditions]).to(bundle.device)
    weight = torch.full((len(noisy),), visits[0].trajectory.settings.mutual_weight, device=bundle.device)
    return _NoisedBatch(
        inputs=torch.cat([mixed_latents(noisy, mutual, weight), history], dim=1).to(bundle.unet.dtype),
        timesteps=timesteps.to(bundle.device),
        prompts=torch.stack([c.prompt_embeds for c in conditions]).to(bundle.device, bundle.unet.dtype),
        target=target,
        weights=denoised_error_weights(alpha.flatten(), bundle.schedule.prediction_type),
    )


def denoised_error_weights(alpha: Tensor, prediction_type: PredictionType) -> Tensor:
    """What turns a squared error of the prediction into one of the denoised latents, (n,): 1 - a, or (1 - a) / a.

    For noise prediction it is held below 5, as the published training holds its weights: at the noisiest levels it would
    be above 200.

    Args:
        alpha: signal share, (n,).
        prediction_type: what the network predicts.
    """
    if prediction_type == "v_prediction":
        return 1 - alpha
    return ((1 - alpha) / alpha).clamp(max=MAX_ERROR_WEIGHT)


@contextmanager
def reference_policy(unet: UNet2DConditionModel) -> Iterator[None]:
    """Inside, the UNet computes as the reference: with the parent's adapter, or as the base if there is none."""
    has_parent = REFERENCE in getattr(unet, "peft_config", {})
    if has_parent:
        unet.set_adapter(REFERENCE)
    else:
        unet.disable_adapters()
    try:
        yield
    finally:
        if has_parent:
            unet.set_adapter(POLICY)
        else:
            unet.enable_adapters()
