"""How a trained VBPR ranks: on a split's outfits, on items that no training outfit has, and on the source's own blanks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from fashiondpo.judges.item_features import ItemFeatures
from fashiondpo.judges.vbpr import VBPR
from fashiondpo.outfits.model import Blank, DataSet
from fashiondpo.pretraining.vbpr import (
    FITB_NEGATIVES,
    OutfitTable,
    RankingReport,
    fitb_accuracy,
    outfit_table,
    rank,
    ranking_auc,
    sample_negatives,
)

_BATCH = 2048


@dataclass(frozen=True)
class UnseenReport:
    """The same as of all items, where the true item and the wrong ones of its category are new to the network.

    Training outfits teach which items are liked in general, whatever they look like; here only looks can help.
    """

    auc_same_category: float
    fitb_same_category: float
    items: int


@dataclass(frozen=True)
class BlanksReport:
    """On the fill-in-the-blank tasks that the data set fixes, with its own wrong answers."""

    auc: float
    fitb: float
    blanks: int


@dataclass(frozen=True)
class SplitReport:
    """Everything about one split; None where it has nothing to look at."""

    outfits: int
    ranking: RankingReport
    unseen: UnseenReport | None
    blanks: BlanksReport | None


def evaluate_vbpr(
    network: VBPR, items: ItemFeatures, data_set: DataSet, split: str, *, trained_on: str = "train", seed: int = 0
) -> SplitReport:
    """Rank a split in all ways; `seed` decides the wrong items that are not fixed.

    Raises:
        InvalidInput: if the split has no outfits of two items.
    """
    table = outfit_table(items, data_set.split(split))
    seen = {item_id for outfit in data_set.split(trained_on) for item_id in outfit.given_item_ids}
    return SplitReport(
        outfits=len(table.slots),
        ranking=rank(network, table, seed=seed),
        unseen=rank_among(network, table, torch.tensor([i not in seen for i in table.item_ids]), seed=seed),
        blanks=rank_blanks(network, items, data_set.blanks.get(split, ())),
    )


@torch.inference_mode()
def rank_among(network: VBPR, table: OutfitTable, is_wanted: Tensor, *, seed: int = 0) -> UnseenReport | None:
    """Rank the wanted items of every outfit against four wanted ones of the same category; None if there are none.

    Args:
        network: what ranks.
        table: outfits; the other items of an outfit may be any.
        is_wanted: per item of the table, shape (items,), bool. Categories with one wanted item are left out.
        seed: decides the wrong items.
    """
    pool = _restricted(table, is_wanted)
    outfits, slots = (table.slots >= 0).nonzero(as_tuple=True)
    positive = table.slots[outfits, slots]
    is_ranked = is_wanted[positive] & (pool.counts[table.categories[positive]] > 1)
    outfits, slots, positive = outfits[is_ranked], slots[is_ranked], positive[is_ranked]
    if not len(positive):
        return None
    others = table.slots[outfits].scatter(1, slots[:, None], -1)
    negative = sample_negatives(pool, positive, FITB_NEGATIVES, "same_category", Generator().manual_seed(seed))
    scores = _scores(network, table.features, torch.cat([positive[:, None], negative], 1), others)
    of_true, of_wrong = scores[:, 0], scores[:, 1:]
    return UnseenReport(ranking_auc(of_true, of_wrong), fitb_accuracy(of_true, of_wrong), len(positive))


def _restricted(table: OutfitTable, is_wanted: Tensor) -> OutfitTable:
    """The table with only the wanted items to draw wrong ones from."""
    wanted = table.by_category[is_wanted[table.by_category]]
    counts = torch.bincount(table.categories[wanted], minlength=len(table.counts))
    starts = counts.cumsum(0) - counts
    places = torch.zeros_like(table.places)
    places[wanted] = torch.arange(len(wanted)) - starts[table.categories[wanted]]
    return replace(table, by_category=wanted, places=places, starts=starts, counts=counts)


@torch.inference_mode()
def rank_blanks(network: VBPR, items: ItemFeatures, blanks: Sequence[Blank]) -> BlanksReport | None:
    """Rank each blank's true item against its own wrong answers; None if no blank has any that can be compared.

    A blank whose true item or whose other items have no features is left out, and so are such wrong answers.
    """
    tasks = [task for task in (_Task.of(blank, items) for blank in blanks) if task is not None]
    if not tasks:
        return None
    ids = sorted({item_id for task in tasks for item_id in (*task.candidates, *task.others)})
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    candidates, others = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor([row_of[i] for i in of_one]) for of_one in rows], batch_first=True, padding_value=-1
        )
        for rows in ([task.candidates for task in tasks], [task.others for task in tasks])
    )
    scores = _scores(network, items.of(ids), candidates.clamp_min(0), others)
    of_true, of_wrong, is_there = scores[:, :1], scores[:, 1:], candidates[:, 1:] >= 0
    points = ((of_true > of_wrong).double() + 0.5 * (of_true == of_wrong).double()) * is_there
    is_won = ((of_true > of_wrong) | ~is_there).all(1)
    return BlanksReport(float((points.sum(1) / is_there.sum(1)).mean()), float(is_won.double().mean()), len(tasks))


@dataclass(frozen=True)
class _Task:
    candidates: list[int]
    others: list[int]

    @classmethod
    def of(cls, blank: Blank, items: ItemFeatures) -> _Task | None:
        wrong = [item_id for item_id in blank.negative_item_ids if item_id not in items.skipped]
        others = [item_id for item_id in blank.outfit.given_item_ids if item_id not in items.skipped]
        is_whole = blank.true_item_id not in items.skipped
        return cls([blank.true_item_id, *wrong], others) if wrong and others and is_whole else None


def _scores(network: VBPR, features: Tensor, items: Tensor, others: Tensor) -> Tensor:
    """Scores (n, candidates) of feature rows (n, candidates) against other rows (n, slots), -1 where there is none."""
    device = network.feature_mean.device
    scores = [
        network(
            features[of_items].to(device), features[of_others.clamp_min(0)].to(device), (of_others >= 0).to(device)
        ).cpu()
        for of_items, of_others in zip(torch.split(items, _BATCH), torch.split(others, _BATCH), strict=True)
    ]
    return torch.cat(scores)
