"""Pictures in and out: whatever a shop's folder holds becomes 8-bit RGB on white, or a clear error."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pillow

from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.images import MAX_PIXELS, decode_image, encode_png, read_image, white_image

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(picture, file_format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_that_claims(width, height):
    """A PNG of a few bytes whose header announces a large picture."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


class TestDecodeImage:
    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF"])
    def test_reads_lossless_formats_exactly(self, file_format):
        image = decode_image(encoded(Pillow.new("RGB", (3, 2), RED), file_format))
        assert image.shape == (2, 3, 3)
        assert image.dtype == np.uint8
        assert (image == RED).all()

    @pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "AVIF"])
    def test_reads_lossy_formats_closely(self, file_format):
        image = decode_image(encoded(Pillow.new("RGB", (16, 16), (200, 30, 40)), file_format, quality=95))
        assert np.abs(image.astype(int) - (200, 30, 40)).max() <= 4  # quality 95 of one flat colour

    def test_cmyk_becomes_rgb(self):
        image = decode_image(encoded(Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
        assert np.abs(image.astype(int) - RED).max() <= 4

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    @pytest.mark.parametrize(("value", "expected"), [(65535, 255), (32768, 127), (200, 0), (0, 0)])
    def test_16_bit_keeps_its_brightness_even_where_all_is_dark(self, file_format, value, expected):
        picture = Pillow.fromarray(np.full((4, 4), value, dtype=np.uint16))
        assert (decode_image(encoded(picture, file_format)) == expected).all()

    @pytest.mark.parametrize(("value", "expected"), [(200, 200), (51400, 200), (np.nan, 0), (-5, 0)])
    def test_floating_point_is_read_on_the_scale_it_uses(self, value, expected):
        picture = Pillow.fromarray(np.full((4, 4), value, dtype=np.float32))
        assert (decode_image(encoded(picture, "TIFF")) == expected).all()

    @pytest.mark.parametrize("mode", ["1", "L"])
    def test_grey_becomes_three_equal_channels(self, mode):
        assert (decode_image(encoded(Pillow.new(mode, (2, 2), 255), "PNG")) == 255).all()

    def test_a_palette_is_looked_up(self):
        assert (decode_image(encoded(Pillow.new("RGB", (2, 2), GREEN).convert("P"), "PNG")) == GREEN).all()

    @pytest.mark.parametrize(
        ("alpha", "expected"), [(0, WHITE), (255, RED), (128, (255, 127, 127))], ids=["clear", "opaque", "half"]
    )
    def test_transparency_is_laid_on_white(self, alpha, expected):
        image = decode_image(encoded(Pillow.new("RGBA", (2, 2), (*RED, alpha)), "PNG"))
        assert np.abs(image.astype(int) - expected).max() <= 1

    def test_a_transparent_palette_colour_is_laid_on_white(self):
        picture = Pillow.new("RGB", (2, 2), GREEN).convert("P")
        content = encoded(picture, "PNG", transparency=picture.getpixel((0, 0)))
        assert (decode_image(content) == 255).all()

    def test_an_animation_gives_its_first_frame(self):
        frames = [Pillow.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
        assert (decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED).all()

    def test_orientation_is_applied(self):
        picture = Pillow.new("RGB", (32, 16), RED)
        picture.paste(GREEN, (0, 0, 16, 16))
        exif = Pillow.Exif()
        exif[0x0112] = 6  # the camera was turned: the stored left is the shown top
        image = decode_image(encoded(picture, "JPEG", exif=exif, quality=95))
        assert image.shape == (32, 16, 3)
        assert image[4, 8, 1] > 200 > 50 > image[28, 8, 1]

    def test_broken_exif_does_not_spoil_the_picture(self):
        content = encoded(Pillow.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0junkjunkjunk")
        assert decode_image(content).shape == (8, 8, 3)

    @pytest.mark.parametrize(("size", "corner"), [((8, 4), WHITE), ((4, 8), WHITE), ((8, 8), RED)])
    def test_fits_into_a_square_padded_with_white(self, size, corner):
        image = decode_image(encoded(Pillow.new("RGB", size, RED), "PNG"), size_px=16)
        assert image.shape == (16, 16, 3)
        assert tuple(image[8, 8]) == RED
        assert tuple(image[0, 0]) == corner

    @pytest.mark.parametrize("size", [(2000, 1), (1, 2000)])
    def test_fits_pictures_that_are_almost_a_line(self, size):
        assert decode_image(encoded(Pillow.new("RGB", size, RED), "PNG"), size_px=32).shape == (32, 32, 3)


class TestAnUnreadablePicture:
    @pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
    def test_is_named(self, content):
        with pytest.raises(InvalidInput, match=r"shoes/7\.jpg is not a readable picture"):
            decode_image(content, name="shoes/7.jpg")

    @pytest.mark.parametrize("file_format", ["EPS", "PDF", "ICO", "PPM"])
    def test_includes_formats_that_shops_do_not_use_and_pillow_would_start_programs_for(self, file_format):
        with pytest.raises(InvalidInput, match="none of JPEG, PNG"):
            decode_image(encoded(Pillow.new("RGB", (8, 8)), file_format))

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_includes_truncated_ones(self, file_format):
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        content = encoded(Pillow.fromarray(noise), file_format)
        with pytest.raises(InvalidInput, match="not a readable picture"):
            decode_image(content[: len(content) // 2])

    @pytest.mark.parametrize("side", [8_001, 9_600, 14_000, 60_000])
    @pytest.mark.parametrize("strictness", ["ignore", "error"])
    def test_includes_decompression_bombs_which_are_not_decoded(self, side, strictness):
        assert side * side > MAX_PIXELS
        with warnings.catch_warnings():
            warnings.simplefilter(strictness, Pillow.DecompressionBombWarning)
            with pytest.raises(InvalidInput, match="pixels"):
                decode_image(png_that_claims(side, side))

    @given(data=st.data())
    def test_never_raises_anything_else(self, data):
        content = bytearray(encoded(Pillow.new("RGB", (5, 5), RED), data.draw(st.sampled_from(["PNG", "JPEG", "GIF"]))))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(InvalidInput):
            assert decode_image(bytes(content), size_px=4).shape == (4, 4, 3)


class TestReadImage:
    def test_reads_a_file(self, tmp_path):
        (tmp_path / "a.png").write_bytes(encoded(Pillow.new("RGB", (3, 2), RED), "PNG"))
        assert read_image(tmp_path / "a.png", size_px=8).shape == (8, 8, 3)

    @pytest.mark.parametrize("name", ["absent.png", ""])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, name):
        with pytest.raises(InvalidInput, match=f"{(tmp_path / name).name} cannot be read"):
            read_image(tmp_path / name)


class TestEncodePng:
    @given(image=arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
    def test_decoding_gives_the_same_pixels(self, image):
        assert (decode_image(encode_png(image)) == image).all()

    def test_the_same_pixels_give_the_same_bytes(self):
        assert encode_png(white_image(7)) == encode_png(white_image(7).copy())

    @pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
    def test_refuses_what_is_no_8_bit_rgb(self, image):
        with pytest.raises(ValueError, match=r"expected uint8 of shape \(height, width, 3\), got"):
            encode_png(image)


class TestWhiteImage:
    def test_is_white_throughout(self):
        assert white_image(5).shape == (5, 5, 3)
        assert (white_image(5) == 255).all()
