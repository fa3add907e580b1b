"""The three conditions of DiFashion for one slot: category prompt, the other garments, the user's history."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from fashiondpo.contracts import ItemSource, Outfit, SamplerSettings
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.images import white_image
from fashiondpo.outfits.model import Catalogue, Category, History, Image

NO_PICTURES: Mapping[str, Image] = MappingProxyType({})
"""Every garment is in the catalogue."""

_CACHED_LATENTS = 4096  # 64 KiB each at 512 px


@dataclass(frozen=True)
class Conditions:
    """Conditioning of one slot.

    Attributes:
        prompt_embeds, null_prompt_embeds: text encodings of the category prompt and of the empty prompt, (l, d).
        mutual_latents: what the mutual encoder made of the other items, (c, h, w); or (k, t, c, h, w) when the other
            slots were being painted too and it changed with candidate and step.
        history_latents: mean latents of the user's items of this category, (c, h, w).
        null_latents: latents of the white image, for absent conditions, (c, h, w).
    """

    prompt_embeds: Tensor
    null_prompt_embeds: Tensor
    mutual_latents: Tensor
    history_latents: Tensor
    null_latents: Tensor

    def __post_init__(self) -> None:
        shape = self.null_latents.shape
        if len(shape) != 3 or self.history_latents.shape != shape or self.mutual_latents.shape[-3:] != shape:
            raise ValueError(
                f"latents of conditions differ in shape: null {tuple(shape)}, history "
                f"{tuple(self.history_latents.shape)}, mutual {tuple(self.mutual_latents.shape)}"
            )
        if self.prompt_embeds.ndim != 2 or self.prompt_embeds.shape != self.null_prompt_embeds.shape:
            raise ValueError(
                f"prompt embeddings must be two of one shape (l, d), got {tuple(self.prompt_embeds.shape)} and "
                f"{tuple(self.null_prompt_embeds.shape)}"
            )

    def rounded(self, dtype: torch.dtype) -> Conditions:
        """As it reads back after being stored in this type; computed with, so that a replay sees the same values."""
        return Conditions(**{name: value.to(dtype).to(value.dtype) for name, value in vars(self).items()})


@dataclass(frozen=True)
class ConditionRows:
    """Conditions of n rows of a batch, and how strongly each row follows them.

    Attributes:
        prompt_embeds: (2, n, l, d): without and with the category.
        mutual_latents, history_latents, null_latents: (n, c, h, w).
        scales: guidance (n, 3): category, mutual, history.
        mutual_weight: (n,).
    """

    prompt_embeds: Tensor
    mutual_latents: Tensor
    history_latents: Tensor
    null_latents: Tensor
    scales: Tensor
    mutual_weight: Tensor

    def with_mutual(self, mutual_latents: Tensor) -> ConditionRows:
        """The same rows with other mutual latents, (n, c, h, w)."""
        return replace(self, mutual_latents=mutual_latents)


def condition_rows(conditions: Sequence[Conditions], settings: SamplerSettings, device: torch.device) -> ConditionRows:
    """One row per condition, all following it as strongly as the settings say."""

    def rows(name: str) -> Tensor:
        return torch.stack([getattr(condition, name) for condition in conditions]).to(device)

    guidance, count = settings.guidance, len(conditions)
    return ConditionRows(
        prompt_embeds=torch.stack([rows("null_prompt_embeds"), rows("prompt_embeds")]),
        mutual_latents=rows("mutual_latents"),
        history_latents=rows("history_latents"),
        null_latents=rows("null_latents"),
        scales=torch.tensor([guidance.category, guidance.mutual, guidance.history], device=device).expand(count, 3),
        mutual_weight=torch.full((count,), settings.mutual_weight, device=device),
    )


def category_prompt(category: Category) -> str:
    """The published sentence for a category."""
    kind = f"pair of {category.name}" if category.is_paired else category.name
    return f"A photo of a {kind}, on white background, high quality"


def mixed_latents(latents: Tensor, mutual_latents: Tensor, mutual_weight: Tensor) -> Tensor:
    """(1 - w) x + w m per row. Latents (n, c, h, w), weight (n,). Source: DiFashion (arXiv:2402.17279), section 3.3."""
    weight = mutual_weight.to(latents.dtype).view(-1, *[1] * (latents.ndim - 1))
    return (1 - weight) * latents + weight * mutual_latents


def reduced_latents(latents: Tensor, reduction: str) -> Tensor:
    """Mean or sum over the other items, (n, c, h, w) to (c, h, w)."""
    return latents.mean(0) if reduction == "mean" else latents.sum(0)


class ConditionEncoder:
    """Turns outfits into conditions with a bundle's encoders; remembers latents and prompts it has made."""

    def __init__(self, bundle: DiFashion, catalogue: Catalogue, categories: Mapping[int, Category]) -> None:
        """Nothing is encoded yet.

        Raises:
            InvalidInput: if the catalogue's pictures have another size than the bundle's.
        """
        if catalogue.image_size != bundle.image_size:
            raise InvalidInput(
                f"the pictures of {catalogue.name!r} are {catalogue.image_size} px wide, but this bundle is for "
                f"{bundle.image_size} px: choose a bundle of their size, or import your pictures with --size-px "
                f"{bundle.image_size}"
            )
        self.bundle, self.catalogue, self.categories = bundle, catalogue, categories
        self._latents: OrderedDict[ItemSource, Tensor] = OrderedDict()
        self._prompts: dict[str, Tensor] = {}
        self._null: Tensor | None = None

    @property
    def null_latents(self) -> Tensor:
        """Latents of the white image, (c, h, w)."""
        if self._null is None:
            self._null = self.bundle.encode_images([white_image(self.bundle.image_size)])[0]
        return self._null

    def item_latents(self, items: Sequence[ItemSource], pictures: Mapping[str, Image] = NO_PICTURES) -> Tensor:
        """Latents of garments, (n, c, h, w).

        Args:
            items: items of the catalogue, or references of pictures.
            pictures: by reference, as large as the bundle's own.

        Raises:
            UnknownItem, MissingImages: if the catalogue has no such item, or no picture of it.
            InvalidInput: if a picture is not among those given, or has another size.
        """
        found: list[Tensor] = []
        for item in items:
            if item not in self._latents:
                # one by one: what an item's latents are must not depend on what is encoded with it
                self._latents[item] = self.bundle.encode_images([self._image(item, pictures)])[0]
            found.append(self._latents[item])
        while len(self._latents) > _CACHED_LATENTS:
            self._latents.popitem(last=False)
        return torch.stack(found) if found else self.null_latents.new_zeros((0, *self.null_latents.shape))

    def _image(self, item: ItemSource, pictures: Mapping[str, Image]) -> Image:
        if not isinstance(item, str):
            return self.catalogue.image(item)
        if item not in pictures:
            raise InvalidInput(f"the picture {item} of a garment was not given")
        picture, size = pictures[item], self.bundle.image_size
        if picture.shape != (size, size, 3):
            raise InvalidInput(f"the picture {item} must have shape {(size, size, 3)}, got {picture.shape}")
        return picture

    def check_category(self, category_id: int) -> None:
        """Raise InvalidInput if the category is unknown."""
        if category_id not in self.categories:
            raise InvalidInput(f"category {category_id} is unknown; known are {sorted(self.categories)}")

    def prompt_embeds(self, category_id: int | None) -> Tensor:
        """Encoding of the category's prompt, (l, d); of the empty prompt for None.

        Raises:
            InvalidInput: if the category is unknown.
        """
        if category_id is not None:
            self.check_category(category_id)
        text = "" if category_id is None else category_prompt(self.categories[category_id])
        if text not in self._prompts:
            self._prompts[text] = self.bundle.encode_prompts([text])[0]
        return self._prompts[text]

    def history_latents(self, items: Sequence[ItemSource], pictures: Mapping[str, Image] = NO_PICTURES) -> Tensor:
        """Mean latents of history items, (c, h, w); the null latents if there are none."""
        return self.item_latents(items, pictures).mean(0) if len(items) else self.null_latents

    def mutual_latents(self, others: Tensor, reduction: str) -> Tensor:
        """The mutual encoder's view of the other items' latents (n, c, h, w), as (c, h, w); null if there are none."""
        if len(others) == 0:
            return self.null_latents
        with torch.no_grad():
            encoded: Tensor = self.bundle.mutual_encoder(reduced_latents(others, reduction)[None])[0]
        return encoded

    def given_latents(self, outfit: Outfit, pictures: Mapping[str, Image] = NO_PICTURES) -> Tensor:
        """Latents of everything that is there, in slot order, (n, c, h, w); errors as in `item_latents`."""
        return self.item_latents(outfit.given_items, pictures)

    def encode(
        self,
        outfit: Outfit,
        slot: int,
        history: History | Sequence[ItemSource],
        settings: SamplerSettings,
        *,
        pictures: Mapping[str, Image] = NO_PICTURES,
    ) -> Conditions:
        """Conditions of one empty slot.

        Args:
            outfit: with that slot empty.
            slot: which slot to paint.
            history: of the data set, or the user's items of this category.
            settings: mutual reduction and legacy switch; conditions are rounded to `state_dtype`.
            pictures: by reference, of given garments and history items that are not in the catalogue.

        Raises:
            InvalidInput: if the slot is not empty, the category unknown, or a picture missing or of another size.
            UnknownItem, MissingImages: if the catalogue has no such item, or no picture of it.
        """
        if slot not in outfit.empty_slots:
            raise InvalidInput(f"slot {slot} of outfit {outfit.outfit_id} is not empty; empty: {outfit.empty_slots}")
        category_id = outfit.category_ids[slot]
        items = history.of(outfit.user_id, category_id) if isinstance(history, History) else history
        others = self.given_latents(outfit, pictures)
        conditions = Conditions(
            prompt_embeds=self.prompt_embeds(category_id),
            null_prompt_embeds=self.prompt_embeds(None),
            mutual_latents=self.mutual_latents(others, settings.mutual_reduction),
            history_latents=(
                self.null_latents if settings.legacy_null_history else self.history_latents(items, pictures)
            ),
            null_latents=self.null_latents,
        )
        return conditions.rounded(getattr(torch, settings.state_dtype))
