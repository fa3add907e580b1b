"""The held-out judge of the mini world: never trained against, so it shows whether what was learned is real.

It shares nothing with the judges that label: its own network names the garment, another one, the critic, tells garments
from what the base generator painted, a rule on pixels names the colour, and the harmony rule and the user's palette are
those from which the mini world was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from fashiondpo.contracts import ItemSource
from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.judges.base import JudgeInput, check_input
from fashiondpo.judges.manifold import Manifold
from fashiondpo.judges.pixels import square_batch
from fashiondpo.judges.weights import load_into, read_config, save_module
from fashiondpo.outfits.colour import is_harmonious, measured_colour
from fashiondpo.outfits.mini import MiniCatalogue
from fashiondpo.outfits.model import Image

_BATCH = 256
REAL_ITEMS = 4000
"""Garments of the catalogue, evenly spaced in it, among which a candidate should lie."""
CRITIC_CLASSES = 2
"""What the critic tells apart: what a generator painted, and garments."""
_CRITIC = "critic"


@dataclass(frozen=True)
class HeldOutConfig:
    """Shape of the network: channels of its first layer, categories it tells apart, side of the pictures in pixels."""

    width: int = 32
    categories: int = 10
    image_size_px: int = 32


class HeldOutNet(nn.Module):
    """Names a garment's category: three convolutions with max pooling, group norm and ReLU, then two layers."""

    def __init__(self, config: HeldOutConfig) -> None:
        """Fresh weights."""
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = 3
        for wider in (1, 2, 2):
            out = wider * config.width
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(8, out), nn.ReLU(), nn.MaxPool2d(2)]
            channels = out
        side = config.image_size_px // 8
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(channels * side * side, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, config.categories)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, side, side) in -1…1 to logits (n, categories)."""
        logits: Tensor = self.head[2:](self.features(pixels))
        return logits

    def features(self, pixels: Tensor) -> Tensor:
        """What the last layer decides by: pixels (n, 3, side, side) in -1…1 to (n, 96)."""
        found: Tensor = self.head[:2](self.body(pixels))
        return found

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load config.json and model.safetensors; raises InvalidBundle if one is missing or of another shape."""
        config = read_config(folder)
        try:
            network = cls(HeldOutConfig(**config))  # type: ignore[arg-type]
        except (TypeError, RuntimeError, ValueError) as error:
            raise InvalidBundle(f"{folder} does not describe a held-out judge: {error}") from error
        load_into(network, folder)
        return network


class HeldOutJudge:
    """Facts about a candidate, each 0 or 1: whether it looks real, shows the right category, and has a fitting colour."""

    def __init__(
        self,
        network: HeldOutNet,
        catalogue: MiniCatalogue,
        device: torch.device | str = "cpu",
        *,
        critic: HeldOutNet | None = None,
    ) -> None:
        """Take over trained networks; the catalogue knows the true colours and palettes.

        Args:
            network: names categories.
            catalogue: of the mini world.
            device: on which the networks compute.
            critic: tells what a generator painted (0) from garments (1); without one there is no `realism`.
        """
        self._network = network.to(device).eval().requires_grad_(False)
        self._critic = critic.to(device).eval().requires_grad_(False) if critic is not None else None
        self._catalogue, self._device = catalogue, device

    @classmethod
    def load(cls, folder: Path, catalogue: MiniCatalogue, device: torch.device | str = "cpu") -> Self:
        """Load what `save` wrote; raises InvalidBundle if a part is missing or of another shape."""
        critic = HeldOutNet.load(folder / _CRITIC) if (folder / _CRITIC).exists() else None
        return cls(HeldOutNet.load(folder), catalogue, device, critic=critic)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, those of the critic in a folder of their own."""
        save_module(folder, self._network, asdict(self._network.config))
        if self._critic is not None:
            save_module(folder / _CRITIC, self._critic, asdict(self._critic.config))

    def measure(
        self, inputs: Sequence[JudgeInput], true_item_ids: Sequence[int | None] | None = None
    ) -> list[dict[str, float]]:
        """Facts about each candidate, in order; a garment that cannot be made out counts 0 everywhere.

        Args:
            inputs: the candidates.
            true_item_ids: the item that was in each one's slot, where it is known; adds `colour_match`.

        Returns:
            Per candidate `realism` (whether the critic, if there is one, takes it for a garment), `precision` (whether it
            lies among real garments), `category_accuracy`, `harmony` (left out if no other garment is given; those that are
            pictures count with the colour that can be made out), `palette` and, with a true item, `colour_match`.

        Raises:
            InvalidInput: if an input is no picture, its slot or user does not exist, or a picture was not sent along.
            UnknownItem: if the catalogue lacks an item of an outfit.
            ValueError: if there is not one true item per input.
        """
        for judge_input in inputs:
            check_input(judge_input)
        true_ids = true_item_ids if true_item_ids is not None else [None] * len(inputs)
        images = [judge_input.image for judge_input in inputs]
        seen = zip(inputs, self.categories(images), self._looks(images), true_ids, strict=True)
        return [self._facts(judge_input, category, looks, true_id) for judge_input, category, looks, true_id in seen]

    def realism(self, images: Sequence[Image]) -> Tensor:
        """Log-odds, (n,), that the critic gives each picture for being a garment and not painted.

        Raises:
            ValueError: if there is no critic or no picture.
        """
        if self._critic is None or not images:
            raise ValueError("there is no critic" if self._critic is None else "there are no pictures")
        logits = self._seen(images, self._critic)
        return logits[:, 1] - logits[:, 0]

    def _looks(self, images: Sequence[Image]) -> list[dict[str, bool]]:
        """How real each picture looks, in each way in which that is known."""
        if not images:
            return []
        looks = {} if self._critic is None else {"realism": (self.realism(images) > 0).tolist()}
        looks["precision"] = self._manifold.contains(self._seen(images, self._network.features)).tolist()
        return [dict(zip(looks, of_picture, strict=True)) for of_picture in zip(*looks.values(), strict=True)]

    @cached_property
    def _manifold(self) -> Manifold:
        ids = self._catalogue.item_ids()
        some = ids[:: max(1, len(ids) // REAL_ITEMS)][:REAL_ITEMS]
        return Manifold(self._seen(list(self._catalogue.images(some)), self._network.features))

    def categories(self, images: Sequence[Image]) -> list[int]:
        """The category of each picture, by the network alone."""
        return self._seen(images, self._network).argmax(1).tolist() if images else []

    @torch.inference_mode()
    def _seen(self, images: Sequence[Image], by: Callable[[Tensor], Tensor]) -> Tensor:
        """What a part of the network makes of at least one picture, (n, …) on the CPU."""
        side = self._network.config.image_size_px
        batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
        return torch.cat([by(square_batch(batch, side, self._device) * 2 - 1).cpu() for batch in batches])

    def _facts(
        self, judge_input: JudgeInput, category: int, looks: dict[str, bool], true_item_id: int | None
    ) -> dict[str, float]:
        outfit, slot = judge_input.outfit, judge_input.slot
        colour = measured_colour(judge_input.image)
        others = [self._colour_of(item, judge_input) for item in outfit.without(slot).given_items]
        palette = self._catalogue.palette(outfit.user_id)
        is_readable = colour is not None
        facts = {name: float(is_readable and is_real) for name, is_real in looks.items()}
        facts["category_accuracy"] = float(is_readable and category == outfit.category_ids[slot])
        if others:
            facts["harmony"] = float(_goes_together(colour, others))
        facts["palette"] = float(colour in palette)
        if true_item_id is not None:
            facts["colour_match"] = float(colour == self._catalogue.colour(true_item_id))
        return facts

    def _colour_of(self, item: ItemSource, judge_input: JudgeInput) -> int | None:
        """A catalogue item's own colour; a picture's as it can be made out."""
        if not isinstance(item, str):
            return self._catalogue.colour(item)
        if item not in judge_input.pictures:
            raise InvalidInput(f"the picture {item} was not sent along")
        return measured_colour(judge_input.pictures[item])


def _goes_together(colour: int | None, others: Sequence[int | None]) -> bool:
    """Whether all colours can be made out and some scheme explains them."""
    known = [other for other in others if other is not None]
    return colour is not None and len(known) == len(others) and is_harmonious(colour, known)
