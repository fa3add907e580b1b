"""A run's folder with everything composed: data, models, stores, and the parts of a round.

artifacts/   pictures, trajectories, weights, by content      feedback/   rounds, candidate sets, scores, pairs
adapters/    published versions and the champion alias        training/   checkpoints and metrics of each round
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch

from fashiondpo.contracts import (
    AdapterRef,
    CandidateRequest,
    CandidateSet,
    RoundRecord,
    candidate_seed,
)
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.evaluation.statistics import pairwise_diversity
from fashiondpo.joint_training import JointTrainer
from fashiondpo.judges.base import Judge
from fashiondpo.judges.compatibility import CompatibilityJudge
from fashiondpo.judges.embeddings import CatalogueEmbeddings
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.held_out import HeldOutJudge
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.model_cache.places import DEFAULT_CACHE, ModelPlaces
from fashiondpo.offline import (
    LocalGenerator,
    LocalJudge,
    LocalTrainer,
    blank_requests,
    judge_inputs,
    load_weights,
    log_memory,
)
from fashiondpo.offline_evaluation import HeldOutFigures, LocalEvaluator, LocalGate, PolicyGenerator
from fashiondpo.outfits.mini import MiniCatalogue
from fashiondpo.outfits.model import DataSet
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.pipeline import RoundParts, SetJudge
from fashiondpo.quality_backend import QualityBackend
from fashiondpo.run_settings import MINI_ASSETS, RunSettings
from fashiondpo.storage.adapters import AdapterRegistry, FolderAdapters
from fashiondpo.storage.artifacts import ArtifactStore, FolderArtifacts
from fashiondpo.storage.feedback import FeedbackStore, FolderFeedback
from fashiondpo.telemetry import Progress, no_progress
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.memory import DeviceMemory, check_room, device_memory


@dataclass(frozen=True)
class RunStores:
    """Where a run keeps things: in its folder, or where the services keep theirs."""

    artifacts: ArtifactStore
    feedback: FeedbackStore
    adapters: AdapterRegistry

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Everything as files."""
        return cls(
            FolderArtifacts(folder / "artifacts"),
            FolderFeedback(folder / "feedback"),
            FolderAdapters(folder / "adapters"),
        )


class Workspace:
    """Opens things when they are first needed."""

    def __init__(
        self,
        folder: Path,
        *,
        data_place: str | Path = "mini",
        bundle_place: str | Path = "mini",
        judges_place: str | Path = "mini",
        quality: QualityBackend | None = None,
        quality_key: str | None = None,
        mini_assets: Path = MINI_ASSETS,
        model_cache: Path = DEFAULT_CACHE,
        device: str = "cpu",
        stores: RunStores | None = None,
        processes: int = 1,
    ) -> None:
        """Name the places.

        Args:
            folder: of the run; made when something is stored.
            data_place: "mini", or a folder of any known kind.
            bundle_place: "mini", a profile, owner/name@revision, or a bundle's folder.
            judges_place: "mini", a profile, or a folder with clip/, vbpr/, quality/, embeddings/ of the data set if they
                were made, and, for the mini world, held_out/.
            quality: what judges quality; as the judges' profile has it, else their own network, unless given.
            quality_key: key of the model server, if quality is judged by one that wants it.
            mini_assets: what "mini" stands for.
            model_cache: where fetched models lie.
            device: for all models.
            stores: in the folder unless given.
            processes: that train together; for more than one the stores are those in the folder.

        Raises:
            NotFound: if a folder is not there, or a profile was not fetched.
        """
        self.folder, self.device, self.processes = folder, device, processes
        self.tell_memory: Callable[[str], None] = log_memory
        self.memory_of: Callable[[torch.device], DeviceMemory | None] = device_memory
        models = ModelPlaces(model_cache, mini_assets)
        self._quality = quality or QualityBackend.of_judges(str(judges_place), models)
        self._quality_key = quality_key
        self._judges = models.judges(str(judges_place))
        self._places = {
            "data": mini_assets / "catalogue" if str(data_place) == "mini" else Path(data_place),
            "bundle": models.bundle(str(bundle_place)),
        }
        for name, place in {**self._places, "judges": self._judges.clip.parent}.items():
            if not place.exists():
                raise NotFound(
                    f"{name}: there is no folder {place}; name one, or make the mini models with `make assets`"
                )
        stores = stores or RunStores.in_folder(folder)
        self.artifacts, self.feedback, self.adapters = stores.artifacts, stores.feedback, stores.adapters

    @cached_property
    def data_set(self) -> DataSet:
        """The outfits."""
        return load_data_set(self._places["data"])

    @cached_property
    def bundle(self) -> DiFashion:
        """The generator's models."""
        return load_bundle(self._places["bundle"], device=self.device)

    @cached_property
    def features(self) -> OpenClipFeatures:
        """The image features of judges and diversity."""
        return OpenClipFeatures.load(self._judges.clip, self.device)

    @cached_property
    def catalogue_features(self) -> CatalogueFeatures:
        """Features of the catalogue's items: mapped where they were embedded before, else computed once."""
        place = self._judges.embeddings
        embeddings = None if place is None else CatalogueEmbeddings.open(place, self.data_set.catalogue)
        return CatalogueFeatures(self.features, self.data_set.catalogue, embeddings=embeddings)

    @cached_property
    def quality_judge(self) -> Judge:
        """The judge of quality, which may be large; nothing in it depends on a split."""
        server = self._quality.server(self._quality_key)
        mini = self._judges.quality
        if mini is None and self._quality.backend == "mini":
            raise InvalidInput(
                "these judges leave quality to a model server: name it with --quality remote:URL, or leave --quality out "
                "for the address that their profile names"
            )
        return self._quality.judge(mini=mini or self._judges.clip, device=self.device, server=server)

    def judges(self, split: str) -> list[Judge]:
        """The three judges, with the histories of a split."""
        places = self._judges
        return [
            self.quality_judge,
            CompatibilityJudge.load(places.vbpr, self.features, self.catalogue_features, self.device),
            PersonalizationJudge(self.features, self.catalogue_features, self.data_set.history(split)),
        ]

    def local_judges(self, split: str) -> list[LocalJudge]:
        """The judges over stored candidates."""
        return [LocalJudge(judge, self.artifacts) for judge in self.judges(split)]

    def generator(self, split: str, *, is_recorded: bool = True) -> LocalGenerator:
        """A generator that knows the histories of a split."""
        return LocalGenerator(
            self.bundle,
            self.data_set.catalogue,
            self.data_set.history(split),
            self.artifacts,
            is_recorded=is_recorded,
        )

    def champion(self) -> AdapterRef:
        """The adapter that serves; version 0 if none was promoted yet."""
        version = self.adapters.alias("champion") or 0
        return self.adapters.manifest(version).ref if version else AdapterRef()

    def trainer(self, settings: TrainSettings, progress: Progress = no_progress) -> LocalTrainer | JointTrainer:
        """A trainer with its checkpoints in this folder."""
        if self.processes > 1:
            return JointTrainer(
                bundle=self._places["bundle"],
                base_digest=self.bundle.digest,
                device=self.device,
                processes=self.processes,
                artifacts=self.artifacts,
                artifacts_url=str(self.artifacts),
                adapters=self.adapters,
                settings=settings,
                folder=self.folder / "training",
                progress=progress,
                tell_memory=self.tell_memory,
            )
        return LocalTrainer(
            self.bundle,
            self.artifacts,
            self.adapters,
            settings,
            self.folder / "training",
            progress=progress,
            tell_memory=self.tell_memory,
        )

    def evaluator(
        self,
        split: str,
        outfits: int,
        settings: RunSettings,
        *,
        generator: PolicyGenerator | None = None,
        judges: Sequence[SetJudge] | None = None,
        progress: Progress = no_progress,
    ) -> LocalEvaluator:
        """Completes and measures a fixed selection of held-out outfits; the seed decides outfits and noise.

        Args:
            split: whose outfits.
            outfits: how many.
            settings: candidates, seed, sampler.
            generator, judges: in this process unless given; others must share the artifact store.
            progress: told after every outfit.
        """
        blanks = self.data_set.blanks_of(split, outfits, seed=settings.seed)
        return LocalEvaluator(
            generator=generator or self.generator(split, is_recorded=False),
            judges=judges or self.local_judges(split),
            blanks=blanks,
            requests=blank_requests(
                blanks,
                prefix=split,
                candidates=settings.candidates,
                seed=settings.seed,
                sampler=settings.sampler,
            ),
            diversity=self.diversity,
            held_out=self.held_out_metrics(split),
            progress=progress,
        )

    def gate(self, settings: RunSettings, progress: Progress = no_progress) -> LocalGate:
        """The gate on validation outfits."""
        evaluator = self.evaluator("valid", settings.gate_outfits, settings, progress=progress)
        weights = {str(name): weight for name, weight in settings.preferences.weights.items()}
        return LocalGate(evaluator, self.adapters, self.artifacts, weights, settings.gate)

    def parts(
        self,
        record: RoundRecord,
        settings: RunSettings,
        *,
        train_progress: Progress = no_progress,
        gate_progress: Progress = no_progress,
    ) -> RoundParts:
        """Everything a round over the training split needs; it paints with the adapter that the round starts from."""
        generator = self.generator("train")
        # the record's adapter, not today's champion: an interrupted round goes on as it began
        generator.activate(record.adapter, load_weights(self.adapters, record.adapter))
        return RoundParts(
            generator=generator,
            judges=self.local_judges("train"),
            trainer=self.trainer(settings.training, train_progress),
            gate=self.gate(settings, gate_progress),
            artifacts=self.artifacts,
            feedback=self.feedback,
            adapters=self.adapters,
            preferences=settings.preferences,
        )

    def diversity(self, candidate_sets: Sequence[CandidateSet]) -> np.ndarray:
        """Mean distance between the candidates of each outfit in the features' space, (outfits,)."""
        images = [judge_input.image for judge_input in judge_inputs(candidate_sets, self.artifacts)]
        vectors = self.features.images(images).numpy().astype(np.float64)
        return pairwise_diversity(vectors.reshape(len(candidate_sets), -1, vectors.shape[1]))

    @property
    def held_out_folder(self) -> Path | None:
        """The network that names categories and makes no label; None where there is none."""
        return self._judges.held_out if self._judges.held_out.exists() else None

    def held_out_metrics(self, split: str) -> HeldOutFigures:
        """Metrics that make no label."""
        judge = None
        if isinstance(self.data_set.catalogue, MiniCatalogue) and self._judges.held_out.exists():
            judge = HeldOutJudge.load(self._judges.held_out, self.data_set.catalogue, self.device)
        personalization = PersonalizationJudge(self.features, self.catalogue_features, self.data_set.history(split))
        return HeldOutFigures(judge, personalization, self.artifacts)

    def requests(self, record: RoundRecord, settings: RunSettings) -> list[CandidateRequest]:
        """What a round collects."""
        return round_requests(self.data_set, record, settings)

    def next_round(self, settings: RunSettings, trainings: Sequence[TrainSettings] = ()) -> RoundRecord:
        """The unfinished round, or a new one after the last.

        Args:
            settings: of the round.
            trainings: what will be trained on what it paints; that of its settings unless given.

        Raises:
            InvalidInput: if the unfinished round was opened with other settings, there are fewer outfits than asked, or
                the device has not the memory for a training.
        """
        last, described = self.last_round(), settings.model_dump(mode="json")
        if last is not None and last.stage != "done":
            if others := _differences(last.settings, described):
                raise InvalidInput(
                    f"round {last.round_id} in {self.folder} is unfinished and has other settings for "
                    f"{', '.join(others)}: finish it with the same settings, or choose another folder"
                )
            return last
        # before anything is stored: an impossible round could neither be finished nor changed
        self.data_set.blanks_of("train", settings.outfits)
        self.data_set.blanks_of("valid", settings.gate_outfits)
        index = 1 if last is None else round_index(last) + 1
        record = RoundRecord(
            round_id=f"round-{index:04d}", seed=settings.seed, adapter=self.champion(), settings=described
        )
        if (memory := self.memory_of(torch.device(self.device))) is not None:
            (request, *_), parent = self.requests(record, settings), load_weights(self.adapters, record.adapter)
            for training in trainings or (settings.training,):
                check_room(self.bundle, parent, training, request, memory)
        self.feedback.put_round(record)
        return record

    def finished_rounds(self) -> list[RoundRecord]:
        """Records of the rounds that are done, oldest first."""
        records = [self.feedback.round(round_id) for round_id in self.feedback.round_ids()]
        return [record for record in records if record.stage == "done"]

    def last_round(self) -> RoundRecord | None:
        """The newest round's record; None before the first."""
        round_ids = self.feedback.round_ids()
        return self.feedback.round(round_ids[-1]) if round_ids else None


def _differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Names of the settings in which two rounds differ; how long the report is, is no matter of the round."""
    return sorted(name for name in {*one, *other} - {"report_outfits"} if one.get(name) != other.get(name))


def round_requests(data_set: DataSet, record: RoundRecord, settings: RunSettings) -> list[CandidateRequest]:
    """What a round collects: other outfits of the training split, with other noise, in every round."""
    index = round_index(record)
    # hashed, so that the rounds of one seed are not the first rounds of the next
    blanks = data_set.blanks_of("train", settings.outfits, seed=candidate_seed(settings.seed, index, 0, 0, 0))
    return blank_requests(
        blanks,
        prefix=record.round_id,
        candidates=settings.candidates,
        seed=settings.seed,
        round_index=index,
        sampler=settings.sampler,
    )


def round_index(record: RoundRecord) -> int:
    """1 for the first round of a folder; part of every seed."""
    return int(record.round_id.rsplit("-", 1)[1])
