"""Pictures of requests, stored and fitted to what the generator paints."""

from __future__ import annotations

from dataclasses import dataclass

from fashiondpo.contracts import ArtifactRef
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.images import decode_image
from fashiondpo.outfits.model import Image
from fashiondpo.serving.pictures import canonical_png, picture_from_base64
from fashiondpo.storage.artifacts import ArtifactStore
from services.generator.stored import stored_artifact


@dataclass(frozen=True)
class StoredPictureReader:
    """Reads pictures, and keeps those that were sent along: judges and later trainings look at them too.

    Attributes:
        artifacts: where they are kept.
        size_px: side of the squares that the generator works with.
        max_px: pixels that a picture may have.
    """

    artifacts: ArtifactStore
    size_px: int
    max_px: int

    def __call__(self, image: str | None, artifact: ArtifactRef | None, name: str) -> tuple[ArtifactRef, Image]:
        """A picture from base64, or else from the store: its reference, and itself as a square.

        Raises:
            InvalidInput: if it is no picture.
            TooLarge: if it has too many pixels.
            NotFound: if it is not in the store.
            Unavailable: if the store does not answer.
        """
        if image is not None:
            ref, content = canonical_png(picture_from_base64(image, max_px=self.max_px, name=name))
            self.artifacts.put(content, "png")
        elif artifact is not None:
            ref, content = artifact, stored_artifact(self.artifacts, artifact)
        else:
            raise InvalidInput(f"{name} has neither a picture nor a reference to one")
        return ref, decode_image(content, size_px=self.size_px, name=name, max_px=self.max_px)
