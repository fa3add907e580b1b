"""VBPR training at the published size: batches drawn as tensors, against rows drawn one by one as published code does it.

Both train the same network on the same kind of rows: a true item, the other items of its outfit, four wrong items of its
category and one of any. That they have the same loss for the same rows is checked first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from measuring.mini import shared_options
from measuring.timing import alternate, print_figures
from torch import Tensor

from fashiondpo.contracts import Outfit
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.outfits.model import Item
from fashiondpo.pretraining.vbpr import (
    OutfitTable,
    VBPRSettings,
    bpr_loss,
    draw_rows,
    outfit_table,
    row_scores,
)

LARGEST_DIFFERENCE = 1e-4
"""Of the losses of the same rows: float32 sums in another order."""


@dataclass(frozen=True)
class Size:
    """Of the made-up data; the default is Polyvore-U's, with features as wide as those of ViT-B-32."""

    items: int = 119_202
    outfits: int = 26_921
    categories: int = 43
    dim: int = 512


class RandomItems:
    """A catalogue and its embeddings, made up: speed does not depend on what they say."""

    feature_id, name, image_size, skipped = "random", "random", 1, ()

    def __init__(self, size: Size, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.dim = size.dim
        self.vectors = torch.nn.functional.normalize(torch.randn(size.items, size.dim, generator=generator), dim=1)
        self.categories = torch.randint(size.categories, (size.items,), generator=generator)

    @property
    def catalogue(self) -> RandomItems:
        """Itself."""
        return self

    def item(self, item_id: int) -> Item:
        """The item."""
        return Item(item_id, int(self.categories[item_id]))

    def of(self, item_ids: Sequence[int]) -> Tensor:
        """Their vectors."""
        return self.vectors[torch.tensor(item_ids)]

    @cached_property
    def by_category(self) -> dict[int, list[int]]:
        """Item ids."""
        found: dict[int, list[int]] = {}
        for item_id, category in enumerate(self.categories.tolist()):
            found.setdefault(category, []).append(item_id)
        return found

    def outfits(self, count: int, seed: int = 1) -> list[Outfit]:
        """Four items of four categories each."""
        rng = random.Random(seed)
        kinds = sorted(self.by_category)
        chosen = [rng.sample(kinds, 4) for _ in range(count)]
        return [
            Outfit(
                outfit_id=n,
                user_id=0,
                category_ids=tuple(of_one),
                item_ids=tuple(rng.choice(self.by_category[category]) for category in of_one),
            )
            for n, of_one in enumerate(chosen)
        ]


class RowByRow:
    """Training rows made one at a time, in Python, and scored true and wrong items apart."""

    def __init__(self, table: OutfitTable, settings: VBPRSettings, seed: int) -> None:
        self.features, self.settings, self.rng = table.features, settings, random.Random(seed)
        self.outfits = table.slots.tolist()
        self.category_of = table.categories.tolist()
        self.of_category: dict[int, list[int]] = {}
        for row, category in enumerate(self.category_of):
            self.of_category.setdefault(category, []).append(row)

    def row(self) -> tuple[int, list[int], list[int]]:
        """A true item, its outfit's other items, and wrong items."""
        outfit = self.rng.choice(self.outfits)
        true = self.rng.choice(outfit)
        others = [item for item in outfit if item != true]
        pool, wrong = self.of_category[self.category_of[true]], []
        while len(wrong) < self.settings.same_category_negatives:
            if (drawn := self.rng.choice(pool)) != true or len(pool) == 1:
                wrong.append(drawn)
        while len(wrong) < self.settings.same_category_negatives + self.settings.random_negatives:
            if (drawn := self.rng.randrange(len(self.category_of))) != true:
                wrong.append(drawn)
        return true, others, wrong

    def loss(self, network: VBPR, rows: Sequence[tuple[int, list[int], list[int]]]) -> Tensor:
        """BPR loss of rows: features are stacked row by row; every wrong item goes through the network with its outfit."""
        true = torch.stack([self.features[of_true] for of_true, _, _ in rows])
        others = torch.stack([torch.stack([self.features[i] for i in of_others]) for _, of_others, _ in rows])
        is_given = torch.ones(others.shape[:2], dtype=torch.bool)
        positive = network(true[:, None], others, is_given)[:, 0]
        negative = []
        for place in range(len(rows[0][2])):
            wrong = torch.stack([self.features[of_wrong[place]] for _, _, of_wrong in rows])
            negative.append(network(wrong[:, None], others, is_given)[:, 0])
        return bpr_loss(positive, torch.stack(negative, dim=1))


class Training:
    """One scheme with a network and an optimiser of its own."""

    def __init__(self, table: OutfitTable, settings: VBPRSettings) -> None:
        torch.manual_seed(0)
        self.table, self.settings = table, settings
        self.network = VBPR(VBPRConfig(table.features.shape[1], settings.hidden_dim, settings.dim))
        self.network.standardise(table.features)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), settings.learning_rate)
        self.generator = torch.Generator().manual_seed(0)
        self.rows = RowByRow(table, settings, seed=0)

    def step(self, loss: Tensor) -> None:
        """An optimiser step."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def as_tensors(self, steps: int) -> None:
        """Train by whole batches of tensors."""
        for _ in range(steps):
            rows = draw_rows(self.table, self.settings, self.generator)
            scores = row_scores(self.network, self.table, *rows)
            self.step(bpr_loss(scores[:, 0], scores[:, 1:]))

    def row_by_row(self, steps: int) -> None:
        """Train by rows made in Python."""
        for _ in range(steps):
            self.step(self.rows.loss(self.network, [self.rows.row() for _ in range(self.settings.batch_size)]))


def check_same(training: Training) -> float:
    """The difference between both schemes' losses of the same rows; stops if it is more than rounding."""
    items, others = draw_rows(training.table, training.settings, training.generator)
    scores = row_scores(training.network, training.table, items, others)
    ours = bpr_loss(scores[:, 0], scores[:, 1:]).item()
    rows = [(of[0], context, of[1:]) for of, context in zip(items.tolist(), others.tolist(), strict=True)]
    difference = abs(ours - training.rows.loss(training.network, rows).item())
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"the schemes' losses of the same rows differ by {difference}: nothing to compare")
    return difference


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, end with one line of JSON."""
    parser = shared_options("VBPR training: batches as tensors against rows made one by one.")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round (default: 20)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    size = Size(2_000, 400, 8, 64) if options.quick else Size()
    rounds, steps = (1, 2) if options.quick else (options.rounds, options.steps)
    settings = replace(VBPRSettings(), batch_size=64 if options.quick else 1024)
    items = RandomItems(size)
    outfits = items.outfits(size.outfits)
    started = time.perf_counter()
    table = outfit_table(items, outfits)
    table_s = time.perf_counter() - started
    print(
        f"Time to train VBPR on {size.outfits:,} outfits of {size.items:,} items, features of {size.dim}: {steps} steps "
        f"of {settings.batch_size} rows; threads: {options.threads}. Looking up all features took {table_s:.2f} s."
    )
    ours, reference = Training(table, settings), Training(table, settings)
    difference = check_same(ours)
    print(f"The same rows have the same loss either way, to {difference:.1e}.")
    timings = alternate(
        {"tensors": lambda _: ours.as_tensors(steps), "row by row": lambda _: reference.row_by_row(steps)},
        rounds=rounds,
    )
    per_pass = 4 * size.outfits / settings.batch_size / steps
    pass_s = {name: timing.median_s * per_pass for name, timing in timings.items()}
    for name, timing in timings.items():
        print(f"{name}: {timing}; {pass_s[name]:.1f} s for a pass over all items of all outfits.")
    figures = {
        "ratio": timings["row by row"].median_s / timings["tensors"].median_s,
        "pass_s": pass_s["tensors"],
        "reference_pass_s": pass_s["row by row"],
        "spread": timings["tensors"].spread,
        "reference_spread": timings["row by row"].spread,
        "table_s": table_s,
        "loss_difference": difference,
    }
    print_figures(figures | {"rounds": rounds, "threads": options.threads})


if __name__ == "__main__":
    main()
