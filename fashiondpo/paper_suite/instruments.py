"""What the suite looks through: judges, CLIP, a classifier of categories, extractors of features; and which row is whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from fashiondpo.contracts import JudgeInfo
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.paper_table import Group, LeftOut, Metric
from fashiondpo.judges.base import Judge
from fashiondpo.judges.compatibility import CompatibilityJudge
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.held_out import HeldOutJudge
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.metrics.categories import CategoryClassifier, HeldOutClassifier, ZeroShotClassifier
from fashiondpo.outfits.mini import MiniCatalogue
from fashiondpo.outfits.model import Image
from fashiondpo.paper_suite.strangers import HistoryTastes
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.workspace import Workspace

if TYPE_CHECKING:
    from fashiondpo.metrics.perceptual import PerceptualDistance

RULES = "rules of the mini world"
PUBLISHED_FEATURES = "inception-v3"
"""Start of the id of those features whose KID others report: they are taken as they are."""


class FeatureExtractor(Protocol):
    """Turns pictures into vectors for distances between sets of pictures."""

    @property
    def feature_id(self) -> str:
        """Name and hash of the weights."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def images(self, images: Sequence[Image]) -> Tensor:
        """Shape (n, dim), float32 on the CPU."""


@dataclass(frozen=True)
class SuiteFiles:
    """Weights that somebody has at hand beside the run's own; nothing is ever fetched.

    Attributes:
        clip: a place of a CLIP model, see `fashiondpo.judges.clip_places`; the judges' own if None.
        inception: weights of the published FID.
        lpips: weights of LPIPS.
        evaluator: a VBPR folder or file that made no labels, trained on the features of `clip`.
    """

    clip: str | None = None
    inception: Path | None = None
    lpips: Path | None = None
    evaluator: Path | None = None


@dataclass(frozen=True)
class Instruments:
    """What the pictures are looked at with.

    Attributes:
        judges: those of the run.
        labellers: which of them made the labels.
        clip: embeds pictures and sentences.
        items: the catalogue through `clip`.
        tastes: users' histories through `clip`.
        classifier: names categories.
        extractors: for FID and KID.
        facts: the rules of the mini world, where it is one.
        perceptual: LPIPS, where its weights were given.
        evaluator: judges compatibility and made no labels, where one was given.
        left_out: what cannot be measured, and why.
    """

    judges: Sequence[Judge]
    labellers: Sequence[JudgeInfo]
    clip: OpenClipFeatures
    items: CatalogueFeatures
    tastes: HistoryTastes
    classifier: CategoryClassifier
    extractors: Sequence[FeatureExtractor]
    facts: HeldOutJudge | None
    perceptual: PerceptualDistance | None
    evaluator: Judge | None
    left_out: tuple[LeftOut, ...]

    def group_of(self, source: str) -> Group:
        """`shared` if a judge that made labels looks through the same network, else `held_out`."""
        network = self.clip.feature_id
        is_shared = network in source and any(network in labeller.version for labeller in self.labellers)
        return "shared" if is_shared else "held_out"

    def metrics(self) -> list[Metric]:
        """Every row of the table that may be there, in its order."""
        return [*self._of_sets(), *self._of_pictures(), *self._of_judges()]

    def _of_sets(self) -> list[Metric]:
        found = []
        for name in (extractor.feature_id for extractor in self.extractors):
            detail, group = f"features: {name}", self.group_of(name)
            found += [
                Metric(f"fid_{name}", "FID", detail, group, name, digits=None, is_lower_better=True, has_truth=False),
                Metric(
                    f"kid_{name}", "KID × 1000", detail, group, name, digits=None, is_lower_better=True, has_truth=False
                ),
            ]
        name, classes = self.classifier.name, len(self.classifier.category_ids)
        group = self.group_of(name)
        return [
            *found,
            Metric("is", "IS", f"1 to {classes}, the number of categories", group, name, digits=2),
            Metric("is_accuracy", "IS-accuracy", "named as the category that was asked for", group, name),
        ]

    def _of_pictures(self) -> list[Metric]:
        return [*self._seen_by_clip(), *self._held_out()]

    def _seen_by_clip(self) -> list[Metric]:
        source = self.clip.feature_id
        group = self.group_of(source)
        return [
            Metric("clip_score", "CLIP score", "picture and category", group, source, digits=2),
            Metric(
                "clip_image_score",
                "CLIP image score",
                "picture and true item",
                group,
                source,
                digits=2,
                has_truth=False,
            ),
            Metric("history", "Similarity to history", "the user's own, of the category", group, source),
            Metric("history_of_others", "… of other users", "mismatched baseline", group, source, is_lower_better=None),
            Metric("history_lead", "… own above others'", "what is personal", group, source),
            Metric(
                "retrieval",
                "Retrieval among five",
                "the true item comes first; chance: 0.2",
                group,
                source,
                has_truth=False,
            ),
            Metric("diversity", "Diversity", "distance between the candidates", group, source, has_truth=False),
        ]

    def _held_out(self) -> list[Metric]:
        found = []
        if self.perceptual is not None:
            name = self.perceptual.name
            found += [
                Metric(
                    "lpips", "LPIPS", "picture and true item", "held_out", name, is_lower_better=True, has_truth=False
                ),
                Metric(
                    "lpips_diversity", "LPIPS diversity", "between the candidates", "held_out", name, has_truth=False
                ),
            ]
        if self.evaluator is not None:
            version = self.evaluator.info.version
            detail = "by an evaluator that made no labels"
            found.append(Metric("evaluator", "Compatibility", detail, self.group_of(version), version))
        if self.facts is not None:
            found += [
                Metric("harmony", "Harmony", "compatibility: colours that go together", "held_out", RULES),
                Metric("palette", "Palette", "personalization: in the user's colours", "held_out", RULES),
                Metric("colour_match", "Colour match", "in the colour of the true item", "held_out", RULES),
            ]
        return found

    def _of_judges(self) -> list[Metric]:
        makers = {info.criterion for info in self.labellers}
        return [
            Metric(
                f"judge_{info.criterion}",
                info.criterion.capitalize(),
                "by the judge",
                "labels" if info.criterion in makers else self.group_of(info.version),
                info.version,
            )
            for info in (judge.info for judge in self.judges)
        ]


def open_instruments(
    workspace: Workspace, split: str, preferences: PreferenceSettings, files: SuiteFiles, *, seed: int
) -> Instruments:
    """Load what a run has and what was given.

    Raises:
        InvalidBundle: if a file or folder holds something else.
        InvalidInput: if the evaluator is the judge itself, or was trained on other features than those given.
    """
    data_set, device = workspace.data_set, workspace.device
    judges = workspace.judges(split)
    clip, items = workspace.features, workspace.catalogue_features
    if files.clip is not None:
        clip = OpenClipFeatures.load(files.clip, device)
        items = CatalogueFeatures(clip, data_set.catalogue)
    network = facts = evaluator = None
    if (folder := workspace.held_out_folder) is not None:
        network = HeldOutClassifier.load(folder, data_set.categories, device)
        if isinstance(data_set.catalogue, MiniCatalogue):
            facts = HeldOutJudge.load(folder, data_set.catalogue, device)
    if files.evaluator is not None:
        evaluator = CompatibilityJudge.load(files.evaluator, clip, items, device)
        if any(judge.info.version == evaluator.info.version for judge in judges):
            raise InvalidInput(f"--evaluator {files.evaluator} is the judge that made the labels: give another one")
    inception = None if files.inception is None else _inception(files.inception, device)
    return Instruments(
        judges=judges,
        labellers=[judge.info for judge in judges if judge.info.criterion in preferences.criteria],
        clip=clip,
        items=items,
        tastes=HistoryTastes(items, data_set.history(split), seed=seed),
        classifier=network or ZeroShotClassifier(clip, data_set.categories),
        extractors=[extractor for extractor in (inception, network, clip) if extractor is not None],
        facts=facts,
        perceptual=None if files.lpips is None else _perceptual(files.lpips, device),
        evaluator=evaluator,
        left_out=_left_out(files, has_rules=facts is not None),
    )


def _inception(path: Path, device: str) -> FeatureExtractor:
    from fashiondpo.metrics.inception import InceptionFeatures  # brings torch-fidelity along

    return InceptionFeatures.load(path, device)


def _perceptual(path: Path, device: str) -> PerceptualDistance:
    from fashiondpo.metrics.perceptual import PerceptualDistance  # brings torchmetrics along

    return PerceptualDistance.load(path, device)


def _left_out(files: SuiteFiles, *, has_rules: bool) -> tuple[LeftOut, ...]:
    reasons = {
        "FID and KID on Inception": None if files.inception else "no weights were given: --inception FILE",
        "LPIPS": None if files.lpips else "no weights were given: --lpips FILE",
        "Compatibility by another evaluator": (
            None if files.evaluator or has_rules else "none that made no labels was given: --evaluator FOLDER"
        ),
    }
    return tuple(LeftOut(title=title, reason=reason) for title, reason in reasons.items() if reason)
