"""Sizes and hyper-parameters of a run. Light: nothing here loads a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from fashiondpo.contracts import CRITERIA, Frozen, SamplerSettings
from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.evaluation.gate import GateSettings
from fashiondpo.messages import MAX_SEED, SamplerChoice
from fashiondpo.preferences import JudgeCriterion, PreferenceSettings
from fashiondpo.storage.records import first_problem
from fashiondpo.training.config import TrainSettings, paper_settings

MINI_ASSETS = Path(__file__).resolve().parent.parent / "assets" / "mini"
"""Where a checkout of this repository keeps the mini models."""


class RunSettings(Frozen):
    """Sizes and hyper-parameters of a round and of its evaluation."""

    outfits: int = Field(200, ge=1, description="Of the training split, to learn from.")
    candidates: int = Field(7, ge=2, description="Per outfit.")
    gate_outfits: int = Field(60, ge=1, description="Of the validation split, on which the gate decides.")
    report_outfits: int = Field(120, ge=1, description="Of the test split, for the report alone.")
    seed: int = Field(0, ge=0, description="Of outfits and noise.")
    sampler: SamplerSettings | None = Field(None, description="None: the bundle's own.")
    training: TrainSettings = TrainSettings()
    preferences: PreferenceSettings = PreferenceSettings()
    gate: GateSettings = GateSettings()


RoundSource = Literal["split", "traffic"]
"""What a round learns from: outfits of the training split, or what was recorded while people were served."""


class TrainRequest(Frozen):
    """Start a round. What is left out stays as the mode has it; `{}` starts a round with the defaults."""

    source: RoundSource = "split"
    mode: Literal["default", "paper"] = Field("default", description="paper: the published procedure.")
    seed: int = Field(0, ge=0, lt=MAX_SEED, description="Of outfits, noise and training.")
    outfits: int | None = Field(
        None, ge=1, le=1_000_000, description="Of the training split, or recorded sets of the traffic, to learn from."
    )
    candidates: int | None = Field(None, ge=2, le=32, description="Per outfit.")
    gate_outfits: int | None = Field(None, ge=1, le=1_000_000, description="On which the gate decides.")
    weights: dict[JudgeCriterion, float] | None = Field(
        None, description="Of the judges; who is not named weighs nothing. The same as `preferences.weights`."
    )
    training: TrainSettings = Field(TrainSettings(), description="Only what shall differ from the mode.")
    preferences: PreferenceSettings = Field(PreferenceSettings(), description="Only what shall differ from the mode.")
    gate: GateSettings = Field(GateSettings(), description="Only what shall differ from the defaults.")
    sampler: SamplerChoice = Field(SamplerChoice(), description="Only what shall differ from the bundle's own.")

    @model_validator(mode="after")
    def _weights_are_given_once(self) -> Self:
        if self.weights is not None:
            if "weights" in self.preferences.model_fields_set:
                raise ValueError("weights are given twice: keep either `weights` or `preferences.weights`")
            PreferenceSettings(weights=self.weights)
        return self

    def run_settings(self, bundle_sampler: SamplerSettings) -> RunSettings:
        """The settings of the whole round.

        Args:
            bundle_sampler: what the bundle samples with unless told otherwise.

        Raises:
            InvalidInput: if the values cannot go together, or the gate could never promote what comes of them.
        """
        chosen = mode_settings(self.mode).model_dump(mode="json")
        for name in ("training", "preferences", "gate"):
            chosen[name].update(getattr(self, name).model_dump(mode="json", exclude_unset=True))
        sizes = self.model_dump(include={"seed", "outfits", "candidates", "gate_outfits"}, exclude_none=True)
        chosen.update(sizes)
        if self.weights is not None:
            chosen["preferences"]["weights"] = self.weights
        if "seed" not in self.training.model_fields_set:
            chosen["training"]["seed"] = self.seed
        chosen["sampler"] = chosen_sampler(bundle_sampler, self.sampler).model_dump(mode="json")
        try:
            settings = RunSettings.model_validate(chosen)
        except ValidationError as error:
            raise InvalidInput(f"these settings cannot be: {first_problem(error)}") from error
        _check_gate_can_promote(settings)
        return settings


def mode_settings(mode: Literal["default", "paper"]) -> RunSettings:
    """What a mode decides: ours, or the published procedure."""
    if mode == "paper":
        return RunSettings(training=paper_settings(), preferences=PreferenceSettings(mode="paper"))
    return RunSettings()


def chosen_sampler(own: SamplerSettings, choice: SamplerChoice) -> SamplerSettings:
    """The bundle's sampler settings, with what was chosen in place of its own."""
    given: dict[str, Any] = choice.model_dump(exclude_none=True)
    guidance = own.guidance.model_copy(update=given.pop("guidance", {}))
    return own.model_copy(update=given | {"guidance": guidance})


def read_bundle_sampler(folder: Path) -> SamplerSettings:
    """How the bundle in this folder samples unless told otherwise; nothing else of it is read.

    Raises:
        InvalidBundle: if the folder is none of a bundle.
    """
    path = folder / "difashion.json"
    try:
        return SamplerSettings.model_validate(json.loads(path.read_bytes())["sampler"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidBundle(f"{path} does not say how the bundle samples: {error}") from error


def _check_gate_can_promote(settings: RunSettings) -> None:
    if settings.gate_outfits < settings.gate.min_outfits:
        raise InvalidInput(
            f"gate_outfits is {settings.gate_outfits}, but the gate wants {settings.gate.min_outfits}: it could never "
            "promote anything; raise gate_outfits, or lower gate.min_outfits"
        )
    if not any(settings.preferences.weights.get(criterion) for criterion in CRITERIA):
        raise InvalidInput(
            f"only {', '.join(settings.preferences.criteria)} has a weight, but the gate can ask nobody but "
            f"{', '.join(CRITERIA)}: give at least one of them a weight"
        )
