"""Train VBPR as an outfit evaluator: Bayesian personalised ranking (arXiv:1205.2618) on the outfits of a data set.

Every item of every outfit is once the positive, its outfit's other items the context. Negatives come from the same
category, so that the network must look at style and cannot get by with telling shoes from bags.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from fashiondpo.contracts import Outfit
from fashiondpo.errors import InvalidInput
from fashiondpo.judges.item_features import ItemFeatures
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.judges.weights import round_to_half
from fashiondpo.outfits.model import DataSet
from fashiondpo.telemetry import Progress, no_progress

FITB_NEGATIVES = 4
_EVALUATION_BATCH = 2048


@dataclass(frozen=True)
class VBPRSettings:
    """Size and schedule; the defaults made the shipped model.

    Attributes:
        same_category_negatives, random_negatives: per positive.
        evaluate_every: steps between looks at the validation outfits; the best look is kept.
        validation_outfits: how many of them are looked at.
        patience: looks without a better one before training stops early; 0: it never does.
    """

    hidden_dim: int = 192
    dim: int = 64
    shared_map: bool = False
    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    same_category_negatives: int = 4
    random_negatives: int = 1
    evaluate_every: int = 250
    validation_outfits: int = 2000
    patience: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class RankingReport:
    """How the true item ranks against wrong ones, of its category and of any.

    AUC: chance to score above one wrong item. FITB@5: share of blanks where it is above four of them.
    """

    auc_same_category: float
    fitb_same_category: float
    auc_random: float
    fitb_random: float


@dataclass(frozen=True)
class OutfitTable:
    """Outfits as rows of a feature table.

    Attributes:
        item_ids: the items that occur, ascending.
        features: of these items, shape (items, dim).
        slots: row of the item in every slot, -1 where an outfit has none. Shape (outfits, slots).
        categories: of each item, as 0, 1, … Shape (items,).
        by_category: item rows sorted by category. Shape (items,).
        places: of each item within its category. Shape (items,).
        starts, counts: where each category lies in `by_category`. Shape (categories,).
    """

    item_ids: tuple[int, ...]
    features: Tensor
    slots: Tensor
    categories: Tensor
    by_category: Tensor
    places: Tensor
    starts: Tensor
    counts: Tensor


def outfit_table(items: ItemFeatures, outfits: Sequence[Outfit]) -> OutfitTable:
    """Look up the features of every item of the outfits; items that were skipped are empty slots.

    Raises:
        InvalidInput: if no outfit has two items.
    """
    outfits = [_without_skipped(outfit, items.skipped) for outfit in outfits]
    outfits = [outfit for outfit in outfits if len(outfit.given_item_ids) > 1]
    if not outfits:
        raise InvalidInput("VBPR needs outfits of at least two items that have features")
    item_ids = sorted({item_id for outfit in outfits for item_id in outfit.given_item_ids})
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    slots = torch.full((len(outfits), max(len(outfit.item_ids) for outfit in outfits)), -1)
    for row, outfit in enumerate(outfits):
        for slot, item_id in enumerate(outfit.item_ids):
            slots[row, slot] = -1 if item_id is None else row_of[item_id]
    category_ids = torch.tensor([items.catalogue.item(item_id).category_id for item_id in item_ids])
    _, categories, counts = torch.unique(category_ids, return_inverse=True, return_counts=True)
    by_category, starts = categories.argsort(stable=True), counts.cumsum(0) - counts
    return OutfitTable(
        item_ids=tuple(item_ids),
        features=items.of(item_ids),
        slots=slots,
        categories=categories,
        by_category=by_category,
        places=by_category.argsort() - starts[categories],
        starts=starts,
        counts=counts,
    )


def _without_skipped(outfit: Outfit, skipped: Container[int]) -> Outfit:
    lacking = [slot for slot, item_id in enumerate(outfit.item_ids) if item_id is not None and item_id in skipped]
    return outfit.without(*lacking) if lacking else outfit


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -log sigmoid(positive - negative), in nats; scalar.

    Args:
        positive: scores of the true items, shape (n,).
        negative: scores of wrong items, shape (n, negatives).
    """
    return -F.logsigmoid(positive[:, None] - negative).mean()


def ranking_auc(positive: Tensor, negative: Tensor) -> float:
    """Share of (true, wrong) pairs in the right order, ties as half. Shapes (n,) and (n, negatives)."""
    difference = positive[:, None] - negative
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def fitb_accuracy(positive: Tensor, negative: Tensor) -> float:
    """Share of rows whose true item lies above every wrong one. Shapes (n,) and (n, negatives)."""
    return float((positive[:, None] > negative).all(1).double().mean())


def train_vbpr(
    items: ItemFeatures,
    data_set: DataSet,
    settings: VBPRSettings | None = None,
    *,
    train_split: str = "train",
    valid_split: str = "valid",
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[VBPR, RankingReport]:
    """Train on one split, keep what ranks best on another.

    Args:
        items: features of the data set's catalogue.
        data_set: where the outfits come from.
        settings: size and schedule.
        train_split, valid_split: their names.
        seed: decides everything random.
        progress: called after every step with the loss, and now and then with the validation AUC; a training that stops
            early does not reach its total.

    Returns:
        The best network, in eval mode, rounded to the half precision in which it is saved; and how it ranks on the
        validation split.

    Raises:
        InvalidInput: if a split has no outfits of two items.
    """
    settings = settings or VBPRSettings()
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    table = outfit_table(items, data_set.split(train_split))
    valid = outfit_table(items, data_set.split(valid_split)[: settings.validation_outfits])
    config = VBPRConfig(
        items.dim,
        settings.hidden_dim,
        settings.dim,
        settings.shared_map,
        feature_id=items.feature_id,
    )
    network = VBPR(config)
    network.standardise(table.features)
    network.to(settings.device)
    # batches are looked up where they are needed: a GPU would wait for rows that are copied to it step by step
    table, valid = (replace(of_split, features=of_split.features.to(settings.device)) for of_split in (table, valid))
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps)
    best, best_state, looks_since = -1.0, copy.deepcopy(network.state_dict()), 0
    for step in range(1, settings.steps + 1):
        scores = row_scores(network, table, *draw_rows(table, settings, generator))
        loss = bpr_loss(scores[:, 0], scores[:, 1:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        figures = {"loss": loss.item()}
        if step % settings.evaluate_every == 0 or step == settings.steps:
            figures["auc"] = rank(network, valid, seed=seed).auc_same_category
            looks_since += 1
            if figures["auc"] > best:
                best, best_state, looks_since = figures["auc"], copy.deepcopy(network.state_dict()), 0
        progress(step, settings.steps, figures)
        if settings.patience and looks_since >= settings.patience:
            break
    network.load_state_dict(best_state)
    round_to_half(network)
    network.eval().requires_grad_(False)
    return network, rank(network, valid, seed=seed)


def draw_rows(table: OutfitTable, settings: VBPRSettings, generator: Generator) -> tuple[Tensor, Tensor]:
    """A batch of training rows.

    Returns:
        Item rows, shape (batch_size, 1 + negatives), the true item first; and the rows of the other items of its outfit,
        shape (batch_size, slots - 1), -1 where there is none.
    """
    outfits = torch.randint(len(table.slots), (settings.batch_size,), generator=generator)
    # A random order of the slots with the missing ones last: the first is the positive.
    order = torch.rand(settings.batch_size, table.slots.shape[1], generator=generator)
    slots = table.slots[outfits].gather(1, (order + 2 * (table.slots[outfits] < 0)).argsort(1))
    positive, others = slots[:, 0], slots[:, 1:]
    negative = torch.cat(
        [
            sample_negatives(table, positive, settings.same_category_negatives, "same_category", generator),
            sample_negatives(table, positive, settings.random_negatives, "random", generator),
        ],
        dim=1,
    )
    return torch.cat([positive[:, None], negative], 1), others


def sample_negatives(
    table: OutfitTable,
    positive: Tensor,
    count: int,
    kind: Literal["same_category", "random"],
    generator: Generator,
) -> Tensor:
    """Wrong items for true ones, as item rows: shape (n, count) for `positive` of shape (n,).

    A category's only item has no wrong one of its category and stands for itself, which counts as a tie.
    """
    draw = torch.rand(len(positive), count, generator=generator, dtype=torch.float64)
    if kind == "random":
        pool = torch.full_like(positive, len(table.categories))
        place = positive
    else:
        category = table.categories[positive]
        pool = table.counts[category]
        place = table.places[positive]
    # One of the pool's other places: steps of 1 to pool - 1 from the true item's own, around the end.
    steps = 1 + (draw * (pool - 1)[:, None]).long()
    places = (place[:, None] + torch.where(pool[:, None] > 1, steps, 0)) % pool[:, None]
    return places if kind == "random" else table.by_category[places + table.starts[category][:, None]]


def row_scores(network: VBPR, table: OutfitTable, items: Tensor, others: Tensor) -> Tensor:
    """Scores (n, candidates) of item rows (n, candidates) against other rows (n, slots), -1 where there is none."""
    items, others = (rows.to(table.features.device) for rows in (items, others))
    device = network.feature_mean.device
    candidates, context = table.features[items], table.features[others.clamp_min(0)]
    scores: Tensor = network(candidates.to(device), context.to(device), (others >= 0).to(device))
    return scores


@torch.inference_mode()
def rank(network: VBPR, table: OutfitTable, *, seed: int = 0) -> RankingReport:
    """Rank every item of every outfit against four wrong ones of its category, and four of any."""
    generator = Generator().manual_seed(seed)
    outfits, slots = (table.slots >= 0).nonzero(as_tuple=True)
    positive = table.slots[outfits, slots]
    others = table.slots[outfits].scatter(1, slots[:, None], -1)
    figures: list[float] = []
    kinds: tuple[Literal["same_category", "random"], ...] = ("same_category", "random")
    for kind in kinds:
        negative = sample_negatives(table, positive, FITB_NEGATIVES, kind, generator)
        items = torch.cat([positive[:, None], negative], 1)
        batches = zip(torch.split(items, _EVALUATION_BATCH), torch.split(others, _EVALUATION_BATCH), strict=True)
        scores = torch.cat([row_scores(network, table, *batch).cpu() for batch in batches])
        figures += [ranking_auc(scores[:, 0], scores[:, 1:]), fitb_accuracy(scores[:, 0], scores[:, 1:])]
    return RankingReport(*figures)
