"""Instruments over the small world: every network real, none trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fashiondpo.evaluation.distributions import ReferenceSet
from fashiondpo.judges.compatibility import CompatibilityJudge
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.held_out import HeldOutConfig, HeldOutJudge, HeldOutNet
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.judges.quality import MiniQualityJudge, QualityConfig, QualityNet
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.metrics.categories import HeldOutClassifier
from fashiondpo.metrics.perceptual import PerceptualDistance
from fashiondpo.outfits.mini import MiniCatalogue, world_data_set
from fashiondpo.outfits.model import DataSet
from fashiondpo.paper_suite.instruments import Instruments
from fashiondpo.paper_suite.measuring import reference_sets
from fashiondpo.paper_suite.strangers import HistoryTastes
from fashiondpo.paper_suite.tasks import reference_item_ids
from tests.unit.judges.small_world import small_features, world


class MeanDifference(torch.nn.Module):
    """In the place of LPIPS: the mean absolute difference of pixels in -1…1."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one - other).abs().mean((1, 2, 3))


@dataclass(frozen=True)
class Bench:
    """What a measurement needs."""

    data: DataSet
    instruments: Instruments
    references: dict[str, ReferenceSet]

    def without_facts(self) -> Bench:
        return replace(self, instruments=replace(self.instruments, facts=None))


@pytest.fixture(scope="session")
def clip() -> OpenClipFeatures:
    return small_features()


@pytest.fixture(scope="session")
def bench(clip: OpenClipFeatures) -> Bench:
    data = world_data_set(world())
    assert isinstance(data.catalogue, MiniCatalogue)
    items = CatalogueFeatures(clip, data.catalogue)
    torch.manual_seed(0)
    network = HeldOutNet(HeldOutConfig(width=8))
    vbpr = VBPR(VBPRConfig(clip.dim, feature_id=clip.feature_id))
    judges = [
        MiniQualityJudge(QualityNet(QualityConfig(width=8))),
        CompatibilityJudge(vbpr, clip, items),
        PersonalizationJudge(clip, items, data.history("valid")),
    ]
    classifier = HeldOutClassifier(network)
    instruments = Instruments(
        judges=judges,
        labellers=[judge.info for judge in judges],
        clip=clip,
        items=items,
        tastes=HistoryTastes(items, data.history("valid"), seed=0),
        classifier=classifier,
        extractors=[classifier, clip],
        facts=HeldOutJudge(network, data.catalogue),
        perceptual=PerceptualDistance(MeanDifference(), "lpips-mean-difference"),
        evaluator=None,
        left_out=(),
    )
    real = reference_item_ids(data, "valid", seed=0)
    return Bench(data, instruments, reference_sets(instruments.extractors, items, real))


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
