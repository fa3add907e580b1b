"""Do the conditions matter? The same outfits and seeds with the right and with a stranger's history or outfit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fashiondpo.contracts import SamplerSettings, candidate_seed
from fashiondpo.diffusion.conditions import ConditionEncoder, Conditions
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import SlotTask, sample_trajectories
from fashiondpo.outfits.colour import is_harmonious, measured_colour
from fashiondpo.outfits.mini import MiniCatalogue
from fashiondpo.outfits.model import Blank, DataSet, Image
from fashiondpo.telemetry import Progress, no_progress


def measure_conditioning(
    bundle: DiFashion,
    data_set: DataSet,
    *,
    split: str = "valid",
    outfits: int = 100,
    candidates: int = 3,
    seed: int = 0,
    settings: SamplerSettings | None = None,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """How often painted garments carry the colours that user and outfit call for, and how often without the condition.

    Args:
        bundle: the generator.
        data_set: a mini world.
        split: whose users.
        outfits, candidates: sample size.
        seed: of outfits and noise.
        settings: the bundle's own unless given.

    Returns:
        `palette`: share in the user's palette, `palette_with_other_history` the same when the history condition is
        another user's; `harmony` and `harmony_with_other_outfit` likewise for the mutual condition; `colour`: share
        with exactly the true item's colour; `unreadable`: share without a readable garment.
    """
    settings = settings or bundle.sampler
    catalogue = data_set.catalogue
    if not isinstance(catalogue, MiniCatalogue):
        raise TypeError("conditioning is measured on a mini world, whose colours are known")
    blanks = data_set.blanks_of(split, outfits, seed=seed)
    encoder = ConditionEncoder(bundle, catalogue, data_set.categories)
    own = [encoder.encode(blank.outfit, blank.slot, data_set.history(split), settings) for blank in blanks]
    # a neighbour in a random order is somebody else's outfit; users have several outfits, but rarely two in a row
    others = [*own[1:], own[0]]
    variants = {
        "own": own,
        "other_history": [replace(a, history_latents=b.history_latents) for a, b in zip(own, others, strict=True)],
        "other_outfit": [replace(a, mutual_latents=b.mutual_latents) for a, b in zip(own, others, strict=True)],
    }
    total = len(variants)
    colours: dict[str, list[list[int | None]]] = {}
    for done, (name, conditions) in enumerate(variants.items()):
        painted = _painted(bundle, blanks, conditions, candidates, seed, settings)
        colours[name] = [[measured_colour(image) for image in images] for images in painted]
        progress(done + 1, total, {})
    figures = {
        "palette": _palette_share(colours["own"], blanks, catalogue),
        "palette_with_other_history": _palette_share(colours["other_history"], blanks, catalogue),
        "harmony": _harmony_share(colours["own"], blanks, catalogue),
        "harmony_with_other_outfit": _harmony_share(colours["other_outfit"], blanks, catalogue),
    }
    hits = zip(colours["own"], blanks, strict=True)
    true = [[colour == catalogue.colour(blank.true_item_id) for colour in row] for row, blank in hits]
    unreadable = [[colour is None for colour in row] for row in colours["own"]]
    return figures | {"colour": float(np.mean(true)), "unreadable": float(np.mean(unreadable))}


def _painted(
    bundle: DiFashion,
    blanks: Sequence[Blank],
    conditions: Sequence[Conditions],
    candidates: int,
    seed: int,
    settings: SamplerSettings,
) -> list[list[Image]]:
    tasks = [
        SlotTask(c, tuple(candidate_seed(seed, 0, blank.outfit.outfit_id, blank.slot, k) for k in range(candidates)))
        for c, blank in zip(conditions, blanks, strict=True)
    ]
    return [bundle.decode_latents(t.final_latents) for t in sample_trajectories(bundle, tasks, settings)]


def _palette_share(colours: Sequence[Sequence[int | None]], blanks: Sequence[Blank], catalogue: MiniCatalogue) -> float:
    hits = [
        colour in catalogue.palette(blank.outfit.user_id)
        for row, blank in zip(colours, blanks, strict=True)
        for colour in row
    ]
    return float(np.mean(hits))


def _harmony_share(colours: Sequence[Sequence[int | None]], blanks: Sequence[Blank], catalogue: MiniCatalogue) -> float:
    hits = [
        colour is not None and is_harmonious(colour, [catalogue.colour(i) for i in blank.outfit.given_item_ids])
        for row, blank in zip(colours, blanks, strict=True)
        for colour in row
    ]
    return float(np.mean(hits))
