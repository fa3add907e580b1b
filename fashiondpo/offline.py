"""In-process forms of the pipeline's parts: everything a round needs, on one machine, without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.contracts import (
    AdapterRef,
    Candidate,
    CandidateRequest,
    CandidateSet,
    ItemSource,
    JudgeInfo,
    Outfit,
    PreferencePair,
    SamplerSettings,
    Score,
    TrainedAdapter,
    candidate_seed,
)
from fashiondpo.diffusion.conditions import ConditionEncoder, Conditions
from fashiondpo.diffusion.lora import AdapterWeights, load_adapter, remove_adapter
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import ROWS_PER_FORWARD, SlotTask, sample_outfit, sample_trajectories
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import InvalidInput, PolicyMismatch
from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.outfits.images import decode_image, encode_png
from fashiondpo.outfits.model import Blank, Catalogue, Category, History, Image
from fashiondpo.storage.adapters import AdapterRegistry
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.telemetry import Progress, log, no_progress
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.memory import check_memory, device_memory
from fashiondpo.training.trainer import PreferenceSet, PreferenceTrainer


def blank_requests(
    blanks: Sequence[Blank],
    *,
    prefix: str,
    candidates: int,
    seed: int,
    round_index: int = 0,
    sampler: SamplerSettings | None = None,
) -> list[CandidateRequest]:
    """A request per task, with a seed of its own for every candidate.

    Args:
        blanks: tasks.
        prefix: start of every set's name; different runs need different ones.
        candidates: K.
        seed, round_index: decide the noise together with outfit and slot.
        sampler: None for the bundle's own.
    """
    return [
        CandidateRequest(
            set_id=set_id,
            outfit=blank.outfit,
            slot=blank.slot,
            seeds=tuple(
                candidate_seed(seed, round_index, blank.outfit.outfit_id, blank.slot, k) for k in range(candidates)
            ),
            sampler=sampler,
        )
        for blank, set_id in zip(blanks, _set_ids(blanks, prefix), strict=True)
    ]


def _set_ids(blanks: Sequence[Blank], prefix: str) -> Iterator[str]:
    """A name per task. Several users may own one outfit, and published files hold some rows twice."""
    seen: Counter[str] = Counter()
    for blank in blanks:
        name = f"{prefix}-{blank.outfit.user_id}-{blank.outfit.outfit_id}-{blank.slot}"
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


class LocalGenerator:
    """Paints with a bundle in this process. One adapter, or none, is active at a time."""

    def __init__(
        self,
        bundle: DiFashion,
        catalogue: Catalogue,
        history: History,
        artifacts: ArtifactStore,
        *,
        categories: dict[int, Category] | None = None,
        rows_per_forward: int = ROWS_PER_FORWARD,
        is_recorded: bool = True,
        progress: Progress = no_progress,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compose.

        Args:
            bundle: its UNet carries no adapter yet.
            catalogue: given items and histories are looked up here.
            history: what is known of the users.
            artifacts: where pictures and trajectories go.
            categories: the bundle's own unless given.
            rows_per_forward: candidates denoised together.
            is_recorded: keep trajectories; without them candidates cannot be trained on.
            progress: told about denoising steps of the batch in work.
            should_stop: asked before every step.
        """
        self.bundle, self.history, self.artifacts = bundle, history, artifacts
        self.encoder = ConditionEncoder(bundle, catalogue, categories or bundle.categories)
        self.rows_per_forward, self.is_recorded = rows_per_forward, is_recorded
        self.progress, self.should_stop = progress, should_stop
        self.adapter = AdapterRef()
        self.weights: AdapterWeights | None = None

    def activate(self, ref: AdapterRef, weights: AdapterWeights | None) -> None:
        """Paint with these weights from now on; with none, as the base model.

        Raises:
            InvalidInput: if reference and weights do not go together.
            InvalidAdapter: if the weights do not fit the bundle.
        """
        if (ref.version == 0) != (weights is None):
            raise InvalidInput(
                f"adapter version {ref.version} and {'no ' if weights is None else ''}weights were given"
            )
        remove_adapter(self.bundle.unet)
        self.adapter, self.weights = AdapterRef(), None
        if weights is not None:
            load_adapter(self.bundle.unet, weights, self.bundle.digest)
            self.bundle.unet.requires_grad_(False)
            self.adapter, self.weights = ref, weights

    def generate(self, requests: Sequence[CandidateRequest]) -> Iterator[CandidateSet]:
        """One set per request, in order; requests with the same settings are painted together."""
        start = 0
        while start < len(requests):
            settings = requests[start].sampler or self.bundle.sampler
            count = len(requests[start].seeds)
            end = start
            while (
                end < len(requests)
                and (requests[end].sampler or self.bundle.sampler) == settings
                and len(requests[end].seeds) == count
                and (end == start or (end - start + 1) * count <= self.rows_per_forward)
            ):
                end += 1
            yield from self._paint(requests[start:end], settings)
            start = end

    def complete_outfit(
        self,
        outfit: Outfit,
        seeds: Mapping[int, Sequence[int]],
        *,
        prefix: str,
        sampler: SamplerSettings | None = None,
        history: Mapping[int, tuple[ItemSource, ...]] | None = None,
    ) -> list[CandidateSet]:
        """Paint all empty slots together (GOR): candidate k of one slot goes with candidate k of the others.

        Args:
            outfit: with at least two empty slots.
            seeds: by empty slot, one per candidate.
            prefix: start of the sets' names; the slot follows.
            sampler: None for the bundle's own.
            history: what the user wore, by category; None for what is known of the users.

        Returns:
            One set per empty slot, in slot order.

        Raises:
            InvalidInput: if fewer than two slots are empty, or an empty slot has no seeds.
        """
        if missing := [slot for slot in outfit.empty_slots if slot not in seeds]:
            raise InvalidInput(f"the empty slots {missing} of outfit {outfit.outfit_id} have no seeds")
        settings = sampler or self.bundle.sampler
        self.activate(self.adapter, self.weights)
        requests = [
            CandidateRequest(
                set_id=f"{prefix}-{slot}",
                outfit=outfit,
                slot=slot,
                seeds=tuple(seeds[slot]),
                history=None if history is None else tuple(history.get(outfit.category_ids[slot], ())),
            )
            for slot in outfit.empty_slots
        ]
        trajectories = sample_outfit(
            self.bundle,
            [self._encode(request, settings) for request in requests],
            self.encoder.given_latents(outfit, self._pictures(outfit.given_items)),
            [request.seeds for request in requests],
            settings,
            adapter=self.adapter,
            progress=self.progress,
            should_stop=self.should_stop,
        )
        return [self._store(request, t) for request, t in zip(requests, trajectories, strict=True)]

    def _paint(self, requests: Sequence[CandidateRequest], settings: SamplerSettings) -> Iterator[CandidateSet]:
        # whoever shares the bundle, such as the trainer, may have put another adapter on it meanwhile
        self.activate(self.adapter, self.weights)
        tasks = [SlotTask(self._encode(request, settings), request.seeds) for request in requests]
        trajectories = sample_trajectories(
            self.bundle,
            tasks,
            settings,
            adapter=self.adapter,
            rows_per_forward=self.rows_per_forward,
            progress=self.progress,
            should_stop=self.should_stop,
        )
        for request, trajectory in zip(requests, trajectories, strict=True):
            yield self._store(request, trajectory)

    def _encode(self, request: CandidateRequest, settings: SamplerSettings) -> Conditions:
        history = self.history if request.history is None else request.history
        pictures = self._pictures([*request.outfit.given_items, *(request.history or ())])
        return self.encoder.encode(request.outfit, request.slot, history, settings, pictures=pictures)

    def _pictures(self, items: Iterable[ItemSource]) -> dict[str, Image]:
        refs, size = {item for item in items if isinstance(item, str)}, self.bundle.image_size
        return {ref: decode_image(self.artifacts.get(ref), size_px=size, name=ref) for ref in refs}

    def _store(self, request: CandidateRequest, trajectory: Trajectory) -> CandidateSet:
        images = self.bundle.decode_latents(trajectory.final_latents)
        return CandidateSet(
            set_id=request.set_id,
            outfit=request.outfit,
            slot=request.slot,
            candidates=tuple(
                Candidate(
                    candidate_id=f"{request.set_id}-{k}",
                    index=k,
                    seed=seed,
                    image=self.artifacts.put(encode_png(image), "png"),
                )
                for k, (seed, image) in enumerate(zip(request.seeds, images, strict=True))
            ),
            sampler=trajectory.settings,
            base_digest=self.bundle.digest,
            adapter=self.adapter,
            trajectory=self.artifacts.put(trajectory.to_bytes(), "safetensors") if self.is_recorded else None,
            history=request.history,
        )


@dataclass(frozen=True)
class LocalJudge:
    """A judge in this process over stored candidates."""

    judge: Judge
    artifacts: ArtifactStore

    @property
    def info(self) -> JudgeInfo:
        """Criterion, version and range."""
        return self.judge.info

    def score(self, candidate_sets: Sequence[CandidateSet]) -> list[Score]:
        """One score per candidate of every set, in order."""
        return list(self.judge.score(judge_inputs(candidate_sets, self.artifacts)))


def judge_inputs(candidate_sets: Sequence[CandidateSet], artifacts: ArtifactStore) -> list[JudgeInput]:
    """What a judge looks at, for every candidate of every set, in order.

    Pictures of garments that are in no catalogue, given or of the history, are read from the artifacts too.
    """
    inputs: list[JudgeInput] = []
    for s in candidate_sets:
        garments = (*s.outfit.given_items, *(s.history or ()))
        refs = dict.fromkeys(garment for garment in garments if isinstance(garment, str))
        pictures = {ref: decode_image(artifacts.get(ref), name=ref) for ref in refs}
        inputs += [
            JudgeInput(
                c.candidate_id,
                s.outfit,
                s.slot,
                decode_image(artifacts.get(c.image), name=c.candidate_id),
                s.history,
                pictures,
            )
            for c in s.candidates
        ]
    return inputs


def log_memory(told: str) -> None:
    """Say in the log what memory a training needs."""
    log().info("memory of training", needed=told)


def checked_memory(trainer: PreferenceTrainer, tell: Callable[[str], None]) -> None:
    """Tell what memory a training needs, and warn if its device has not so much free.

    Raises:
        InvalidInput: if the device is too small.
    """
    estimate = trainer.estimate_memory()
    tell(str(estimate))
    check_memory(estimate, device_memory(trainer.device))


@dataclass(frozen=True)
class LocalTrainer:
    """Trains in this process, with checkpoints under `folder / round_id`; tells before what memory it will need."""

    bundle: DiFashion
    artifacts: ArtifactStore
    adapters: AdapterRegistry
    settings: TrainSettings
    folder: Path
    progress: Progress = no_progress
    should_stop: Callable[[], bool] = lambda: False
    tell_memory: Callable[[str], None] = log_memory

    def train(
        self, round_id: str, sets: Sequence[CandidateSet], pairs: Sequence[PreferencePair], parent: AdapterRef
    ) -> TrainedAdapter:
        """Train to the end, from the last checkpoint if there is one; afterwards the bundle carries no adapter.

        Raises:
            InvalidInput: if a set was not recorded.
            PolicyMismatch: if a candidate was made by another policy than the parent.
            Cancelled: if should_stop said so.
        """
        of_set = pairs_by_set(sets, pairs, parent)
        training_sets = [PreferenceSet(s.set_id, of_set[s.set_id], self._reader(s)) for s in sets]
        remove_adapter(self.bundle.unet)
        trainer = PreferenceTrainer(
            self.bundle,
            training_sets,
            self.settings,
            self.folder / round_id,
            parent=load_weights(self.adapters, parent),
            parent_ref=parent,
        )
        try:
            checked_memory(trainer, self.tell_memory)
            weights = trainer.run(progress=self.progress, should_stop=self.should_stop)
        finally:
            trainer.close()
        if weights is None:
            raise InvalidInput("training ended before all updates were done")
        outfits = sum(bool(of_set[s.set_id]) for s in sets)
        figures = {"pairs": len(pairs), "outfits": outfits, "updates": trainer.updates_done}
        return trained_adapter(weights, self.artifacts, self.settings, figures)

    def _reader(self, candidate_set: CandidateSet) -> Callable[[], Trajectory]:
        ref = candidate_set.trajectory
        if ref is None:
            raise InvalidInput(f"{candidate_set.set_id} was generated without recording its trajectory")
        return lambda: Trajectory.from_bytes(self.artifacts.get(ref))


def pairs_by_set(
    sets: Sequence[CandidateSet], pairs: Sequence[PreferencePair], parent: AdapterRef
) -> dict[str, tuple[tuple[int, int], ...]]:
    """The (chosen, rejected) positions of every set; none for sets that have no pair.

    Raises:
        PolicyMismatch: if a set was made with another adapter than the parent.
    """
    if strangers := [s.set_id for s in sets if s.adapter != parent]:
        raise PolicyMismatch(
            f"{len(strangers)} sets were made with another adapter than version {parent.version}: {strangers[:3]}"
        )
    found: dict[str, list[tuple[int, int]]] = {s.set_id: [] for s in sets}
    for pair in pairs:
        found.setdefault(pair.set_id, []).append((pair.chosen, pair.rejected))
    return {set_id: tuple(of_set) for set_id, of_set in found.items()}


def trained_adapter(
    weights: AdapterWeights, artifacts: ArtifactStore, settings: TrainSettings, figures: Mapping[str, int]
) -> TrainedAdapter:
    """The weights, stored, with what is told of how they were made."""
    told = {k: v for k, v in settings.model_dump().items() if isinstance(v, int | float | str | bool)}
    return TrainedAdapter(
        weights=artifacts.put(weights.to_bytes(), "safetensors"),
        base_digest=weights.base_digest,
        rank=weights.rank,
        targets=weights.targets,
        figures=dict(figures) | told,
    )


def load_weights(adapters: AdapterRegistry, ref: AdapterRef) -> AdapterWeights | None:
    """Weights of a registered version; None for version 0."""
    return None if ref.version == 0 else AdapterWeights.from_bytes(adapters.weights(ref.version))
