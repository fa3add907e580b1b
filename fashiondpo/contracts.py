"""What crosses a process: frozen records with a stable JSON form. No tensors, no torch.

Names on the wire are the names in the code (docs/glossary.md). Bytes (images, trajectories, weights) travel as artifact
references: the content's digest with a suffix that says what it is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ArtifactRef = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\.(png|safetensors|json|html)$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
ItemSource = Annotated[int, Field(ge=0)] | ArtifactRef
"""A garment: an item of the catalogue, or the picture of one that is not in it."""
Criterion = Literal["quality", "compatibility", "personalization"]
CRITERIA: tuple[Criterion, ...] = ("quality", "compatibility", "personalization")

NUM_CANDIDATES = 7
"""Candidates per outfit of the published protocol (arXiv:2504.12900)."""


class Frozen(BaseModel):
    """A record: immutable, and refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Outfit(Frozen):
    """One outfit of one user: an entry per slot; a slot without item and without picture is empty.

    One empty slot makes it a personalised fill-in-the-blank task (PFITB), all slots empty a generative outfit
    recommendation task (GOR). The categories of empty slots are known: they say what to paint there.
    """

    outfit_id: int = Field(ge=0)
    user_id: int = Field(ge=0)
    category_ids: tuple[int, ...] = Field(min_length=2, max_length=8)
    item_ids: tuple[int | None, ...] = Field(min_length=2, max_length=8)
    item_images: dict[int, ArtifactRef] = Field(
        {}, description="By slot, pictures of garments that are given but are not in the catalogue."
    )

    @model_validator(mode="after")
    def _one_category_per_slot(self) -> Self:
        if len(self.category_ids) != len(self.item_ids):
            raise ValueError(
                f"outfit {self.outfit_id} has {len(self.item_ids)} items and {len(self.category_ids)} categories"
            )
        if strangers := [slot for slot in self.item_images if not 0 <= slot < len(self.item_ids)]:
            raise ValueError(f"outfit {self.outfit_id} has {len(self.item_ids)} slots, but pictures for {strangers}")
        if twice := [slot for slot in self.item_images if self.item_ids[slot] is not None]:
            raise ValueError(f"slots {twice} of outfit {self.outfit_id} have an item and a picture: give one of them")
        return self

    @property
    def empty_slots(self) -> tuple[int, ...]:
        """Positions that have neither item nor picture."""
        return tuple(s for s, item_id in enumerate(self.item_ids) if item_id is None and s not in self.item_images)

    @property
    def given_item_ids(self) -> tuple[int, ...]:
        """The catalogue's items that are there, in slot order."""
        return tuple(item_id for item_id in self.item_ids if item_id is not None)

    @property
    def given_items(self) -> tuple[ItemSource, ...]:
        """Everything that is there, in slot order: catalogue items and pictures."""
        found = ((self.item_images.get(s) if item_id is None else item_id) for s, item_id in enumerate(self.item_ids))
        return tuple(item for item in found if item is not None)

    def without(self, *slots: int) -> Outfit:
        """The same outfit with these slots emptied."""
        return self.model_copy(
            update={
                "item_ids": tuple(None if s in slots else item_id for s, item_id in enumerate(self.item_ids)),
                "item_images": {s: ref for s, ref in self.item_images.items() if s not in slots},
            }
        )


class GuidanceScales(Frozen):
    """Strengths of the three conditions in the guidance sum. Published: 12, 5, 4."""

    category: float = 12.0
    mutual: float = 5.0
    history: float = 4.0


class SamplerSettings(Frozen):
    """Everything besides seed, conditions and weights that decides what the sampler makes."""

    num_inference_steps: int = Field(50, ge=1, le=1000)
    ddim_eta: float = Field(1.0, ge=0, le=1, description="Noise of the DDIM step; 0 has no density.")
    guidance: GuidanceScales = GuidanceScales()
    mutual_weight: float = Field(0.1, ge=0, lt=1, description="Share of the mutual latents in the UNet input.")
    mutual_reduction: Literal["mean", "sum"] = "mean"
    legacy_null_history: bool = Field(False, description="Ignore the history, as the released weights were trained.")
    state_dtype: Literal["float16", "float32"] = Field(
        "float16", description="Type in which states are stored; the sampler continues from the stored value."
    )


class AdapterRef(Frozen):
    """Which adapter was active; version 0 is the base model without one."""

    version: int = Field(0, ge=0)
    digest: Digest | None = None

    @model_validator(mode="after")
    def _version_zero_has_no_weights(self) -> Self:
        if (self.version == 0) != (self.digest is None):
            raise ValueError("adapter version 0 means no adapter; every other version needs its digest")
        return self


class Candidate(Frozen):
    """One generated image for an empty slot."""

    candidate_id: str
    index: int = Field(ge=0, description="k: position among the candidates of its outfit.")
    seed: int = Field(ge=0, lt=2**63)
    image: ArtifactRef


class CandidateSet(Frozen):
    """The K candidates for one slot of one outfit, with what reproduces them."""

    schema_version: Literal[1] = 1
    set_id: Name
    outfit: Outfit
    slot: int = Field(ge=0)
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    sampler: SamplerSettings
    base_digest: Digest
    adapter: AdapterRef = AdapterRef()
    trajectory: ArtifactRef | None = None
    history: tuple[ItemSource, ...] | None = Field(
        None, description="What the user wore in the slot's category, where the request said so; None: the catalogue's."
    )

    @model_validator(mode="after")
    def _slot_is_empty(self) -> Self:
        if self.slot not in self.outfit.empty_slots:
            raise ValueError(f"slot {self.slot} of outfit {self.outfit.outfit_id} is not empty")
        return self


class CandidateRequest(Frozen):
    """Ask for candidates of one empty slot: one per seed."""

    set_id: Name
    outfit: Outfit
    slot: int = Field(ge=0)
    seeds: tuple[int, ...] = Field(min_length=1)
    sampler: SamplerSettings | None = Field(None, description="None: the bundle's own.")
    history: tuple[ItemSource, ...] | None = Field(None, description="As in CandidateSet.")


class Score(Frozen):
    """What one judge says of one candidate: a value, or the reason why there is none."""

    candidate_id: str
    criterion: Criterion | Literal["votes"]
    judge_version: str
    value: float | None = None
    reason: str | None = Field(None, description="Why there is no value, e.g. 'no_history' or an error; never guessed.")
    is_final: bool = Field(True, description="False for a failure that a later attempt may mend.")
    diagnostics: dict[str, float | str] = {}

    @model_validator(mode="after")
    def _value_or_reason(self) -> Self:
        if (self.value is None) == (self.reason is None):
            raise ValueError("a score has either a value or the reason why it has none")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score must be finite, got {self.value}")
        return self


class JudgeInfo(Frozen):
    """What a judge measures, on which scale, and which version of it."""

    criterion: Criterion | Literal["votes"]
    version: str
    low: float
    high: float
    features: str | None = Field(None, description="Id of the image features that it compares, if it compares any.")
    embeddings: str | None = Field(
        None,
        description="SHA-256 of the catalogue's embeddings that it was given; none: it computes the items' features itself.",
    )


class ScoredSet(Frozen):
    """A candidate set with every score it was given."""

    candidate_set: CandidateSet
    scores: tuple[Score, ...] = ()

    def value(self, candidate_id: str, criterion: str) -> float | None:
        """The raw score of a candidate under a criterion; None while (or because) there is none."""
        return next((s.value for s in self.scores if s.candidate_id == candidate_id and s.criterion == criterion), None)


class PreferencePair(Frozen):
    """Two candidates of one outfit: the better, the worse, and by how much."""

    set_id: Name
    chosen: int = Field(ge=0, description="Index of the better candidate.")
    rejected: int = Field(ge=0, description="Index of the worse candidate.")
    margin: float = Field(gt=0, description="Difference of the preference scores.")


class Interval(Frozen):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


class GateVerdict(Frozen):
    """Whether an adapter may serve, and the figures that decided."""

    is_promoted: bool
    reasons: tuple[str, ...]
    win_rate: Interval
    combined_delta: Interval
    diversity_ratio: float
    outfits: int


class AdapterManifest(Frozen):
    """What is known of one immutable adapter version."""

    schema_version: Literal[1] = 1
    version: int = Field(ge=1)
    digest: Digest
    parent: AdapterRef = AdapterRef()
    base_digest: Digest
    round_id: Name
    rank: int = Field(ge=1)
    targets: tuple[str, ...]
    created_at: str
    training: dict[str, float | int | str | bool | None] = {}
    verdict: GateVerdict | None = None

    @property
    def ref(self) -> AdapterRef:
        """The reference that candidates made with this version carry."""
        return AdapterRef(version=self.version, digest=self.digest)


class TrainedAdapter(Frozen):
    """Weights that a training run made, before the gate and the registry have seen them."""

    weights: ArtifactRef
    base_digest: Digest
    rank: int = Field(ge=1)
    targets: tuple[str, ...]
    figures: dict[str, float | int | str | bool | None] = {}


RoundStage = Literal["collect", "judge", "pair", "train", "gate", "publish", "done"]
ROUND_STAGES: tuple[RoundStage, ...] = ("collect", "judge", "pair", "train", "gate", "publish", "done")


class RoundRecord(Frozen):
    """The truth about one round; whatever else exists can be found from here."""

    schema_version: Literal[1] = 1
    round_id: Name
    seed: int = Field(ge=0)
    stage: RoundStage = "collect"
    adapter: AdapterRef = AdapterRef()
    set_ids: tuple[Name, ...] = ()
    settings: dict[str, object] = {}
    seconds: dict[str, float] = {}
    trained: TrainedAdapter | None = None
    published: AdapterRef | None = None
    verdict: GateVerdict | None = None


def candidate_seed(seed: int, round_index: int, outfit_id: int, slot: int, index: int) -> int:
    """Seed of candidate `index` for one slot of one outfit in one round; the same on every machine.

    A hash and not a sum: neighbouring outfits, rounds and candidates must not share noise.
    """
    text = f"{seed}/{round_index}/{outfit_id}/{slot}/{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def content_digest(content: bytes) -> str:
    """SHA-256 of the content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def content_ref(content: bytes, suffix: str) -> ArtifactRef:
    """The reference under which these bytes are stored; suffix without the dot."""
    return f"{content_digest(content)}.{suffix}"


def candidate_ids(candidate_sets: Iterable[CandidateSet]) -> list[str]:
    """Every candidate's id, in order."""
    return [candidate.candidate_id for candidate_set in candidate_sets for candidate in candidate_set.candidates]
