"""Compiles what an engine will compute, before anybody asks."""

from __future__ import annotations

import time

from fashiondpo.contracts import GuidanceScales
from fashiondpo.diffusion.adapter_slots import SLOT_NAMES, AdapterSlots
from fashiondpo.diffusion.compiling import Backend, CompiledUNet, compiling
from fashiondpo.diffusion.engine_forward import Denoiser
from fashiondpo.diffusion.engine_studio import Studio
from fashiondpo.diffusion.placement_choices import Compilation
from fashiondpo.diffusion.sampling import needed_branches
from fashiondpo.errors import Unavailable
from fashiondpo.telemetry import log

_ALL_BRANCHES = GuidanceScales(category=4.0, mutual=3.0, history=2.0)
"""No two scales alike, none 1 or 0: what most requests with scales of their own need."""

_REASON_LENGTH = 400


def compiled_denoiser(
    studio: Studio, slots: AdapterSlots, rows_per_forward: int, compilation: Compilation, backend: Backend
) -> Denoiser | None:
    """A denoiser whose forwards are compiled, for the base model and every place for an adapter.

    Forwards with the guidance of the bundle, and with all branches. Others run uncompiled.

    Returns:
        None if it cannot be compiled here, and need not be.

    Raises:
        Unavailable: if it must be.
    """
    places = (None, *range(len(SLOT_NAMES)))
    unet = CompiledUNet(studio.bundle.unet, places=len(places), backend=backend)
    denoiser = Denoiser(studio.bundle, rows_per_forward, compiled=unet)
    sampler = studio.bundle.sampler
    kinds = {needed_branches(guidance): guidance for guidance in (_ALL_BRANCHES, sampler.guidance)}
    started = time.perf_counter()
    try:
        with compiling():
            for slot in places:
                slots.select_slot(slot)
                for guidance in kinds.values():
                    studio.warm_up(denoiser, sampler.model_copy(update={"guidance": guidance}))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:_REASON_LENGTH]
        if compilation == "required":
            raise Unavailable(
                f"the UNet cannot be compiled on this machine, as it was asked to be (is there a C++ compiler?): {reason}"
            ) from error
        log().warning("not_compiled", reason=reason)
        return None
    finally:
        slots.select_slot(None)
    log().info("compiled", forwards=len(places) * len(kinds), seconds=round(time.perf_counter() - started, 1))
    return denoiser
