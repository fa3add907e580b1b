"""Bodies of HTTP requests and answers, shared by services and clients. Pydantic only; no web framework, no torch.

What is more than a message (candidate sets, scores, rounds) is a contract of `fashiondpo.contracts` and travels as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from fashiondpo.contracts import (
    NUM_CANDIDATES,
    AdapterManifest,
    AdapterRef,
    ArtifactRef,
    CandidateSet,
    Digest,
    Frozen,
    JudgeInfo,
    Name,
    Outfit,
    RoundRecord,
    RoundStage,
    Score,
)

Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/\r\n]*={0,2}[\r\n]*$", max_length=90_000_000)]
"""A picture file (PNG, JPEG, WebP, …) in base64, without a `data:` prefix. Services limit its size further."""

MAX_SEED = 2**53
"""Seeds below it mean the same to every JSON reader, those that know only double precision included."""


class Problem(Frozen):
    """What went wrong, as `application/problem+json` (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    code: str = Field(description="Stable name of this kind of problem; docs/operations.md lists them.")
    request_id: str | None = None
    errors: tuple[dict[str, JsonValue], ...] = Field((), description="Which fields of the payload are malformed.")


class Readiness(Frozen):
    """Whether a service can work, and which of the things it needs answers."""

    is_ready: bool
    checks: dict[str, str] = Field(description="By dependency: 'ok', or what is wrong.")


class ItemPicture(Frozen):
    """A garment: one of the catalogue's items, a picture sent along, or a picture in the artifact store."""

    item_id: int | None = Field(None, ge=0)
    image: Base64 | None = None
    artifact: ArtifactRef | None = None

    @model_validator(mode="after")
    def _is_one_of_the_three(self) -> Self:
        if sum(part is not None for part in (self.item_id, self.image, self.artifact)) != 1:
            raise ValueError("name a garment by exactly one of item_id, image and artifact")
        return self


class Slot(Frozen):
    """A position of the outfit: a garment, or nothing (the slot to fill). What is no catalogue item needs a category."""

    category_id: int | None = Field(None, ge=0, description="May be left out for an item of the catalogue.")
    item_id: int | None = Field(None, ge=0)
    image: Base64 | None = None
    artifact: ArtifactRef | None = None

    @property
    def is_empty(self) -> bool:
        """Whether this is a slot to fill."""
        return self.item_id is None and self.image is None and self.artifact is None

    @model_validator(mode="after")
    def _says_what_it_is(self) -> Self:
        if sum(part is not None for part in (self.item_id, self.image, self.artifact)) > 1:
            raise ValueError("a slot holds one garment: give at most one of item_id, image and artifact")
        if self.item_id is None and self.category_id is None:
            raise ValueError("an empty slot, or one with a picture, needs a category_id")
        return self


class OutfitRequest(Frozen):
    """One outfit to complete: one empty slot (PFITB), or several that are painted together (GOR)."""

    user_id: int = Field(ge=0)
    slots: tuple[Slot, ...] = Field(min_length=2, max_length=8)
    history: dict[int, tuple[ItemPicture, ...]] | None = Field(
        None,
        description="By category, what the user wore before; null: what the catalogue's histories know of the user.",
    )
    outfit_id: int | None = Field(
        None, ge=0, description="Part of the noise; its position in the request unless given."
    )
    set_id: Name | None = Field(None, description="Name of its candidate set; with several empty slots, a prefix.")
    seeds: tuple[tuple[int, ...], ...] | None = Field(
        None, description="For every empty slot one seed per candidate; derived from `seed` unless given."
    )

    @model_validator(mode="after")
    def _has_something_to_fill(self) -> Self:
        empty = sum(slot.is_empty for slot in self.slots)
        if not empty:
            raise ValueError("no slot is empty: leave out the garment of the slot that shall be filled")
        if self.seeds is not None:
            if len(self.seeds) != empty:
                raise ValueError(f"{empty} empty slots need as many rows of seeds, got {len(self.seeds)}")
            if len({len(row) for row in self.seeds}) != 1:
                raise ValueError("every empty slot needs the same number of seeds")
            if not all(0 <= seed < 2**63 for row in self.seeds for seed in row):
                raise ValueError("seeds lie between 0 and 2^63 - 1")
        return self


class GuidanceChoice(Frozen):
    """Guidance scales that differ from the generator's own."""

    category: float | None = Field(None, ge=-100, le=100)
    mutual: float | None = Field(None, ge=-100, le=100)
    history: float | None = Field(None, ge=-100, le=100)


class SamplerChoice(Frozen):
    """Sampler settings that differ from the generator's own; what is null stays as it is."""

    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    ddim_eta: float | None = Field(None, gt=0, le=1)
    guidance: GuidanceChoice = GuidanceChoice()
    mutual_weight: float | None = Field(None, ge=0, lt=1)
    mutual_reduction: Literal["mean", "sum"] | None = None
    legacy_null_history: bool | None = None
    state_dtype: Literal["float16", "float32"] | None = None


class GenerateRequest(Frozen):
    """Complete outfits: several candidate pictures for every empty slot."""

    outfits: tuple[OutfitRequest, ...] = Field(min_length=1, max_length=64)
    num_candidates: int = Field(NUM_CANDIDATES, ge=1, le=32)
    seed: int = Field(0, ge=0, lt=MAX_SEED)
    sampler: SamplerChoice = SamplerChoice()
    adapter_version: int | None = Field(
        None, ge=0, description="Paint with this version instead of the active one; needs the scope 'train'."
    )
    record: bool = Field(False, description="Keep the trajectories, so that candidates can be learned from.")
    round_id: Name | None = Field(
        None, description="The round that collects these; null: recorded sets join the traffic that rounds draw from."
    )
    deadline_s: float | None = Field(None, gt=0, le=86_400, description="Give up after so many seconds.")
    previews: bool = Field(False, description="Small pictures of the work in progress in the event stream.")

    @model_validator(mode="after")
    def _seeds_are_as_many_as_candidates(self) -> Self:
        for position, outfit in enumerate(self.outfits):
            if outfit.seeds is not None and len(outfit.seeds[0]) > 32:
                raise ValueError(f"outfit {position} has {len(outfit.seeds[0])} seeds per slot; the limit is 32")
        return self


GenerationStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class SetProgress(Frozen):
    """How far one candidate set is."""

    set_id: Name
    step: int = Field(ge=0)
    num_steps: int = Field(ge=1)
    previews: tuple[Base64, ...] = Field((), description="One small PNG per candidate, if they were asked for.")


class GenerationProgress(Frozen):
    """How far a generation is: denoising steps of all its candidate sets."""

    generation_id: Name
    status: GenerationStatus
    done: int = Field(ge=0)
    total: int = Field(ge=1)
    sets: tuple[SetProgress, ...] = Field((), description="Those that moved since the last event.")


class Generation(Frozen):
    """A generation with everything that is there of it, and what reproduces it."""

    generation_id: Name
    status: GenerationStatus
    done: int = Field(0, ge=0, description="Denoising steps that are done, over all candidate sets.")
    total: int = Field(1, ge=1)
    created_at: str
    finished_at: str | None = None
    candidate_sets: tuple[CandidateSet, ...] = Field((), description="Finished sets, in the order of the request.")
    adapter: AdapterRef | None = Field(None, description="Which adapter painted; null until painting begins.")
    base_digest: Digest
    scheduler: Literal["ddim"] = "ddim"
    rows_per_forward: int = Field(
        ge=1, description="Rows denoised together; the last digits of the noise depend on it."
    )
    problem: Problem | None = None


GENERATION_EVENTS: Mapping[str, type[GenerationProgress | CandidateSet | Generation | Problem]] = {
    "progress": GenerationProgress,
    "set": CandidateSet,
    "done": Generation,
    "error": Problem,
}
"""What the events of a generation's stream hold, by name; it ends with `done`, or with `error`."""


class AdapterRegistration(Frozen):
    """New adapter weights for the registry: sent along, or already in the artifact store."""

    weights: Base64 | None = Field(None, description="The safetensors file in base64.")
    artifact: ArtifactRef | None = None
    digest: Digest | None = Field(None, description="SHA-256 of the file, to be checked; of an upload.")
    round_id: Name = Field(description="Name under which the version is registered once; a round's or your own.")
    parent_version: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if (self.weights is None) == (self.artifact is None):
            raise ValueError("give either weights or artifact")
        return self


class AdapterActivation(Frozen):
    """How to activate a version."""

    force: bool = Field(False, description="Although the gate did not promote it; marked as such in the history.")


class AdapterState(Frozen):
    """The registry's versions, which one the registry wants, and which one this generator serves."""

    active: AdapterRef = Field(description="What new requests to this generator are painted with.")
    champion: int | None = Field(description="The registry's alias; a generator follows it within seconds.")
    previous: int | None
    loaded: tuple[AdapterRef, ...] = Field(description="Versions that are in memory, ready to paint.")
    problem: str | None = Field(None, description="Why this generator does not serve the champion, if it does not.")
    versions: tuple[AdapterManifest, ...]


class ScoreItem(Frozen):
    """One candidate to be judged: its picture, and the outfit it was made for."""

    candidate_id: str = Field(min_length=1, max_length=256)
    outfit: Outfit
    slot: int = Field(ge=0)
    image: Base64 | None = None
    artifact: ArtifactRef | None = None
    item_id: int | None = Field(None, ge=0, description="Judge an item of the catalogue in this slot.")
    history: tuple[ItemPicture, ...] | None = Field(
        None, description="What the user wore in this category; null: what the catalogue's histories know."
    )
    given_images: dict[int, Base64] = Field({}, description="By slot, pictures of given garments, sent along.")

    @model_validator(mode="after")
    def _has_one_picture(self) -> Self:
        if sum(part is not None for part in (self.image, self.artifact, self.item_id)) != 1:
            raise ValueError("give the candidate's picture as exactly one of image, artifact and item_id")
        return self


class ScoreRequest(Frozen):
    """A batch of candidates for one judge."""

    candidates: tuple[ScoreItem, ...] = Field(min_length=1, max_length=512)


class ScoreResponse(Frozen):
    """One score per candidate, in the order of the request; a candidate that cannot be scored has the reason."""

    judge: JudgeInfo
    scores: tuple[Score, ...]


class Vote(Frozen):
    """What a person thinks of one candidate."""

    candidate_id: str = Field(min_length=1, max_length=256)
    value: float = Field(ge=-1, le=1, allow_inf_nan=False, description="-1 dislikes, 1 likes; 0 takes a vote back.")


class FeedbackRequest(Frozen):
    """One person's votes on a candidate set; voting again replaces that person's votes on it."""

    set_id: Name
    voter_id: str = Field(min_length=1, max_length=128, description="Who votes; kept as a hash.")
    votes: tuple[Vote, ...] = Field(min_length=1, max_length=64)


class FeedbackResponse(Frozen):
    """The set's votes after this one was counted."""

    set_id: Name
    voters: int = Field(ge=1)
    scores: tuple[Score, ...]


RoundState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class RoundProgress(Frozen):
    """How far the stage in work is."""

    stage: RoundStage
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    figures: dict[str, float] = {}


class RoundView(Frozen):
    """A round as its readers see it: state, the record that is the truth about it, progress and metrics."""

    round_id: Name
    state: RoundState
    source: Literal["split", "traffic"]
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    attempts: int = Field(0, ge=0, description="How often a slice of it failed since it last moved.")
    is_cancel_requested: bool = False
    problem: Problem | None = None
    progress: RoundProgress | None = None
    record: RoundRecord
    metrics: tuple[dict[str, float], ...] = Field((), description="Figures of the training's updates, newest last.")


class RoundPage(Frozen):
    """A page of rounds, newest first."""

    rounds: tuple[RoundView, ...]
    next_cursor: str | None = Field(None, description="Pass as `cursor` for the next page; null on the last.")


class RoundEvent(Frozen):
    """Something that happened in a round."""

    event_id: str
    at: str
    kind: Literal["state", "stage", "progress", "verdict", "problem"]
    details: dict[str, JsonValue] = {}
