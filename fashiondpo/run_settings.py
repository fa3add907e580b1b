"""Sizes and hyper-parameters of a run. Light: nothing here loads a model."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fashiondpo.contracts import Frozen, SamplerSettings
from fashiondpo.evaluation.gate import GateSettings
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.training.config import TrainSettings

MINI_ASSETS = Path(__file__).resolve().parent.parent / "assets" / "mini"
"""Where a checkout of this repository keeps the mini models."""


class RunSettings(Frozen):
    """Sizes and hyper-parameters of a round and of its evaluation."""

    outfits: int = Field(100, ge=1, description="Of the training split, to learn from.")
    candidates: int = Field(7, ge=2, description="Per outfit.")
    gate_outfits: int = Field(60, ge=1, description="Of the validation split, on which the gate decides.")
    report_outfits: int = Field(120, ge=1, description="Of the test split, for the report alone.")
    seed: int = Field(0, ge=0, description="Of outfits and noise.")
    sampler: SamplerSettings | None = Field(None, description="None: the bundle's own.")
    training: TrainSettings = TrainSettings()
    preferences: PreferenceSettings = PreferenceSettings()
    gate: GateSettings = GateSettings()
