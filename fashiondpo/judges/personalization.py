"""Personalization: how much a candidate resembles what its user wore in that category, by CLIP features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fashiondpo.contracts import ItemSource, JudgeInfo, Score
from fashiondpo.errors import FashionDPOError
from fashiondpo.judges.base import JudgeInput, Outcome, Scored, Unscored, check_input, to_scores, unscored
from fashiondpo.judges.features import ImageFeatures, OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures, GarmentFeatures, catalogue_features
from fashiondpo.outfits.model import Catalogue, History


@dataclass(frozen=True)
class _Taste:
    """A user's mean history embedding, shape (dim,), and what it was made from."""

    embedding: Tensor
    source: str
    items: int


class PersonalizationJudge:
    """Cosine between a candidate and the mean embedding of the user's items in the slot's category, -1…1.

    A history that comes with the candidate is taken as it is. Else, without history in that category the user's whole
    history counts. Without any the score is 'no_history'.
    """

    def __init__(self, features: ImageFeatures, catalogue: Catalogue | CatalogueFeatures, history: History) -> None:
        """Put the parts together.

        Args:
            features: embeds the candidates.
            catalogue: where the history's items come from; pass its features to share them with other judges.
            history: the users' earlier items.

        Raises:
            InvalidInput: if the catalogue's features are of another model.
        """
        self._features, self._history = features, history
        self._items = catalogue_features(features, catalogue)
        self._info = JudgeInfo(
            criterion="personalization",
            version=f"clip-history+{features.feature_id}",
            low=-1,
            high=1,
            features=features.feature_id,
            embeddings=self._items.embeddings_digest,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        catalogue: Catalogue | CatalogueFeatures,
        history: History,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load the CLIP model from its folder; raises InvalidBundle, and InvalidInput as the constructor."""
        return cls(OpenClipFeatures.load(folder, device), catalogue, history)

    @property
    def info(self) -> JudgeInfo:
        """Criterion, version and range."""
        return self._info

    @torch.inference_mode()
    def score(self, inputs: Sequence[JudgeInput]) -> list[Score]:
        """One score per candidate, in order; diagnostics say which history it was compared with."""
        garments = GarmentFeatures(self._items)
        tastes = [self._taste(judge_input, garments) for judge_input in inputs]
        ready = [row for row, taste in enumerate(tastes) if isinstance(taste, _Taste)]
        outcomes: list[Outcome] = [taste if isinstance(taste, Unscored) else Unscored("") for taste in tastes]
        if ready:
            known = [taste for taste in tastes if isinstance(taste, _Taste)]
            candidates = self._features.images([inputs[row].image for row in ready])
            cosines = F.cosine_similarity(candidates, torch.stack([taste.embedding for taste in known]))
            for row, taste, cosine in zip(ready, known, cosines, strict=True):
                diagnostics: dict[str, float | str] = {"history": taste.source, "history_items": float(taste.items)}
                outcomes[row] = Scored(float(cosine), diagnostics)
        return to_scores(inputs, self._info, outcomes)

    def _taste(self, judge_input: JudgeInput, garments: GarmentFeatures) -> _Taste | Unscored:
        try:
            check_input(judge_input)
            source, history = self._history_of(judge_input)
            if not history:
                return Unscored("no_history")
            vectors = garments.of(history, judge_input.pictures)
            return _Taste(F.normalize(vectors.mean(0), dim=0), source, len(history))
        except FashionDPOError as error:
            return unscored(error)

    def _history_of(self, judge_input: JudgeInput) -> tuple[str, tuple[ItemSource, ...]]:
        """Where the history comes from, and the history; one that came with the candidate counts before all others."""
        if judge_input.history is not None:
            return "inline", judge_input.history
        user_id = judge_input.outfit.user_id
        if of_category := self._history.of(user_id, judge_input.outfit.category_ids[judge_input.slot]):
            return "category", of_category
        return "all_categories", self._history.all_of(user_id)
