"""A run's folder: which round comes next, what it collects, and who judges it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fashiondpo.contracts import AdapterRef, RoundRecord
from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.offline import judge_inputs
from fashiondpo.offline_evaluation import MISMATCHED
from fashiondpo.outfits.model import History
from fashiondpo.workspace import Workspace, round_index
from tests.smoke_assets import SMALL_RUN
from tests.tiny_models import random_adapter


def finished(workspace: Workspace, record: RoundRecord) -> RoundRecord:
    """The round as if everything had been done."""
    workspace.feedback.put_round(done := record.model_copy(update={"stage": "done"}))
    return done


@pytest.fixture(scope="module")
def models(smoke_assets, tmp_path_factory) -> Workspace:
    """A workspace whose models and measurements may be shared."""
    return Workspace(tmp_path_factory.mktemp("models"), mini_assets=smoke_assets)


@pytest.fixture
def workspace(smoke_assets, tmp_path) -> Workspace:
    return Workspace(tmp_path / "run", mini_assets=smoke_assets)


class TestPlaces:
    def test_nothing_is_written_until_something_is_stored(self, workspace):
        assert workspace.champion() == AdapterRef()
        assert not workspace.folder.exists()

    def test_a_missing_one_is_named(self, smoke_assets, tmp_path):
        with pytest.raises(NotFound, match=f"judges: there is no folder {tmp_path / 'none'}"):
            Workspace(tmp_path / "run", judges_place=tmp_path / "none", mini_assets=smoke_assets)


class TestNextRound:
    def test_is_the_first_in_an_empty_folder(self, workspace):
        assert workspace.last_round() is None
        record = workspace.next_round(SMALL_RUN)
        assert (record.round_id, record.stage, record.adapter) == ("round-0001", "collect", AdapterRef())
        assert workspace.last_round() == record

    @pytest.mark.parametrize("stage", ["collect", "judge", "pair", "train", "gate", "publish"])
    def test_is_the_unfinished_one_whatever_its_stage(self, workspace, stage):
        record = workspace.next_round(SMALL_RUN).model_copy(update={"stage": stage})
        workspace.feedback.put_round(record)
        assert workspace.next_round(SMALL_RUN) == record

    def test_follows_a_finished_one_with_other_settings_if_asked(self, workspace):
        finished(workspace, workspace.next_round(SMALL_RUN))
        second = workspace.next_round(SMALL_RUN.model_copy(update={"seed": 3}))
        assert (second.round_id, round_index(second), second.seed) == ("round-0002", 2, 3)

    def test_is_refused_with_other_settings_while_one_is_unfinished(self, workspace):
        workspace.next_round(SMALL_RUN)
        with pytest.raises(InvalidInput, match=r"round-0001 .* has other settings for candidates: finish it"):
            workspace.next_round(SMALL_RUN.model_copy(update={"candidates": 4}))

    def test_does_not_care_how_long_the_report_is(self, workspace):
        record = workspace.next_round(SMALL_RUN)
        assert workspace.next_round(SMALL_RUN.model_copy(update={"report_outfits": 7})) == record

    @pytest.mark.parametrize(("size", "split"), [("outfits", "train"), ("gate_outfits", "valid")])
    def test_is_not_begun_with_more_outfits_than_there_are(self, workspace, size, split):
        with pytest.raises(InvalidInput, match=f"99 outfits were asked for, but '{split}'"):
            workspace.next_round(SMALL_RUN.model_copy(update={size: 99}))
        assert workspace.last_round() is None


class TestRequests:
    def test_are_the_same_for_the_whole_life_of_a_round(self, workspace):
        record = workspace.next_round(SMALL_RUN)
        assert workspace.requests(record, SMALL_RUN) == workspace.requests(record, SMALL_RUN)

    def test_ask_for_as_many_outfits_and_candidates_as_the_settings_say(self, workspace):
        requests = workspace.requests(workspace.next_round(SMALL_RUN), SMALL_RUN)
        assert [len(request.seeds) for request in requests] == [SMALL_RUN.candidates] * SMALL_RUN.outfits

    def test_differ_in_outfits_and_noise_between_rounds(self, workspace):
        first = finished(workspace, workspace.next_round(SMALL_RUN))
        assert_unlike(
            workspace.requests(first, SMALL_RUN), workspace.requests(workspace.next_round(SMALL_RUN), SMALL_RUN)
        )

    def test_differ_in_outfits_and_noise_between_seeds(self, workspace):
        record, other = workspace.next_round(SMALL_RUN), SMALL_RUN.model_copy(update={"seed": 1})
        assert_unlike(workspace.requests(record, SMALL_RUN), workspace.requests(record, other))

    def test_the_second_round_of_a_seed_is_not_the_first_of_the_next(self, workspace):
        first = finished(workspace, workspace.next_round(SMALL_RUN))
        second, other = workspace.next_round(SMALL_RUN), SMALL_RUN.model_copy(update={"seed": 1})
        assert_unlike(workspace.requests(second, SMALL_RUN), workspace.requests(first, other))

    def test_are_of_train_users_and_the_held_out_ones_never(self, workspace):
        every = SMALL_RUN.model_copy(update={"outfits": 36})
        trained = {request.outfit.user_id for request in workspace.requests(workspace.next_round(every), every)}
        assert trained == {outfit.user_id for outfit in workspace.data_set.split("train")}
        for split in ("valid", "test"):
            held_out = {blank.outfit.user_id for blank in workspace.evaluator(split, 36, every).blanks}
            assert held_out.isdisjoint(trained)


def assert_unlike(one, other):
    assert [r.outfit for r in one] != [r.outfit for r in other]
    assert {seed for r in one for seed in r.seeds}.isdisjoint(seed for r in other for seed in r.seeds)


class TestEvaluator:
    def test_measures_the_same_outfits_and_noise_every_time(self, workspace):
        one, again = (workspace.evaluator("test", 5, SMALL_RUN) for _ in range(2))
        assert one.requests == again.requests

    def test_valid_and_test_outfits_are_of_different_users(self, workspace):
        users = [
            {blank.outfit.user_id for blank in workspace.evaluator(split, 36, SMALL_RUN).blanks}
            for split in ("valid", "test")
        ]
        assert users[0].isdisjoint(users[1])

    def test_records_no_trajectories(self, models):
        measurement = models.evaluator("test", 2, SMALL_RUN).measure(AdapterRef(), None)
        assert {found.trajectory for found in measurement.candidate_sets} == {None}


@pytest.fixture(scope="module")
def painted(models):
    """Test outfits with candidates, and how they were measured."""
    evaluator = models.evaluator("test", 8, SMALL_RUN)
    return evaluator.blanks, evaluator.measure(AdapterRef(), None)


class TestJudges:
    def test_are_the_three_of_the_method(self, models):
        assert [judge.info.criterion for judge in models.judges("test")] == [
            "quality",
            "compatibility",
            "personalization",
        ]

    def test_know_the_histories_of_their_split_alone(self, models, painted):
        inputs = judge_inputs(painted[1].candidate_sets, models.artifacts)
        of_test, of_train = (models.judges(split)[2].score(inputs) for split in ("test", "train"))
        assert all(score.value is not None for score in of_test)
        assert {score.reason for score in of_train} == {"no_history"}

    def test_score_every_held_out_candidate(self, painted):
        scores = painted[1].measured.scores
        assert scores.shape == (8, SMALL_RUN.candidates, 3)
        assert np.isfinite(scores).all()


class TestHeldOutMetrics:
    def test_are_facts_about_the_mini_world_between_0_and_1(self, painted):
        held_out = painted[1].measured.held_out
        facts = {"realism", "precision", "category_accuracy", "harmony", "palette", "colour_match"}
        assert set(held_out) == {MISMATCHED} | facts
        for name in set(held_out) - {MISMATCHED}:
            assert ((held_out[name] >= 0) & (held_out[name] <= 1)).all()

    def test_show_every_candidate_to_another_user_with_a_history(self, models, painted):
        seen: list[tuple[int, int]] = []

        class Watching(PersonalizationJudge):
            def score(self, inputs):
                seen.extend(zip((i.outfit.outfit_id for i in inputs), (i.outfit.user_id for i in inputs), strict=True))
                return super().score(inputs)

        history = models.data_set.history("test")
        metrics = models.held_out_metrics("test")
        watching = replace(
            metrics, personalization=Watching(models.features, models.catalogue_features, history), judge=None
        )
        blanks, measurement = painted
        figures = watching(measurement.candidate_sets, blanks)
        owner = {blank.outfit.outfit_id: blank.outfit.user_id for blank in blanks}
        assert len(seen) == len(blanks) * SMALL_RUN.candidates
        assert all(user_id != owner[outfit_id] and user_id in history.user_ids for outfit_id, user_id in seen)
        assert (figures[MISMATCHED] == measurement.measured.held_out[MISMATCHED]).all()

    def test_have_no_mismatch_where_all_outfits_are_of_one_user(self, models, painted):
        blanks, measurement = painted
        figures = models.held_out_metrics("test")(measurement.candidate_sets[:1], blanks[:1])
        assert np.isnan(figures[MISMATCHED]).all()

    def test_leave_out_the_facts_where_no_held_out_judge_knows_the_world(self, smoke_assets, models, painted, tmp_path):
        for part in ("clip", "vbpr", "quality"):
            (tmp_path / "judges").mkdir(exist_ok=True)
            (tmp_path / "judges" / part).symlink_to(smoke_assets / "judges" / part)
        lesser = Workspace(models.folder, judges_place=tmp_path / "judges", mini_assets=smoke_assets)
        blanks, measurement = painted
        assert set(lesser.held_out_metrics("test")(measurement.candidate_sets, blanks)) == {MISMATCHED}

    def test_say_nothing_of_users_without_a_history(self, models, painted):
        blanks, measurement = painted
        nobody = PersonalizationJudge(models.features, models.catalogue_features, History({}))
        figures = replace(models.held_out_metrics("test"), personalization=nobody)(measurement.candidate_sets, blanks)
        assert np.isnan(figures[MISMATCHED]).all()


class TestParts:
    def test_paint_with_the_adapter_the_round_starts_from_and_not_with_today_s_champion(self, models):
        weights = random_adapter(models.bundle)
        champion = models.adapters.publish(
            weights.to_bytes(),
            round_id="earlier",
            base_digest=models.bundle.digest,
            parent=AdapterRef(),
            rank=weights.rank,
            targets=weights.targets,
            training={},
            verdict=None,
        ).ref
        models.adapters.activate(champion.version, is_forced=True)
        assert models.champion() == champion
        for ref in (AdapterRef(), champion):
            record = RoundRecord(round_id="round-0001", seed=0, adapter=ref)
            request = models.requests(record, SMALL_RUN)[:1]
            (found,) = models.parts(record, SMALL_RUN).generator.generate(request)
            assert found.adapter == ref

    def test_diversity_is_0_for_candidates_that_are_alike(self, models, painted):
        first = painted[1].candidate_sets[0]
        twins = tuple(c.model_copy(update={"image": first.candidates[0].image}) for c in first.candidates)
        found = models.diversity([first, first.model_copy(update={"candidates": twins})])
        assert found.shape == (2,)
        assert found[0] > 1e-4
        assert found[1] == pytest.approx(0, abs=1e-6)  # cosines of float32 features
