"""Colours of the mini world: twelve hues and four neutrals, the harmony rule, and reading a garment's colour back.

Angles are fractions of the colour circle; saturation and value lie in 0…1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fashiondpo.outfits.model import Image

HUES = (
    "red", "orange", "yellow", "lime", "green", "mint", "cyan", "azure", "blue", "violet", "magenta", "rose",
)  # fmt: skip
NEUTRALS = {
    "black": (0.0, 0.0, 0.15),
    "grey": (0.0, 0.0, 0.55),
    "beige": (0.10, 0.28, 0.88),
    "brown": (0.07, 0.6, 0.42),
}
COLOURS = (*HUES, *NEUTRALS)
SCHEMES = ("mono", "analogous", "complementary")

_BACKGROUND = 0.85  # the darkest channel of a background pixel, after the blur of a VAE
_FEWEST_PIXELS = 12


def is_neutral(colour: int) -> bool:
    """Whether a colour goes with everything."""
    return colour >= len(HUES)


def scheme_colours(base: int, scheme: str) -> tuple[int, ...]:
    """The hues that a scheme around a base hue allows.

    Raises:
        ValueError: if the scheme is unknown.
    """
    steps = {"mono": (0,), "analogous": (0, 1, -1), "complementary": (0, 6)}
    if scheme not in steps:
        raise ValueError(f"unknown colour scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    return tuple((base + step) % len(HUES) for step in steps[scheme])


def is_harmonious(colour: int, others: Iterable[int]) -> bool:
    """Whether some scheme explains this colour together with the others; neutrals go with everything."""
    hues = {colour, *others} - set(range(len(HUES), len(COLOURS)))
    if is_neutral(colour) or len(hues) == 1:
        return True
    return any(hues <= set(scheme_colours(base, scheme)) for base in range(len(HUES)) for scheme in SCHEMES)


def sample_rgb(colour: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A shade of a named colour. Shape (3,)."""
    if is_neutral(colour):
        hue, saturation, value = NEUTRALS[COLOURS[colour]]
        saturation = max(0.0, saturation + rng.uniform(-0.05, 0.05)) if saturation else 0.0
        value += rng.uniform(-0.05, 0.05)
    else:
        hue = (colour / len(HUES) + rng.uniform(-0.02, 0.02)) % 1
        saturation, value = rng.uniform(0.65, 0.95), rng.uniform(0.7, 0.95)
    return np.round(np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255).astype(np.uint8)


def garment_pixels(image: Image) -> NDArray[np.float64]:
    """The pixels that are no white background, shape (n, 3), 0…1.

    Args:
        image: shape (height, width, 3), 0…255.
    """
    pixels = image.reshape(-1, 3).astype(np.float64) / 255
    garment: NDArray[np.float64] = pixels[pixels.min(1) < _BACKGROUND]
    return garment


def measured_colour(image: Image) -> int | None:
    """The named colour of the garment on a white background; None if there is hardly a garment.

    Args:
        image: shape (height, width, 3), 0…255.
    """
    garment = garment_pixels(image)
    if len(garment) < _FEWEST_PIXELS:
        return None
    red, green, blue = np.median(garment, axis=0)
    return nearest_colour(*colorsys.rgb_to_hsv(float(red), float(green), float(blue)))


def nearest_colour(hue: float, saturation: float, value: float) -> int:
    """The named colour nearest to a shade."""
    black, grey = COLOURS.index("black"), COLOURS.index("grey")
    if value < 0.22:
        return black
    if saturation < 0.16:
        return black if value < 0.3 else grey
    distances = {
        colour: 12 * _hue_distance(hue, colour / len(HUES)) + 4 * max(0.0, 0.5 - saturation) + 3 * max(0.0, 0.5 - value)
        for colour in range(len(HUES))
    }
    for name in ("beige", "brown"):
        h, s, v = NEUTRALS[name]
        distances[COLOURS.index(name)] = 8 * _hue_distance(hue, h) + 4 * abs(saturation - s) + 3 * abs(value - v)
    return min(distances, key=lambda colour: distances[colour])


def _hue_distance(a: float, b: float) -> float:
    return abs((a - b + 0.5) % 1 - 0.5)
