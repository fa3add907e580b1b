"""Pictures of requests: base64 or artifact references to RGB, within limits.

Nothing here opens a path or an address that a caller gave: a reference is a digest, and only that is looked up.
"""

from __future__ import annotations

import binascii

from fashiondpo.contracts import ArtifactRef, content_ref
from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.outfits.images import decode_image, encode_png
from fashiondpo.outfits.model import Image
from fashiondpo.storage.artifacts import ArtifactStore


def decode_base64(text: str, name: str = "image") -> bytes:
    """The bytes of a base64 text, which may be broken into lines.

    Raises:
        InvalidInput: if it is none.
    """
    try:
        return binascii.a2b_base64(text.replace("\r", "").replace("\n", ""), strict_mode=True)
    except ValueError as error:  # characters that are not ASCII, or binascii.Error
        raise InvalidInput(f"{name} is not base64: {error}") from error


def picture_from_base64(text: str, *, max_px: int, name: str = "image") -> Image:
    """A picture that was sent along, shape (height, width, 3).

    Raises:
        TooLarge: if it has more than `max_px` pixels.
        InvalidInput: if it is no base64, or no picture.
    """
    return decode_image(decode_base64(text, name), name=name, max_px=max_px)


def picture_from_artifacts(ref: ArtifactRef, artifacts: ArtifactStore | None, *, max_px: int) -> Image:
    """A picture in the artifact store, shape (height, width, 3).

    Raises:
        NotFound: if it is not there.
        InvalidInput: if there is no store, this is no reference, or what is stored is no picture.
        TooLarge: if it has more than `max_px` pixels.
        CorruptArtifact: if what is stored is damaged.
        Unavailable: if the store does not answer.
    """
    if artifacts is None:
        raise InvalidInput("this service has no artifact store: send pictures along as base64")
    try:
        content = artifacts.get(ref)
    except NotFound:
        raise NotFound(f"there is no artifact {ref}") from None  # where the store lies is nobody's business
    return decode_image(content, name=ref, max_px=max_px)


def canonical_png(image: Image) -> tuple[ArtifactRef, bytes]:
    """The picture as PNG and its reference: the same pixels, in whatever format they came, give the same reference."""
    content = encode_png(image)
    return content_ref(content, "png"), content
