"""Odd, broken and hostile pictures in POST /generate: painted with as what they show, or refused with the reason."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.generator_calls import completion

GARMENT = Pillow.fromarray(np.kron(np.array([[200, 40], [90, 250]], np.uint8), np.ones((20, 20), np.uint8)))


def file_of(picture: Pillow.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def sideways() -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return file_of(GARMENT.convert("RGB"), exif=exif)


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


ODD = {
    "CMYK": file_of(GARMENT.convert("CMYK"), "JPEG"),
    "16 bits": file_of(Pillow.fromarray(np.asarray(GARMENT).astype(np.uint16) * 257)),
    "transparent": file_of(GARMENT.convert("LA")),
    "animated": file_of(GARMENT, "GIF", save_all=True, append_images=[GARMENT.rotate(90)]),
    "on its side": sideways(),
}
REFUSED = {
    "bomb": (bomb(), 413, "too_large"),
    "truncated": (file_of(GARMENT)[:60], 400, "invalid_input"),
    "no picture": (b"%!PS-Adobe-3.0 EPSF-3.0", 400, "invalid_input"),
}


def answer(client, content: bytes):
    image = base64.b64encode(content).decode()
    slots = [{"category_id": 1, "image": image}, {"item_id": 6}, {"category_id": 8}]
    return client.post("/generate", json=completion(slots=slots))


class TestOddPicture:
    @pytest.mark.parametrize("content", ODD.values(), ids=ODD)
    def test_is_painted_with(self, client, content):
        assert answer(client, content).status_code == 200

    def test_on_its_side_is_turned_as_exif_says(self, client):
        turned = answer(client, file_of(GARMENT.convert("RGB").rotate(-90, expand=True)))
        assert _images(answer(client, sideways())) == _images(turned)


class TestHostilePicture:
    @pytest.mark.parametrize(("content", "status", "code"), REFUSED.values(), ids=REFUSED)
    def test_is_refused_with_the_reason(self, client, content, status, code):
        refused = answer(client, content)
        assert (refused.status_code, refused.json()["code"]) == (status, code)


def _images(response) -> list[str]:
    return [candidate["image"] for made in response.json()["candidate_sets"] for candidate in made["candidates"]]
