"""What a worker process loads once and keeps between slices: outfits, the bundle, the features of the gate."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.judges.features import ImageFeatures, OpenClipFeatures
from fashiondpo.outfits.model import DataSet
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.telemetry import log
from services.trainer.settings import TrainerSettings


class WorkerModels:
    """Each is loaded when it is first needed, or all of them by `load`."""

    def __init__(self, settings: TrainerSettings) -> None:
        """Names the places."""
        self._settings = settings

    def load(self) -> None:
        """Load everything now."""
        log().info("loading models")
        _ = self.data_set, self.bundle, self.features

    @cached_property
    def data_set(self) -> DataSet:
        """The outfits."""
        return load_data_set(self._settings.place(self._settings.data_set, "catalogue"))

    @cached_property
    def bundle(self) -> DiFashion:
        """The models that are trained; the generator has the same."""
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
        bundle = load_bundle(self._settings.models.bundle(self._settings.bundle), device=self._settings.device)
        log().info("bundle loaded", digest=bundle.digest[:12], device=self._settings.device)
        return bundle

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle was read."""
        return Path(self._settings.models.bundle(self._settings.bundle))

    @property
    def device(self) -> str:
        """Where the bundle is."""
        return self._settings.device

    @property
    def processes(self) -> int:
        """How many train together: as set, or one per device that this process sees and was not told to choose from."""
        if self._settings.processes is not None:
            return self._settings.processes
        return max(1, torch.cuda.device_count()) if self._settings.device == "cuda" else 1

    @cached_property
    def features(self) -> ImageFeatures:
        """By which the gate sees how different candidates are."""
        settings = self._settings
        place = settings.models.clip(settings.clip)
        return OpenClipFeatures.load(place, settings.device, pretrained=settings.clip_pretrained)
