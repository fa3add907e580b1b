"""Opens the generator: loads the model, starts the engine, follows the champion, warms up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.engine import Engine
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.diffusion.placement import (
    RESTING,
    Devices,
    TorchDevices,
    chosen_device,
    chosen_dtype,
    needed_bytes,
    save_decoder_memory,
)
from fashiondpo.errors import Unavailable
from fashiondpo.outfits.model import DataSet, History
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.storage.redis_connection import warn_of_lost_records
from fashiondpo.telemetry import Progress, log
from services.generator.adapter_desk import AdapterDesk
from services.generator.adapter_follower import AdapterFollower
from services.generator.candidate_writer import CandidateWriter
from services.generator.claim_keeper import ClaimKeeper
from services.generator.generations import GenerationLimits, GenerationParts, Generations
from services.generator.metrics import GeneratorMetrics
from services.generator.opened import OpenedGenerator
from services.generator.picture_reader import StoredPictureReader
from services.generator.pinned_adapters import PinnedAdapters
from services.generator.request_reading import RequestReader
from services.generator.settings import GeneratorSettings
from services.generator.stores import Stores
from services.generator.warm_up import warm_up

_STAGES = 4
_SWAP_TIMEOUT_S = 300.0
_WARM_UP_TIMEOUT_S = 3600.0
"""Compiling a large UNet takes minutes for each of a few kinds of forwards."""


def open_generator(
    settings: GeneratorSettings, stores: Stores, metrics: GeneratorMetrics, progress: Progress
) -> OpenedGenerator:
    """Everything, running and warm.

    Raises:
        FashionDPOError: if bundle or data set cannot be read, or the model cannot paint.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    warn_of_lost_records(stores.client)
    data_set = load_data_set(settings.place(settings.data_set, "catalogue"))
    progress(1, _STAGES, {})
    bundle = _placed(settings, TorchDevices())
    progress(2, _STAGES, {})
    engine = Engine(
        bundle,
        ConditionEncoder(bundle, data_set.catalogue, bundle.categories),
        History.joined([data_set.history(split) for split in settings.splits]),
        rows_per_forward=settings.rows_per_forward,
        max_queued_rows=settings.max_queued_rows,
        adapter_rank=settings.adapter_rank,
        metrics=metrics,
        compilation=settings.compile,
    )
    engine.start()
    try:
        warm_up(engine, data_set.catalogue, bundle.categories, bundle.sampler, timeout_s=_WARM_UP_TIMEOUT_S)
        if engine.problem is not None:
            raise Unavailable(engine.problem)
        progress(3, _STAGES, {})
        opened = _composed(settings, stores, metrics, engine, bundle, data_set)
        opened.follower.follow()
        progress(4, _STAGES, {})
    except BaseException:
        engine.close()
        raise
    opened.follower.start()
    opened.keeper.start()
    return opened


def _placed(settings: GeneratorSettings, devices: Devices) -> DiFashion:
    """The bundle where it is to compute, in the type that it is to compute in."""
    folder, rows = settings.models.bundle(settings.bundle), settings.rows_per_forward
    half = chosen_dtype(settings.dtype, "cuda")
    device = chosen_device(
        settings.device,
        lambda: needed_bytes(folder, half, rows_per_forward=rows, offload=settings.offload),
        devices,
    )
    dtype = chosen_dtype(settings.dtype, device)
    bundle = load_bundle(folder, device=device, dtype=dtype, resting=RESTING[settings.offload])
    save_decoder_memory(bundle, slicing=settings.vae_slicing, tiling=settings.vae_tiling, devices=devices)
    log().info(
        "placed",
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        vae_slicing=bundle.vae.use_slicing,
        vae_tiling=bundle.vae.use_tiling,
        offload=settings.offload,
    )
    return bundle


def _composed(
    settings: GeneratorSettings,
    stores: Stores,
    metrics: GeneratorMetrics,
    engine: Engine,
    bundle: DiFashion,
    data_set: DataSet,
) -> OpenedGenerator:
    follower = AdapterFollower(
        stores.adapters,
        engine,
        poll_s=settings.poll_adapters_s,
        retry_s=settings.retry_adapter_s,
        swap_timeout_s=_SWAP_TIMEOUT_S,
        wait_for_hint=stores.wait_for_hint,
        on_look=metrics.following,
    )
    pinned = PinnedAdapters(stores.adapters, engine, timeout_s=_SWAP_TIMEOUT_S)
    writers, recorder = ThreadPoolExecutor(settings.writer_threads, "writer"), ThreadPoolExecutor(1, "recorder")
    pictures = StoredPictureReader(stores.artifacts, bundle.image_size, settings.max_image_px)
    generations = Generations(
        GenerationParts(
            engine=engine,
            reader=RequestReader(data_set.catalogue, bundle.categories, pictures),
            adapters=pinned,
            writer=CandidateWriter(stores.artifacts, stores.feedback, stores.traffic),
            writers=writers,
            recorder=recorder,
            records=stores.generations,
            metrics=metrics,
            sampler=bundle.sampler,
            base_digest=bundle.digest,
        ),
        GenerationLimits(
            rows_per_forward=settings.rows_per_forward,
            max_rows=settings.max_queued_rows,
            max_deadline_s=settings.max_deadline_s,
            max_unrecorded=settings.kept_generations,
        ),
    )
    desk = AdapterDesk(
        registry=stores.adapters,
        artifacts=stores.artifacts,
        engine=engine,
        follower=follower,
        pinned=pinned,
        verify=engine.verify,
        max_bytes=int(settings.max_adapter_mb * 2**20),
    )
    keeper = ClaimKeeper(generations, stores.generations, claim_s=settings.claim_s)
    return OpenedGenerator(settings, stores, engine, generations, desk, follower, keeper, (writers, recorder))
