"""Train the mini family's CLIP (arXiv:2103.00020) with open_clip: garments, their colours, and words for quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fashiondpo.judges.features import OpenClipFeatures, tokenize
from fashiondpo.judges.pixels import square_batch
from fashiondpo.judges.weights import round_to_half
from fashiondpo.outfits.colour import COLOURS
from fashiondpo.outfits.fashion_mnist import Silhouettes
from fashiondpo.outfits.mini import CATEGORIES, IMAGE_SIZE_PX
from fashiondpo.pretraining.captions import captions
from fashiondpo.pretraining.corruptions import corrupt
from fashiondpo.pretraining.garments import Garments, sample_garments
from fashiondpo.telemetry import Progress, no_progress

NAME = "mini-ViT-8-32"
_MEAN = _STD = (0.5, 0.5, 0.5)
_MAX_LOG_SCALE = 4.6  # logits at most 100 times the cosine, as CLIP has it
_LEAST_DAMAGE = 0.35  # weaker corruptions hardly show: no words for them


@dataclass(frozen=True)
class ClipSettings:
    """Size and schedule; the defaults made the shipped model."""

    embed_dim: int = 128
    vision_width: int = 128
    vision_layers: int = 3
    patch_px: int = 8
    text_width: int = 96
    text_layers: int = 2
    context_length: int = 24
    steps: int = 500
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    device: str = "cpu"


@dataclass(frozen=True)
class ClipReport:
    """Zero-shot accuracy on unseen garments: of the category, the colour, and both at once (160 ways)."""

    category_accuracy: float
    colour_accuracy: float
    both_accuracy: float


def clip_config(settings: ClipSettings, vocabulary: int) -> dict[str, Any]:
    """The open_clip model configuration; `vocabulary` counts the tokenizer's tokens."""
    return {
        "embed_dim": settings.embed_dim,
        "vision_cfg": {
            "image_size": IMAGE_SIZE_PX,
            "layers": settings.vision_layers,
            "width": settings.vision_width,
            "head_width": 32,
            "patch_size": settings.patch_px,
        },
        "text_cfg": {
            "context_length": settings.context_length,
            "vocab_size": vocabulary,
            "width": settings.text_width,
            "heads": 4,
            "layers": settings.text_layers,
        },
    }


def build_clip(config: dict[str, Any]) -> nn.Module:
    """A fresh open_clip model of this configuration."""
    model: nn.Module = open_clip.CLIP(**config)
    open_clip.set_model_preprocess_cfg(model, {"size": IMAGE_SIZE_PX, "mean": _MEAN, "std": _STD})
    return model


def soft_contrastive_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy where several captions may fit an image and several images a caption.

    Args:
        logits: scaled similarity of image i and caption j, shape (n, n).
        matches: whether caption j is true of image i, shape (n, n), bool; at least one per row and column.

    Returns:
        Scalar, in nats. With exactly the diagonal matching it is the loss of arXiv:2103.00020.
    """
    targets = matches.to(logits.dtype)
    of_images = (F.log_softmax(logits, 1) * targets / targets.sum(1, keepdim=True)).sum(1)
    of_captions = (F.log_softmax(logits, 0) * targets / targets.sum(0, keepdim=True)).sum(0)
    return -0.5 * (of_images.mean() + of_captions.mean())


def train_clip(
    silhouettes: Silhouettes,
    tokenizer: Any,
    settings: ClipSettings | None = None,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> OpenClipFeatures:
    """Train on endlessly re-tinted silhouettes.

    A quarter of the images is corrupted and captioned so; the others are captioned as good, plainly, or by category.

    Args:
        silhouettes: what garments are made of.
        tokenizer: transformers CLIPTokenizer whose end-of-text token has the highest id.
        settings: size and schedule.
        seed: decides everything random.
        progress: called after every step with the loss.

    Returns:
        The features, with weights already rounded to the half precision in which they are saved.
    """
    settings = settings or ClipSettings()
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    config = clip_config(settings, len(tokenizer))
    model = build_clip(config).to(settings.device)
    tokens = tokenize(tokenizer, captions(), settings.context_length)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps, pct_start=0.1)
    for step in range(settings.steps):
        garments = sample_garments(silhouettes, settings.batch_size, rng)
        pixels, chosen, matches = _captioned(garments, generator)
        images, texts, scale = model(pixels.to(settings.device), tokens[chosen].to(settings.device))
        loss = soft_contrastive_loss(scale * images @ texts.T, matches.to(settings.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, _MAX_LOG_SCALE)  # type: ignore[operator]
        progress(step + 1, settings.steps, {"loss": loss.item()})
    round_to_half(model)
    return OpenClipFeatures(model, name=NAME, config=config, tokenizer=tokenizer, device=settings.device)


def _captioned(garments: Garments, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 3, h, w), a caption for each (n,) as positions in `captions()`, and which captions are true (n, n)."""
    count = len(garments.images)
    categories, colours = torch.from_numpy(garments.categories), torch.from_numpy(garments.colours)
    kinds = torch.randint(4, (count,), generator=generator)  # plain, good, bad, category alone
    is_bad, is_category = kinds == 2, kinds == 3
    pixels = square_batch(list(garments.images), IMAGE_SIZE_PX) * 2 - 1
    grain = 0.02 * torch.rand(count, 1, 1, 1, generator=generator)
    pixels = pixels + grain * torch.randn(pixels.shape, generator=generator)
    strength = _LEAST_DAMAGE + (1 - _LEAST_DAMAGE) * torch.rand(count, generator=generator)
    pixels[is_bad] = corrupt(pixels[is_bad], strength[is_bad], generator)
    tinted = (kinds * len(CATEGORIES) + categories) * len(COLOURS) + colours
    alone = 3 * len(CATEGORIES) * len(COLOURS) + categories
    same_category = categories[:, None] == categories[None]
    same_colour = (colours[:, None] == colours[None]) | is_category[None]
    same_quality = is_bad[:, None] == is_bad[None]
    return pixels, torch.where(is_category, alone, tinted), same_category & same_colour & same_quality


def clip_report(features: OpenClipFeatures, garments: Garments) -> ClipReport:
    """How often the best of the 160 plain captions names category and colour of unseen garments."""
    texts = features.texts(captions()[: len(CATEGORIES) * len(COLOURS)])
    best: NDArray[np.int64] = (features.images(list(garments.images)) @ texts.T).argmax(1).numpy()
    category_ok, colour_ok = best // len(COLOURS) == garments.categories, best % len(COLOURS) == garments.colours
    return ClipReport(float(category_ok.mean()), float(colour_ok.mean()), float((category_ok & colour_ok).mean()))
