"""Compatibility: how well a candidate goes with the other items of its outfit, by VBPR on CLIP features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from fashiondpo.contracts import JudgeInfo, Score
from fashiondpo.errors import FashionDPOError, InvalidInput
from fashiondpo.judges.base import JudgeInput, Outcome, Scored, Unscored, check_input, to_scores, unscored
from fashiondpo.judges.features import ImageFeatures
from fashiondpo.judges.item_features import CatalogueFeatures, GarmentFeatures, catalogue_features
from fashiondpo.judges.vbpr import VBPR
from fashiondpo.outfits.model import Catalogue
from fashiondpo.telemetry import log

NOT_REPRODUCIBLE = "+features-not-reproducible"
"""Ends the version of a judge whose weights were trained on features that nobody can compute again."""


class CompatibilityJudge:
    """VBPR's score of the candidate against the given items; unbounded, higher goes better together."""

    def __init__(self, vbpr: VBPR, features: ImageFeatures, catalogue: Catalogue | CatalogueFeatures) -> None:
        """Put the parts together.

        Args:
            vbpr: trained network.
            features: embeds the candidates.
            catalogue: where the other items come from; pass its features to share them with other judges.

        Raises:
            InvalidInput: if the network was trained on other features.
        """
        config = vbpr.config
        if config.features_are_reproducible and config.feature_id != features.feature_id:
            raise InvalidInput(
                f"VBPR was trained on features {config.feature_id!r}, got {features.feature_id!r}: "
                "use the CLIP model it was trained with, or train VBPR anew"
            )
        if config.feature_dim != features.dim:
            raise InvalidInput(f"VBPR takes features of width {config.feature_dim}, got {features.dim}")
        self._vbpr, self._features = vbpr.eval(), features
        self._items = catalogue_features(features, catalogue)
        if not config.features_are_reproducible:
            log().warning(
                "compatibility features are not reproducible",
                trained_on=config.feature_id,
                scored_on=features.feature_id,
                advice="train VBPR anew with `fashiondpo train-vbpr` for scores that mean something",
            )
        mark = "" if config.features_are_reproducible else NOT_REPRODUCIBLE
        self._info = JudgeInfo(
            criterion="compatibility",
            version=f"{vbpr.version}+{features.feature_id}{mark}",
            low=-1e6,
            high=1e6,
            features=features.feature_id,
            embeddings=self._items.embeddings_digest,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        features: ImageFeatures,
        catalogue: Catalogue | CatalogueFeatures,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load VBPR from a folder or a published file; raises InvalidBundle, and InvalidInput as the constructor."""
        return cls(VBPR.load(folder, device), features, catalogue)

    @property
    def info(self) -> JudgeInfo:
        """Criterion and version, which says where features are not reproducible; the bounds are nominal."""
        return self._info

    @torch.inference_mode()
    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        """One score per candidate, in order; 'no_outfit' where no other item is given to compare with."""
        garments = GarmentFeatures(self._items)
        outfits = [self._given_features(judge_input, garments) for judge_input in inputs]
        ready = [row for row, outfit in enumerate(outfits) if isinstance(outfit, Tensor)]
        outcomes: list[Outcome] = [outfit if isinstance(outfit, Unscored) else Unscored("") for outfit in outfits]
        if ready:
            given = [outfit for outfit in outfits if isinstance(outfit, Tensor)]
            values = self._values(self._features.images([inputs[row].image for row in ready]), given)
            for row, outfit, value in zip(ready, given, values, strict=True):
                outcomes[row] = Scored(value, {"given_items": float(len(outfit))})
        return to_scores(inputs, self._info, outcomes)

    def _given_features(self, judge_input: JudgeInput, garments: GarmentFeatures) -> Tensor | Unscored:
        try:
            check_input(judge_input)
            given = judge_input.outfit.without(judge_input.slot).given_items
            return garments.of(given, judge_input.pictures) if given else Unscored("no_outfit")
        except FashionDPOError as error:
            return unscored(error)

    def _values(self, candidates: Tensor, given: Sequence[Tensor]) -> list[float]:
        device = self._vbpr.feature_mean.device
        others = torch.nn.utils.rnn.pad_sequence(list(given), batch_first=True)
        counts = torch.tensor([len(outfit) for outfit in given])
        is_given = torch.arange(others.shape[1]) < counts[:, None]
        scores: Tensor = self._vbpr(candidates.unsqueeze(1).to(device), others.to(device), is_given.to(device))
        return [float(score) for score in scores.squeeze(1).cpu()]
