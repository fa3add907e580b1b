"""Candidates for the tasks of the suite, painted once: what was painted with the same settings is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from fashiondpo.contracts import (
    ArtifactRef,
    CandidateRequest,
    CandidateSet,
    Frozen,
    Outfit,
    SamplerSettings,
    candidate_seed,
    content_ref,
)
from fashiondpo.diffusion.sampling import ROWS_PER_FORWARD
from fashiondpo.errors import DataFileError
from fashiondpo.judges.base import JudgeInput
from fashiondpo.offline import LocalGenerator
from fashiondpo.outfits.images import decode_image, encode_png
from fashiondpo.outfits.model import Catalogue, Image
from fashiondpo.paper_suite.tasks import PaperTask
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.records import json_to_record, record_to_json, replace_file
from fashiondpo.telemetry import Progress, no_progress


class PaintedOutfit(Frozen):
    """The candidates of every empty slot of one outfit, as they are kept."""

    schema_version: Literal[1] = 1
    sets: tuple[CandidateSet, ...]


@dataclass(frozen=True)
class Picture:
    """A picture and the reference under which others know it."""

    ref: ArtifactRef
    image: Image


@dataclass(frozen=True)
class Filling:
    """What fills the empty slots of a task.

    Attributes:
        task: the outfit.
        pictures: by empty slot, in slot order, one per candidate; candidate k of all slots is one outfit.
    """

    task: PaperTask
    pictures: Mapping[int, tuple[Picture, ...]]

    def judge_inputs(self) -> list[JudgeInput]:
        """What a judge looks at: slot after slot, candidate after candidate, each with its outfit's other garments."""
        return [
            self._judge_input(slot, k) for slot, candidates in self.pictures.items() for k in range(len(candidates))
        ]

    def _judge_input(self, slot: int, k: int) -> JudgeInput:
        outfit = self.task.outfit
        others = {other: candidates[k] for other, candidates in self.pictures.items() if other != slot}
        worn = outfit.model_copy(update={"item_images": {other: picture.ref for other, picture in others.items()}})
        return JudgeInput(
            candidate_id=f"{outfit.user_id}-{outfit.outfit_id}-{slot}-{k}",
            outfit=worn,
            slot=slot,
            image=self.pictures[slot][k].image,
            pictures={picture.ref: picture.image for picture in others.values()},
        )


def true_filling(task: PaperTask, catalogue: Catalogue) -> Filling:
    """The true items in the place of candidates, one for each slot."""
    images = {slot: catalogue.image(item_id) for slot, item_id in task.true_item_ids.items()}
    return Filling(
        task, {slot: (Picture(content_ref(encode_png(image), "png"), image),) for slot, image in images.items()}
    )


def painted_filling(task: PaperTask, sets: Sequence[CandidateSet], artifacts: ArtifactStore) -> Filling:
    """Candidates with their pictures."""
    return Filling(
        task,
        {
            s.slot: tuple(
                Picture(c.image, decode_image(artifacts.get(c.image), name=c.candidate_id)) for c in s.candidates
            )
            for s in sets
        },
    )


@dataclass(frozen=True)
class Painter:
    """Paints tasks with the generator's policy of the moment, and keeps what it has painted.

    Attributes:
        generator: paints; pictures go to its artifact store.
        folder: where finished outfits are noted.
        candidates: K.
        seed: decides the noise together with outfit and slot.
        sampler: None for the bundle's own.
    """

    generator: LocalGenerator
    folder: Path
    candidates: int
    seed: int
    sampler: SamplerSettings | None = None

    def paint(self, tasks: Sequence[PaperTask], progress: Progress = no_progress) -> list[tuple[CandidateSet, ...]]:
        """Candidates of every empty slot of every task, in order; progress counts outfits.

        An outfit that was noted before with the same task, noise, settings, base model and adapter is not painted again.
        """
        found = {position: sets for position, task in enumerate(tasks) if (sets := self._kept(task)) is not None}
        missing = [position for position in range(len(tasks)) if position not in found]
        progress(len(found), len(tasks), {})
        for position, sets in self._painted([tasks[position] for position in missing]):
            found[missing[position]] = sets
            replace_file(self._file(tasks[missing[position]]), record_to_json(PaintedOutfit(sets=sets)))
            progress(len(found), len(tasks), {})
        return [found[position] for position in range(len(tasks))]

    def _painted(self, tasks: Sequence[PaperTask]) -> Iterator[tuple[int, tuple[CandidateSet, ...]]]:
        """One slot alone can share a forward with other outfits; slots of one outfit are painted together."""
        single = [position for position, task in enumerate(tasks) if len(task.slots) == 1]
        requests = (self._request(tasks[position], tasks[position].slots[0]) for position in single)
        per_call = max(1, ROWS_PER_FORWARD // self.candidates)
        waiting = iter(single)
        while batch := list(islice(requests, per_call)):
            for position, painted in zip(islice(waiting, len(batch)), self.generator.generate(batch), strict=True):
                yield position, (painted,)
        for position, task in enumerate(tasks):
            if len(task.slots) > 1:
                sets = self.generator.complete_outfit(
                    task.outfit,
                    {slot: self._seeds(task.outfit, slot) for slot in task.slots},
                    prefix=_name(task.outfit),
                    sampler=self.sampler,
                )
                yield position, tuple(sets)

    def _request(self, task: PaperTask, slot: int) -> CandidateRequest:
        return CandidateRequest(
            set_id=f"{_name(task.outfit)}-{slot}",
            outfit=task.outfit,
            slot=slot,
            seeds=self._seeds(task.outfit, slot),
            sampler=self.sampler,
        )

    def _seeds(self, outfit: Outfit, slot: int) -> tuple[int, ...]:
        return tuple(candidate_seed(self.seed, 0, outfit.outfit_id, slot, k) for k in range(self.candidates))

    def _kept(self, task: PaperTask) -> tuple[CandidateSet, ...] | None:
        """What was painted before, if it is still whole."""
        path = self._file(task)
        try:
            record = json_to_record(path.read_bytes(), PaintedOutfit, path)
        except (FileNotFoundError, DataFileError):
            return None
        has = self.generator.artifacts.has
        return record.sets if all(has(c.image) for s in record.sets for c in s.candidates) else None

    def _file(self, task: PaperTask) -> Path:
        settings = self.sampler or self.generator.bundle.sampler
        decides = {
            "outfit": task.outfit.model_dump(mode="json"),
            "seeds": {slot: self._seeds(task.outfit, slot) for slot in task.slots},
            "sampler": settings.model_dump(mode="json"),
            "base": self.generator.bundle.digest,
            "adapter": self.generator.adapter.model_dump(mode="json"),
        }
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"


def _name(outfit: Outfit) -> str:
    return f"paper-{outfit.user_id}-{outfit.outfit_id}"
