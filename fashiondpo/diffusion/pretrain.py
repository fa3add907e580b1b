"""Train a DiFashion base model from any data set: denoise whole outfits, with conditions dropped at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from fashiondpo.contracts import Outfit
from fashiondpo.diffusion.conditions import ConditionEncoder, category_prompt, mixed_latents
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.model import History
from fashiondpo.telemetry import Progress, no_progress


@dataclass(frozen=True)
class PretrainSettings:
    """Schedule of the base training; dropout rates and losses default to the published ones.

    Attributes:
        steps, outfits_per_step, learning_rate, weight_decay, max_grad_norm: the optimiser's; one-cycle schedule.
        history_dropout, mutual_dropout: chance that only this condition is dropped.
        both_dropout: chance that both are dropped together.
        category_dropout: chance that the category prompt is replaced by the empty one.
        snr_gamma: min-SNR weighting; signal-to-noise ratios above are cut to it.
        snr_floor: ratios below are raised to it, which keeps the noisiest steps in the loss; 0 leaves min-SNR as it is.
        noisy_neighbours: share of outfits whose other items are as noisy as the one to denoise, as in GOR; the rest
            sees finished neighbours, as in fill-in-the-blank.
        ema_decay: of the weights that are kept.
        is_text_trained: also train the text encoder.
    """

    steps: int = 1000
    outfits_per_step: int = 32
    learning_rate: float = 1e-5
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    history_dropout: float = 0.2
    mutual_dropout: float = 0.2
    both_dropout: float = 0.3
    category_dropout: float = 0.2
    snr_gamma: float = 5.0
    snr_floor: float = 0.0
    noisy_neighbours: float = 0.5
    ema_decay: float = 0.9999
    is_text_trained: bool = False


@dataclass(frozen=True)
class OutfitLatents:
    """Outfits as the training sees them.

    Attributes:
        latents: of the items, (o, s, c, h, w).
        categories: index into `prompts`, (o, s).
        history: index into `histories`, (o, s).
        histories: mean latents per user and category, the last row the null latents, (n, c, h, w).
        null: null latents, (c, h, w).
        category_ids: category of each prompt row; the last prompt is the empty one.
    """

    latents: Tensor
    categories: Tensor
    history: Tensor
    histories: Tensor
    null: Tensor
    category_ids: tuple[int, ...]


def encode_outfits(
    encoder: ConditionEncoder, outfits: Sequence[Outfit], history: History, *, progress: Progress = no_progress
) -> OutfitLatents:
    """Encode every item and history once.

    Raises:
        InvalidInput: if an outfit is incomplete or outfits differ in length.
    """
    if not outfits or len({len(outfit.item_ids) for outfit in outfits}) != 1:
        raise InvalidInput("base training needs outfits of one length, and at least one")
    if incomplete := [outfit.outfit_id for outfit in outfits if outfit.empty_slots]:
        raise InvalidInput(f"{len(incomplete)} outfits are incomplete, the first is {incomplete[0]}")
    category_ids = tuple(sorted(encoder.categories))
    position = {category_id: i for i, category_id in enumerate(category_ids)}
    pairs = sorted({(o.user_id, c) for o in outfits for c in o.category_ids if history.of(o.user_id, c)})
    pair_position = {pair: i for i, pair in enumerate(pairs)}
    of_items = [item for outfit in outfits for item in outfit.given_item_ids]
    total = len(of_items) + len(pairs)
    latents = _encode_in_blocks(encoder, of_items, lambda done: progress(done, total, {}))
    means = []
    for index, (user_id, category_id) in enumerate(pairs):
        means.append(encoder.history_latents(history.of(user_id, category_id)))
        progress(len(of_items) + index + 1, total, {})
    slots = len(outfits[0].item_ids)
    return OutfitLatents(
        latents=latents.view(len(outfits), slots, *latents.shape[1:]),
        categories=torch.tensor([[position[c] for c in o.category_ids] for o in outfits]),
        history=torch.tensor(
            [[pair_position.get((o.user_id, c), len(pairs)) for c in o.category_ids] for o in outfits]
        ),
        histories=torch.stack([*means, encoder.null_latents]),
        null=encoder.null_latents,
        category_ids=category_ids,
    )


def _encode_in_blocks(encoder: ConditionEncoder, item_ids: Sequence[int], tell: Callable[[int], None]) -> Tensor:
    blocks = []
    for start in range(0, len(item_ids), 512):
        blocks.append(encoder.item_latents(item_ids[start : start + 512]))
        tell(min(start + 512, len(item_ids)))
    return torch.cat(blocks)


def warm_up(steps: int) -> float:
    """Share of a one-cycle schedule in which the learning rate rises: a twentieth, but more than one step.

    With exactly one step, torch's schedule divides by zero.
    """
    return max(0.05, 1.5 / max(steps, 2))


def snr_weight(alpha: Tensor, prediction_type: str, *, gamma: float, floor: float) -> Tensor:
    """Weight of the squared error at a noise level.

    Args:
        alpha: signal share, (n,).
        prediction_type: "epsilon" divides the clipped ratio by the ratio, "v_prediction" by the ratio plus one.
        gamma: upper bound of the signal-to-noise ratio.
        floor: lower bound.

    Source: min-SNR weighting (arXiv:2303.09556), section 3.4; the floor is "truncated SNR" (arXiv:2202.00512),
    section 4.
    """
    snr = alpha / (1 - alpha)
    clipped = snr.clamp(min=floor, max=gamma)
    return clipped / (snr if prediction_type == "epsilon" else snr + 1)


def pretrain(
    bundle: DiFashion,
    encoded: OutfitLatents,
    settings: PretrainSettings,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> DiFashion:
    """Train UNet and mutual encoder (and the text encoder, if asked) in place; ends with the averaged weights.

    Args:
        bundle: its VAE is left alone.
        encoded: from `encode_outfits` with this bundle's encoders.
        settings: schedule.
        seed: of batches, noise and dropout.
        progress: told the mean loss of the last 50 steps.
    """
    torch.manual_seed(seed)
    trained: list[nn.Module] = [bundle.unet, bundle.mutual_encoder]
    trained += [bundle.text_encoder] if settings.is_text_trained else []
    for module in trained:
        module.train().requires_grad_(True)
    parameters = [p for module in trained for p in module.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.steps, pct_start=warm_up(settings.steps), final_div_factor=100
    )
    average = EMAModel(parameters, decay=settings.ema_decay)
    prompts = _PromptTable(bundle, encoded.category_ids, is_trained=settings.is_text_trained)
    recent: list[float] = []
    for step in range(settings.steps):
        loss = _outfit_loss(bundle, encoded, prompts, settings)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        average.step(parameters)
        recent = [*recent[-49:], loss.item()]
        progress(step + 1, settings.steps, {"loss": float(np.mean(recent))})
    average.copy_to(parameters)
    for module in trained:
        module.eval().requires_grad_(False)
    return bundle


class _PromptTable:
    """Text encodings of all category prompts and the empty one, made anew while the text encoder trains."""

    def __init__(self, bundle: DiFashion, category_ids: Sequence[int], *, is_trained: bool) -> None:
        if missing := [c for c in category_ids if c not in bundle.categories]:
            raise InvalidInput(f"the bundle does not know the categories {missing}")
        sentences = [category_prompt(bundle.categories[c]) for c in category_ids]
        self.bundle, self.ids = bundle, bundle.tokenize([*sentences, ""]).to(bundle.device)
        self.empty = len(category_ids)
        self.fixed = None if is_trained else self._encode()

    def __call__(self) -> Tensor:
        return self._encode() if self.fixed is None else self.fixed

    def _encode(self) -> Tensor:
        encoded: Tensor = self.bundle.text_encoder(self.ids).last_hidden_state
        return encoded


def _outfit_loss(
    bundle: DiFashion, encoded: OutfitLatents, prompts: _PromptTable, settings: PretrainSettings
) -> Tensor:
    """Weighted squared error of one random batch of outfits."""
    outfits = settings.outfits_per_step
    chosen = torch.randint(len(encoded.latents), (outfits,))
    clean = encoded.latents[chosen].to(bundle.device)
    slots = clean.shape[1]
    timesteps = torch.randint(bundle.schedule.num_train_timesteps, (outfits,))
    alpha = bundle.schedule.alphas[timesteps].float().to(bundle.device)
    noise = torch.randn_like(clean)
    signal, spread = (x.view(-1, 1, 1, 1, 1) for x in (alpha.sqrt(), (1 - alpha).sqrt()))
    noisy = signal * clean + spread * noise

    is_noisy = (torch.rand(outfits, device=clean.device) < settings.noisy_neighbours).view(-1, 1, 1, 1, 1)
    neighbours = torch.where(is_noisy, noisy, clean)
    others = (neighbours.sum(1, keepdim=True) - neighbours) / (slots - 1)
    mutual = bundle.mutual_encoder(others.flatten(0, 1))
    history = encoded.histories[encoded.history[chosen]].flatten(0, 1).to(clean.device)
    null = encoded.null.to(clean.device)
    rows = outfits * slots
    drops_mutual, drops_history, drops_category = _dropped(rows, settings)
    mutual = torch.where(drops_mutual.view(-1, 1, 1, 1).to(clean.device), null, mutual)
    history = torch.where(drops_history.view(-1, 1, 1, 1).to(clean.device), null, history)
    category = torch.where(drops_category, prompts.empty, encoded.categories[chosen].flatten())

    weight = torch.full((rows,), bundle.sampler.mutual_weight, device=clean.device)
    inputs = torch.cat([mixed_latents(noisy.flatten(0, 1), mutual, weight), history], dim=1)
    row_timesteps = timesteps.repeat_interleave(slots).to(clean.device)
    output = bundle.unet(inputs, row_timesteps, prompts()[category.to(clean.device)]).sample
    is_epsilon = bundle.schedule.prediction_type == "epsilon"
    target = noise if is_epsilon else signal * noise - spread * clean
    error: Tensor = (output - target.flatten(0, 1)).pow(2).mean((1, 2, 3))
    level_weight = snr_weight(
        alpha, bundle.schedule.prediction_type, gamma=settings.snr_gamma, floor=settings.snr_floor
    ).repeat_interleave(slots)
    return (error * level_weight).mean()


def _dropped(rows: int, settings: PretrainSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows lose mutual, history and category: one draw decides mutual and history together."""
    draw = torch.rand(rows)
    history_until = settings.history_dropout
    both_until = history_until + settings.both_dropout
    mutual_until = both_until + settings.mutual_dropout
    drops_history = draw < both_until
    drops_mutual = (draw >= history_until) & (draw < mutual_until)
    return drops_mutual, drops_history, torch.rand(rows) < settings.category_dropout
