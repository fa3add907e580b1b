"""Sentences about a garment's category, colour and picture quality, from which CLIP learns."""

from __future__ import annotations

from fashiondpo.diffusion.conditions import category_prompt
from fashiondpo.outfits.colour import COLOURS
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.outfits.model import Category

GOOD, BAD = "good, sharp, high quality", "bad, blurry, corrupted, low quality"


def colour_caption(category: Category, colour: str, *, quality: str = "") -> str:
    """A category in a colour, with words for the picture's quality (GOOD, BAD or none)."""
    words, pair = f"{quality} " if quality else "", "pair of " if category.is_paired else ""
    return f"a {words}photo of a {pair}{colour} {category.name}, on white background"


def captions() -> list[str]:
    """Every caption of the mini CLIP: plain, good and bad ones of each category and colour, then categories alone.

    The last are the prompts that the generator is given, so that a CLIP score can compare with them.
    """
    tinted = [
        colour_caption(category, colour, quality=quality)
        for quality in ("", GOOD, BAD)
        for category in CATEGORIES.values()
        for colour in COLOURS
    ]
    return tinted + [category_prompt(category) for category in CATEGORIES.values()]
