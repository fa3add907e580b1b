"""The work of a round in a worker: the pipeline over remote generator and judges, training and gate in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fashiondpo.contracts import (
    ROUND_STAGES,
    AdapterRef,
    CandidateRequest,
    CandidateSet,
    PreferencePair,
    RoundRecord,
    TrainedAdapter,
)
from fashiondpo.errors import InvalidInput, Unavailable
from fashiondpo.joint_training import JointTrainer
from fashiondpo.offline import LocalGenerator, LocalTrainer, blank_requests, load_weights
from fashiondpo.pipeline import RoundParts, run_round
from fashiondpo.remote import RemoteGenerator
from fashiondpo.run_settings import RunSettings
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.stores import Stores
from fashiondpo.training.memory import DeviceMemory, check_room, device_memory
from fashiondpo.training.metrics import read_metrics
from fashiondpo.workspace import round_requests
from services.trainer.gate import HeldOutParts, ResumableGate, features_diversity
from services.trainer.models import WorkerModels
from services.trainer.orders import RoundOrder, order_of
from services.trainer.peers import Peers
from services.trainer.slice_contract import SliceHooks, Work
from services.trainer.training_folders import take_over_training


@dataclass(frozen=True)
class RoundWorker:
    """Opens the work of rounds; `open_work` is what a slice asks for.

    Attributes:
        models: of this process, kept between slices.
        peers: generator and judges.
        training_folder: for checkpoints; every worker has the same.
        sets_per_call: sets painted, or judged, by one request.
        artifacts_url: where processes that train together find what the stores have.
        memory_of: what the memory of a device is.
    """

    models: WorkerModels
    peers: Peers
    training_folder: Path
    sets_per_call: int
    artifacts_url: str
    memory_of: Callable[[torch.device], DeviceMemory | None] = device_memory

    @contextmanager
    def open_work(self, job: RoundJob, stores: Stores, lease: Lease, hooks: SliceHooks) -> Iterator[Work]:
        """What brings the round's record to its end."""
        order = order_of(job)
        with self.peers.opened() as (generator, judges):
            remote = RemoteGenerator(
                generator,
                adapter=order.adapter,
                round_id=job.round_id,
                base_digest=self.models.bundle.digest,
                outfits_per_request=self.sets_per_call,
                should_stop=hooks.should_stop,
            )
            gate_parts = HeldOutParts(self._painter(stores, hooks), judges, stores.feedback, self.sets_per_call)
            parts = RoundParts(
                generator=remote,
                judges=judges,
                trainer=SliceTrainer(
                    self._trainer(order.settings, stores, hooks),
                    self.training_folder,
                    lease.token,
                    hooks.training_goes_on,
                ),
                gate=self._gate(job.round_id, order.settings, gate_parts, stores, hooks),
                artifacts=stores.artifacts,
                feedback=stores.feedback,
                adapters=stores.adapters,
                preferences=order.settings.preferences,
                sets_per_call=self.sets_per_call,
            )
            yield lambda record: self._run(record, order, parts, stores, hooks)

    def _run(
        self, record: RoundRecord, order: RoundOrder, parts: RoundParts, stores: Stores, hooks: SliceHooks
    ) -> RoundRecord:
        is_from_traffic = order.made_by is not None

        def after_stage(reached: RoundRecord) -> None:
            if is_from_traffic and ROUND_STAGES.index(reached.stage) > ROUND_STAGES.index("pair"):
                # the pairs are stored: nobody needs to learn from these sets again
                stores.traffic.acknowledge(reached.round_id, reached.set_ids)
            hooks.stage_finished(reached)

        requests: Sequence[CandidateRequest] = ()
        if is_from_traffic:
            record = claim_traffic(record, order, stores)
        else:
            requests = round_requests(self.models.data_set, record, order.settings)
            self._check_room(record, requests, order.settings, stores)
        return run_round(
            record,
            requests,
            parts,
            progress=hooks.progress,
            should_stop=hooks.should_stop,
            after_stage=after_stage,
        )

    def _check_room(
        self, record: RoundRecord, requests: Sequence[CandidateRequest], settings: RunSettings, stores: Stores
    ) -> None:
        """Refuse a round that could not be trained here now, not after hours of painting; only a worker knows its device."""
        is_new = record.stage == "collect" and not stores.feedback.set_ids(record.round_id)
        if is_new and (memory := self.memory_of(self.models.bundle.device)) is not None:
            parent = load_weights(stores.adapters, record.adapter)
            check_room(self.models.bundle, parent, settings.training, requests[0], memory)

    def _painter(self, stores: Stores, hooks: SliceHooks) -> LocalGenerator:
        data_set = self.models.data_set
        return LocalGenerator(
            self.models.bundle,
            data_set.catalogue,
            data_set.history("valid"),
            stores.artifacts,
            is_recorded=False,
            should_stop=hooks.should_stop,
        )

    def _trainer(self, settings: RunSettings, stores: Stores, hooks: SliceHooks) -> LocalTrainer | JointTrainer:
        if self.models.processes > 1 and settings.training.outfits_per_update > 1:
            return JointTrainer(
                bundle=self.models.bundle_folder,
                base_digest=self.models.bundle.digest,
                device=self.models.device,
                processes=self.models.processes,
                artifacts=stores.artifacts,
                artifacts_url=self.artifacts_url,
                adapters=stores.adapters,
                settings=settings.training,
                folder=self.training_folder,
                progress=hooks.progress("train"),
                should_stop=hooks.should_stop,
            )
        return LocalTrainer(
            self.models.bundle,
            stores.artifacts,
            stores.adapters,
            settings.training,
            self.training_folder,
            progress=hooks.progress("train"),
            should_stop=hooks.should_stop,
        )

    def _gate(
        self, round_id: str, settings: RunSettings, parts: HeldOutParts, stores: Stores, hooks: SliceHooks
    ) -> ResumableGate:
        blanks = self.models.data_set.blanks_of("valid", settings.gate_outfits, seed=settings.seed)
        return ResumableGate(
            round_id=round_id,
            parts=parts,
            requests=lambda prefix: blank_requests(
                blanks, prefix=prefix, candidates=settings.candidates, seed=settings.seed, sampler=settings.sampler
            ),
            adapters=stores.adapters,
            artifacts=stores.artifacts,
            diversity=lambda sets: features_diversity(self.models.features, stores.artifacts)(sets),
            weights={str(name): weight for name, weight in settings.preferences.weights.items()},
            settings=settings.gate,
            progress=hooks.progress("gate"),
            should_stop=hooks.should_stop,
        )


@dataclass(frozen=True)
class SliceTrainer:
    """Trains with checkpoints in the folder of this slice's lease, from where the slice before has stopped."""

    trainer: LocalTrainer | JointTrainer
    root: Path
    token: int
    goes_on: Callable[[Sequence[dict[str, float]]], None]

    def train(
        self, round_id: str, sets: Sequence[CandidateSet], pairs: Sequence[PreferencePair], parent: AdapterRef
    ) -> TrainedAdapter:
        """The new adapter; raises as `LocalTrainer.train`, and Unavailable if checkpoints cannot be read or written."""
        try:
            folder = take_over_training(self.root, round_id, self.token)
            self.goes_on(read_metrics(folder))
            return replace(self.trainer, folder=folder.parent).train(folder.name, sets, pairs, parent)
        except OSError as error:
            raise Unavailable(f"the training folder {self.root} does not answer, or is full: {error}") from error


def claim_traffic(record: RoundRecord, order: RoundOrder, stores: Stores) -> RoundRecord:
    """The record of a round over traffic, once it has its sets: they were painted and judged before.

    Raises:
        InvalidInput: if other rounds have taken them all.
    """
    if record.stage != "collect" or order.made_by is None:
        return record
    entries = stores.traffic.claim_scored(record.round_id, order.settings.outfits, order.made_by)
    if not entries:
        raise InvalidInput("the recorded sets that this round was to learn from are gone: other rounds have taken them")
    claimed = record.model_copy(update={"stage": "judge", "set_ids": tuple(entry.set_id for entry in entries)})
    stores.feedback.put_round(claimed)
    return claimed
