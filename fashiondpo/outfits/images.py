"""Pictures in and out: decoding, fitting to a square, encoding as PNG."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from fashiondpo.errors import InvalidInput, TooLarge
from fashiondpo.outfits.model import Image

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded (decompression bombs)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is decoded. Pillow knows more, among them formats that start other programs (EPS starts Ghostscript)."""


def decode_image(content: bytes, *, size_px: int | None = None, name: str = "image", max_px: int = MAX_PIXELS) -> Image:
    """A picture file's content as RGB.

    Orientation from EXIF is applied, transparency is laid on white, animations give their first frame, 16-bit and CMYK
    become 8-bit RGB.

    Args:
        content: the file.
        size_px: side of the square to fit it into, padded with white; None keeps its size.
        name: for the message.
        max_px: pixels that it may have.

    Returns:
        Shape (height, width, 3), or (size_px, size_px, 3).

    Raises:
        TooLarge: if it has more pixels; it is not decoded then.
        InvalidInput: if it is no picture of one of FORMATS, or is truncated.
    """
    try:
        with Pillow.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > max_px:
                raise TooLarge(f"{name}: {opened.width}x{opened.height} pixels are more than {max_px}")
            opened.load()
            picture = _on_white(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise InvalidInput(f"{name} is not a readable picture: it is none of {', '.join(FORMATS)}") from error
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise TooLarge(f"{name} has too many pixels: {error}") from error
    except _UNREADABLE as error:
        raise InvalidInput(f"{name} is not a readable picture: {error}") from error
    if size_px is not None and picture.size != (size_px, size_px):
        picture = ImageOps.pad(picture, (size_px, size_px), Pillow.Resampling.LANCZOS, color=(255, 255, 255))
    return np.asarray(picture, dtype=np.uint8)


_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises for broken files. Its warning of many pixels is raised where warnings are made errors."""


def _on_white(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        # "I;16" says its depth; 32-bit modes hold 8-bit values as often as 16-bit ones
        scale = 65535 if picture.mode.startswith("I;16") or values.max(initial=0) > 255 else 255
        picture = Pillow.fromarray((values.clip(0, scale) * (255 / scale)).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Pillow.alpha_composite(white, picture)
    return picture.convert("RGB")


def read_image(path: Path, *, size_px: int | None = None) -> Image:
    """A picture file as RGB; see `decode_image`. Raises InvalidInput if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror})") from error
    return decode_image(content, size_px=size_px, name=str(path))


def encode_png(image: Image) -> bytes:
    """The picture as a PNG file; the same pixels give the same bytes.

    Raises:
        ValueError: if it is not of shape (height, width, 3) and type uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected uint8 of shape (height, width, 3), got {image.dtype} {image.shape}")
    buffer = io.BytesIO()
    Pillow.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def white_image(size_px: int) -> Image:
    """The null image: what stands for a garment that is not there. Shape (size_px, size_px, 3)."""
    return np.full((size_px, size_px, 3), 255, dtype=np.uint8)
