"""What the routes of the trainer share."""

from __future__ import annotations

from dataclasses import dataclass

from fashiondpo.serving.idempotency import Once
from fashiondpo.serving.loading import Loading
from fashiondpo.storage.stores import Stores
from services.trainer.basis import Basis
from services.trainer.queue import SliceQueue
from services.trainer.settings import TrainerSettings


@dataclass(frozen=True)
class TrainerParts:
    """Settings, stores and queue, and what requests are checked against."""

    settings: TrainerSettings
    stores: Stores
    queue: SliceQueue
    basis: Loading[Basis]
    once: Once
