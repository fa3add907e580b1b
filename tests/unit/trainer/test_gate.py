"""The gate of a round: stopped anywhere it goes on, paints and asks nothing twice, and comes to the same verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fashiondpo.contracts import AdapterRef, JudgeInfo, Score, TrainedAdapter
from fashiondpo.errors import Cancelled, Unavailable
from fashiondpo.evaluation.gate import GateSettings
from fashiondpo.offline import LocalGenerator, blank_requests
from fashiondpo.storage.adapters import MemoryAdapters
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.feedback import MemoryFeedback
from fashiondpo.telemetry import no_progress
from services.trainer.gate import HeldOutParts, ResumableGate
from tests.tiny_models import random_adapter, saved_tiny_bundle
from tests.tiny_rounds import HISTORY, Squares, blanks

OUTFITS, CANDIDATES = 4, 2
SETS = 2 * OUTFITS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return saved_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@dataclass
class Critic:
    """Likes whatever the digest of a picture says; `away` so many times first."""

    judged: list[str] = field(default_factory=list)
    away: int = 0
    info = JudgeInfo(criterion="quality", version="1", low=0, high=1)

    def score(self, candidate_sets) -> list[Score]:
        if self.away:
            self.away -= 1
            raise Unavailable("the judge is away")
        found = [candidate for candidate_set in candidate_sets for candidate in candidate_set.candidates]
        self.judged += [candidate.candidate_id for candidate in found]
        return [
            Score(
                candidate_id=candidate.candidate_id,
                criterion="quality",
                judge_version="1",
                value=int(candidate.image[:8], 16) / 2**32,
            )
            for candidate in found
        ]


class Workshop:
    """A gate with everything around it; `steps` after which it is told to stop."""

    def __init__(self, bundle) -> None:
        self.bundle, self.artifacts, self.feedback = bundle, MemoryArtifacts(), MemoryFeedback()
        self.critic, self.painted = Critic(), 0
        content = random_adapter(bundle).to_bytes()
        self.trained = TrainedAdapter(
            weights=self.artifacts.put(content, "safetensors"), base_digest=bundle.digest, rank=4, targets=("to_q",)
        )

    def gate(self, *, stop_after: int = 10**9, progress=no_progress) -> ResumableGate:
        asked = [0]

        def should_stop() -> bool:
            asked[0] += 1
            return asked[0] > stop_after

        generator = LocalGenerator(
            self.bundle, Squares(), HISTORY, self.artifacts, is_recorded=False, should_stop=should_stop
        )
        return ResumableGate(
            round_id="round-0001",
            parts=HeldOutParts(generator, (self.critic,), self.feedback, sets_per_call=1),
            requests=lambda prefix: blank_requests(blanks(OUTFITS), prefix=prefix, candidates=CANDIDATES, seed=0),
            adapters=MemoryAdapters(),
            artifacts=self.artifacts,
            diversity=lambda sets: np.ones(len(sets)),
            weights={"quality": 1.0},
            settings=GateSettings(min_outfits=1),
            progress=progress,
            should_stop=should_stop,
        )


class TestGate:
    def test_that_is_stopped_again_and_again_comes_to_the_same_verdict_and_asks_nothing_twice(self, bundle):
        whole = Workshop(bundle)
        verdict = whole.gate().decide(AdapterRef(), whole.trained)
        cut = Workshop(bundle)
        found = None
        for _ in range(100):
            try:
                found = cut.gate(stop_after=6).decide(AdapterRef(), cut.trained)
                break
            except Cancelled:
                continue
        assert found == verdict
        assert sorted(cut.critic.judged) == sorted(whole.critic.judged)
        assert len(set(cut.critic.judged)) == len(cut.critic.judged) == SETS * CANDIDATES

    def test_keeps_what_was_painted_while_a_judge_is_away(self, bundle):
        workshop = Workshop(bundle)
        workshop.critic.away = 1
        with pytest.raises(Unavailable):
            workshop.gate().decide(AdapterRef(), workshop.trained)
        before = workshop.feedback.set_ids("gate-round-0001-before")
        assert len(before) == OUTFITS
        workshop.gate().decide(AdapterRef(), workshop.trained)
        assert workshop.feedback.set_ids("gate-round-0001-before") == before

    def test_paints_the_same_outfits_and_seeds_before_and_after(self, bundle):
        workshop = Workshop(bundle)
        workshop.gate().decide(AdapterRef(), workshop.trained)
        before, after = (
            [workshop.feedback.set(set_id) for set_id in workshop.feedback.set_ids(f"gate-round-0001-{side}")]
            for side in ("before", "after")
        )
        assert [(s.outfit, [c.seed for c in s.candidates]) for s in before] == [
            (s.outfit, [c.seed for c in s.candidates]) for s in after
        ]
        assert {s.adapter.version for s in before} == {0} and {s.adapter.version for s in after} == {1}

    def test_tells_its_progress_from_the_first_picture_to_the_last_score(self, bundle):
        told: list[tuple[int, int]] = []
        workshop = Workshop(bundle)
        workshop.gate(progress=lambda done, total, _: told.append((done, total))).decide(AdapterRef(), workshop.trained)
        assert [done for done, _ in told] == list(range(1, 2 * SETS + 1))
        assert {total for _, total in told} == {2 * SETS}

    def test_leaves_no_round_behind_in_the_list_of_rounds(self, bundle):
        workshop = Workshop(bundle)
        workshop.gate().decide(AdapterRef(), workshop.trained)
        assert workshop.feedback.round_ids() == ()
