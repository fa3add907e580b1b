"""From the body of POST /generate to outfits, seeds and sampler settings: what was asked, spelt out and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from fashiondpo.contracts import ArtifactRef, ItemSource, Name, Outfit, SamplerSettings, candidate_seed
from fashiondpo.errors import InvalidInput, TooLarge
from fashiondpo.messages import GenerateRequest, ItemPicture, OutfitRequest, SamplerChoice, Slot
from fashiondpo.outfits.model import Catalogue, Category, Image

_LONGEST_HISTORY = 1024
_NAME: TypeAdapter[str] = TypeAdapter(Name)

PictureReader = Callable[[str | None, ArtifactRef | None, str], tuple[ArtifactRef, Image]]
"""From a picture in base64, or else an artifact's reference, and a name for messages, to both."""


@dataclass(frozen=True)
class OutfitPlan:
    """One outfit to paint.

    Attributes:
        outfit: with one empty slot, or several that are painted together.
        name: of its candidate set; with several empty slots, a prefix.
        set_ids: a name per empty slot, in slot order.
        seeds: per empty slot, one per candidate.
        history: by category, where the request said what the user wore; None: what the catalogue's histories know.
        pictures: by reference, every picture that outfit and history name.
    """

    outfit: Outfit
    name: str
    set_ids: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    history: Mapping[int, tuple[ItemSource, ...]] | None
    pictures: Mapping[ArtifactRef, Image]

    @property
    def rows(self) -> int:
        """Candidates over all its slots."""
        return sum(len(row) for row in self.seeds)

    def asked_again(self) -> OutfitRequest:
        """A request for the same outfit that says everything itself and refers to pictures instead of carrying them."""
        outfit = self.outfit
        worn = None if self.history is None else {c: tuple(map(_picture, of)) for c, of in self.history.items()}
        return OutfitRequest(
            user_id=outfit.user_id,
            slots=tuple(
                Slot(category_id=category_id, item_id=item_id, artifact=outfit.item_images.get(position))
                for position, (category_id, item_id) in enumerate(
                    zip(outfit.category_ids, outfit.item_ids, strict=True)
                )
            ),
            history=worn,
            outfit_id=outfit.outfit_id,
            set_id=self.name,
            seeds=self.seeds,
        )


def chosen_settings(own: SamplerSettings, choice: SamplerChoice) -> SamplerSettings:
    """The generator's own settings with what the request chose otherwise.

    Raises:
        InvalidInput: if the result has no density, because the generator's own ddim_eta is 0.
    """
    given = choice.model_dump(exclude_none=True, exclude={"guidance"})
    guidance = own.guidance.model_copy(update=choice.guidance.model_dump(exclude_none=True))
    settings = own.model_copy(update={**given, "guidance": guidance})
    if settings.ddim_eta == 0:
        raise InvalidInput("this generator's own ddim_eta is 0, which has no density: ask for a positive one")
    return settings


@dataclass(frozen=True)
class RequestReader:
    """Spells out requests.

    Attributes:
        catalogue: where item ids are looked up.
        categories: what can be painted.
        read_picture: decodes, checks and stores pictures that were sent along; fetches those that are stored.
    """

    catalogue: Catalogue
    categories: Mapping[int, Category]
    read_picture: PictureReader

    def outfits(self, request: GenerateRequest, *, prefix: str) -> tuple[OutfitPlan, ...]:
        """Every outfit of the request.

        Args:
            request: as it came in.
            prefix: start of the names of sets that the request does not name.

        Raises:
            UnknownItem: if the catalogue has no such item.
            InvalidInput: for an unknown category, a picture that cannot be read, or a set named twice.
        """
        plans = tuple(self._outfit(outfit, request, place, prefix) for place, outfit in enumerate(request.outfits))
        names = Counter(set_id for plan in plans for set_id in plan.set_ids)
        if twice := sorted(name for name, count in names.items() if count > 1):
            raise InvalidInput(f"each candidate set needs a name of its own, but these are used twice: {twice[:3]}")
        return plans

    def _outfit(self, asked: OutfitRequest, request: GenerateRequest, place: int, prefix: str) -> OutfitPlan:
        pictures = _Pictures(self.read_picture)
        outfit = self._given(asked, place, pictures)
        history = None
        if asked.history is not None:
            if (worn := sum(map(len, asked.history.values()))) > _LONGEST_HISTORY:
                raise TooLarge(f"the history of outfits[{place}] has {worn} garments; the limit is {_LONGEST_HISTORY}")
            history = {c: self._worn(c, worn, place, pictures) for c, worn in asked.history.items()}
        seeds = asked.seeds or tuple(
            tuple(candidate_seed(request.seed, 0, outfit.outfit_id, slot, k) for k in range(request.num_candidates))
            for slot in outfit.empty_slots
        )
        name = asked.set_id or f"{prefix}-{place}"
        return OutfitPlan(outfit, name, _set_ids(name, outfit.empty_slots), seeds, history, pictures.found)

    def _given(self, asked: OutfitRequest, place: int, pictures: _Pictures) -> Outfit:
        images = {
            position: pictures.read(slot, f"outfits[{place}].slots[{position}]")
            for position, slot in enumerate(asked.slots)
            if slot.image is not None or slot.artifact is not None
        }
        return Outfit(
            outfit_id=place if asked.outfit_id is None else asked.outfit_id,
            user_id=asked.user_id,
            category_ids=tuple(self._category(slot, place, position) for position, slot in enumerate(asked.slots)),
            item_ids=tuple(slot.item_id for slot in asked.slots),
            item_images=images,
        )

    def _category(self, slot: Slot, place: int, position: int) -> int:
        where = f"outfits[{place}].slots[{position}]"
        category_id = slot.category_id
        if slot.item_id is not None:
            own = self.catalogue.item(slot.item_id).category_id
            if category_id not in (None, own):
                raise InvalidInput(f"{where}: item {slot.item_id} is of category {own}, not of {category_id}")
            return own
        if category_id is None or category_id not in self.categories:
            raise InvalidInput(f"{where}: category {category_id} is unknown; known are {sorted(self.categories)}")
        return category_id

    def _worn(
        self, category_id: int, worn: Sequence[ItemPicture], place: int, pictures: _Pictures
    ) -> tuple[ItemSource, ...]:
        found: list[ItemSource] = []
        for position, item in enumerate(worn):
            if item.item_id is not None:
                found.append(self.catalogue.item(item.item_id).item_id)
            else:
                found.append(pictures.read(item, f"outfits[{place}].history[{category_id}][{position}]"))
        return tuple(found)


@dataclass
class _Pictures:
    """Reads the pictures of one outfit and remembers them."""

    read_picture: PictureReader
    found: dict[ArtifactRef, Image] = field(default_factory=dict)

    def read(self, item: Slot | ItemPicture, name: str) -> ArtifactRef:
        ref, image = self.read_picture(item.image, item.artifact, name)
        self.found[ref] = image
        return ref


def _picture(source: ItemSource) -> ItemPicture:
    return ItemPicture(item_id=source) if isinstance(source, int) else ItemPicture(artifact=source)


def _set_ids(name: str, slots: Sequence[int]) -> tuple[str, ...]:
    """The name itself for one slot; for several, painted together, with the slot's position behind."""
    names = (name,) if len(slots) == 1 else tuple(f"{name}-{slot}" for slot in slots)
    for long in names:
        try:
            _NAME.validate_python(long)
        except ValidationError as error:
            raise InvalidInput(f"{long!r} is too long for the name of a candidate set: 128 characters") from error
    return names
