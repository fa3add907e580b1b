"""What a judge looks at, from the candidates of a request: pictures read and decoded, each candidate for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from fashiondpo.contracts import ArtifactRef, ItemSource, Outfit, content_ref
from fashiondpo.errors import FashionDPOError, InvalidInput, Unavailable
from fashiondpo.judges.base import JudgeInput, Unscored, unscored
from fashiondpo.messages import ItemPicture, ScoreItem
from fashiondpo.outfits.images import decode_image
from fashiondpo.outfits.model import Catalogue, Image
from fashiondpo.serving.pictures import decode_base64, picture_from_artifacts
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.records import first_problem
from fashiondpo.telemetry import log


@dataclass
class InputReader:
    """Reads candidates of one request. Garments that they share are read once.

    Attributes:
        artifacts: where references are looked up; None if there is no store.
        catalogue: where items to be judged are looked up; None if this judge has no catalogue.
        max_px: pixels of a picture.
        sees_outfit, sees_history: whether the judge looks at pictures of given garments, and of the history.
    """

    artifacts: ArtifactStore | None
    catalogue: Catalogue | None
    max_px: int
    sees_outfit: bool = True
    sees_history: bool = True
    _pictures: dict[ArtifactRef, Image] = field(default_factory=dict)
    _failure: Unavailable | None = None

    def read(self, item: ScoreItem) -> JudgeInput | Unscored:
        """The candidate as a judge takes it, or why it cannot be judged."""
        try:
            pictures: dict[ArtifactRef, Image] = {}
            outfit, history = item.outfit, None
            if self.sees_outfit:
                outfit = self._outfit(item, pictures)
            if self.sees_history and item.history is not None:
                history = tuple(self._garment(garment, pictures) for garment in item.history)
            return JudgeInput(item.candidate_id, outfit, item.slot, self._candidate(item), history, pictures)
        except FashionDPOError as error:
            return unscored(error)
        except Exception as error:  # noqa: BLE001 - a picture may break a decoder in ways that nobody foresaw
            log().warning("candidate_not_readable", candidate_id=item.candidate_id, error=repr(error))
            return Unscored(f"invalid_input: the candidate cannot be read ({type(error).__name__})")

    def read_all(self, items: Sequence[ScoreItem]) -> list[JudgeInput | Unscored]:
        """Every candidate, in order."""
        return [self.read(item) for item in items]

    def _candidate(self, item: ScoreItem) -> Image:
        if item.image is not None:
            return decode_image(decode_base64(item.image), max_px=self.max_px)
        if item.artifact is not None:
            return self._of_artifact(item.artifact)
        if self.catalogue is None or item.item_id is None:
            raise InvalidInput("this judge has no catalogue: send the picture")
        return self.catalogue.image(item.item_id)

    def _outfit(self, item: ScoreItem, pictures: dict[ArtifactRef, Image]) -> Outfit:
        """The outfit with the pictures that were sent along in their slots; the judged slot is nobody's context."""
        outfit = item.outfit
        if item.given_images:
            sent = {slot: self._sent(text, f"picture of slot {slot}") for slot, text in item.given_images.items()}
            pictures.update({ref: self._pictures[ref] for ref in sent.values()})
            try:
                outfit = Outfit.model_validate({**dict(outfit), "item_images": {**outfit.item_images, **sent}})
            except ValidationError as error:
                raise InvalidInput(first_problem(error)) from error
        for slot, ref in outfit.item_images.items():
            if slot != item.slot and ref not in pictures:
                pictures[ref] = self._shared(ref, lambda ref=ref: self._of_artifact(ref))  # type: ignore[misc]
        return outfit

    def _garment(self, garment: ItemPicture, pictures: dict[ArtifactRef, Image]) -> ItemSource:
        if garment.item_id is not None:
            return garment.item_id
        if garment.image is not None:
            ref = self._sent(garment.image, "a picture of the history")
            pictures[ref] = self._pictures[ref]
            return ref
        assert garment.artifact is not None
        ref = garment.artifact
        pictures[ref] = self._shared(ref, lambda: self._of_artifact(ref))
        return ref

    def _sent(self, text: str, name: str) -> ArtifactRef:
        """Keep a picture that was sent along under the digest of its file."""
        content = decode_base64(text, name)
        ref = content_ref(content, "png")
        self._shared(ref, lambda: decode_image(content, name=name, max_px=self.max_px))
        return ref

    def _shared(self, ref: ArtifactRef, read: Callable[[], Image]) -> Image:
        if ref not in self._pictures:
            self._pictures[ref] = read()
        return self._pictures[ref]

    def _of_artifact(self, ref: ArtifactRef) -> Image:
        if self._failure is not None:
            raise self._failure  # it is asked once per request, not once per candidate
        try:
            return picture_from_artifacts(ref, self.artifacts, max_px=self.max_px)
        except Unavailable as error:
            self._failure = error
            raise
