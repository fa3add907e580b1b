"""What requests for rounds are checked against: the outfits that there are, and how the bundle samples. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from fashiondpo.contracts import SamplerSettings
from fashiondpo.outfits.model import DataSet
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.run_settings import read_bundle_sampler
from services.trainer.settings import TrainerSettings


@dataclass(frozen=True)
class Basis:
    """Outfits to learn from and to decide on, and the bundle's own sampler settings."""

    data_set: DataSet
    sampler: SamplerSettings


def load_basis(settings: TrainerSettings) -> Basis:
    """Read from where the settings say.

    Raises:
        NotFound, InvalidInput: if the data set cannot be read.
        InvalidBundle: if the bundle's folder is none.
    """
    return Basis(
        load_data_set(settings.place(settings.data_set, "catalogue")),
        read_bundle_sampler(settings.models.bundle(settings.bundle)),
    )
