"""Odd, broken and hostile pictures: each is judged as what it shows, or has the reason; the request never fails."""

import base64
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from fashiondpo.outfits.model import DataSet
from tests.api.judges.judge_apps import base64_of, candidates, file_of, serving


@pytest.fixture(scope="module")
def picture(data: DataSet) -> Pillow.Image:
    """A garment, upright."""
    return Pillow.fromarray(data.catalogue.image(data.blanks_of("test", 1)[0].true_item_id))


@pytest.fixture
def judge_picture(judges, data: DataSet):
    """The quality judge's score of a picture file in base64."""
    (item,) = candidates(data, 1)

    def ask(file: str):
        response = judges["quality"].post("/score", json={"candidates": [{**item, "image": file}]})
        assert response.status_code == 200, response.text
        return response.json()["scores"][0]

    return ask


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_claims(width: int, height: int) -> str:
    """A few bytes that unpack to a picture of this size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))).decode()


def sixteen_bit(picture: Pillow.Image) -> str:
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    return file_of(Pillow.fromarray(grey))


class TestOddPictures:
    @pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
    def test_of_any_lossless_format_are_judged_alike(self, judge_picture, picture, form):
        options = {"WEBP": {"lossless": True}}.get(form, {})
        expected = judge_picture(file_of(picture))["value"]
        tolerance = 1.0 if form == "GIF" else 1e-4  # GIF has 256 colours
        assert judge_picture(file_of(picture, form, **options))["value"] == pytest.approx(expected, abs=tolerance)

    def test_in_cmyk_are_judged(self, judge_picture, picture):
        assert judge_picture(file_of(picture.convert("CMYK"), "JPEG", quality=95))["value"] > 1

    def test_of_16_bits_are_judged_as_their_8_bits(self, judge_picture, picture):
        eight = judge_picture(file_of(picture.convert("L")))["value"]
        assert judge_picture(sixteen_bit(picture))["value"] == pytest.approx(eight, abs=0.05)  # rounding to 8 bits

    def test_with_transparency_are_laid_on_white(self, judge_picture, picture):
        pixels = np.asarray(picture)
        opaque = 255 * (pixels < 255).any(axis=2).astype(np.uint8)
        cut_out = np.dstack([np.where(opaque[..., None], pixels, 0).astype(np.uint8), opaque])
        expected = judge_picture(file_of(picture))["value"]
        assert judge_picture(file_of(Pillow.fromarray(cut_out)))["value"] == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
    def test_that_move_are_judged_by_their_first_frame(self, judge_picture, picture, form):
        black = Pillow.new("RGB", picture.size)
        options = {"WEBP": {"lossless": True}}.get(form, {})
        still = judge_picture(file_of(picture, form, **options))["value"]
        moving = file_of(picture, form, save_all=True, append_images=[black] * 3, duration=50, **options)
        assert judge_picture(moving)["value"] == pytest.approx(still, abs=1e-4)

    @pytest.mark.parametrize(
        ("orientation", "turned"), [(3, Pillow.Transpose.ROTATE_180), (6, Pillow.Transpose.ROTATE_90)]
    )
    def test_that_lie_on_their_side_are_turned_as_exif_says(self, judge_picture, picture, orientation, turned):
        exif = Pillow.Exif()
        exif[274] = orientation
        lying = file_of(picture.transpose(turned), exif=exif)
        assert judge_picture(lying)["value"] == pytest.approx(judge_picture(file_of(picture))["value"], abs=1e-4)

    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (333, 2)])
    def test_of_any_shape_are_judged(self, judge_picture, picture, size):
        assert judge_picture(file_of(picture.resize(size)))["value"] is not None

    def test_broken_into_lines_of_base64_are_judged(self, judge_picture, picture):
        text = file_of(picture)
        lines = "\r\n".join(text[start : start + 76] for start in range(0, len(text), 76))
        assert judge_picture(lines)["value"] == judge_picture(text)["value"]


class TestHostilePictures:
    def test_a_bomb_is_refused_before_it_is_decoded(self, judge_picture):
        score = judge_picture(png_that_claims(60_000, 60_000))
        assert score["reason"].startswith("too_large: image has too many pixels")

    def test_one_with_more_pixels_than_the_limit_names_both(self, judge_picture):
        reason = judge_picture(png_that_claims(5000, 5000))["reason"]
        assert reason == "too_large: image: 5000x5000 pixels are more than 16000000"

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
    def test_a_truncated_one_has_the_reason(self, judge_picture, picture, form, share):
        content = base64.b64decode(file_of(picture.resize((200, 200)), form))
        cut = content[: int(share * len(content))]
        assert judge_picture(base64.b64encode(cut).decode())["reason"].startswith("invalid_input")

    @pytest.mark.parametrize(
        "content",
        [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg xmlns='x'/>", b"\x89PNG\r\n\x1a\n", b"PK\3\4"],
        ids=["empty", "gif", "eps", "svg", "png", "zip"],
    )  # fmt: skip
    def test_what_is_no_picture_has_the_reason(self, judge_picture, content):
        assert judge_picture(base64.b64encode(content).decode())["reason"].startswith("invalid_input")

    @pytest.mark.parametrize("text", ["A", "AAAAA", "AA==AA==", "===="])
    def test_what_is_no_base64_is_refused_one_way_or_the_other(self, judges, data: DataSet, text):
        (item,) = candidates(data, 1)
        response = judges["quality"].post("/score", json={"candidates": [{**item, "image": text}]})
        assert response.status_code == 422 or response.json()["scores"][0]["value"] is None

    def test_the_pixel_limit_is_a_setting(self, open_app, data: DataSet):
        (item,) = candidates(data, 1)
        with serving(open_app("quality", max_image_px=1023)) as client:
            (score,) = client.post("/score", json={"candidates": [item]}).json()["scores"]
        assert score["reason"].startswith("too_large: image: 32x32 pixels are more than 1023")

    def test_a_bad_picture_of_a_given_garment_spoils_its_own_candidate_only(self, judges, data: DataSet):
        item, other = candidates(data, 2)
        outfit = {**item["outfit"], "item_ids": [None] * 4}
        slot = (item["slot"] + 1) % 4
        bad = {**item, "outfit": outfit, "given_images": {slot: png_that_claims(60_000, 60_000)}}
        good = {**bad, "given_images": {slot: base64_of(np.full((8, 8, 3), 99, np.uint8))}}
        answer = judges["compatibility"].post("/score", json={"candidates": [bad, good, other]}).json()
        assert [score["value"] is None for score in answer["scores"]] == [True, False, False]
        assert answer["scores"][0]["reason"].startswith(f"too_large: picture of slot {slot}")
