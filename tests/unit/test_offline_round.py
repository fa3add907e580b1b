"""A whole round in one process, with a tiny bundle that really paints and really learns; and what its gate lets through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fashiondpo.contracts import AdapterRef, CandidateRequest, PreferencePair, RoundRecord, TrainedAdapter
from fashiondpo.diffusion.model import load_bundle
from fashiondpo.diffusion.sampling import Visit, replay_log_probs
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import Cancelled, PolicyMismatch
from fashiondpo.offline import load_weights
from fashiondpo.pipeline import open_round, run_round
from fashiondpo.training.metrics import read_metrics
from tests.tiny_models import random_adapter, saved_tiny_bundle
from tests.unit.offline_shop import LEARN, Shop, assert_same_look, requests
from tests.unit.training.small_runs import output


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    saved_tiny_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def open_shop(bundle_folder, tmp_path_factory) -> Callable[[], Shop]:
    """Another shop with the same bundle."""
    return lambda: Shop(load_bundle(bundle_folder), tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def trained_shop(open_shop) -> Shop:
    """A shop after its first round."""
    shop = open_shop()
    run_round(open_round(shop.feedback, RoundRecord(round_id="r1", seed=0)), requests(), shop.parts())
    return shop


class TestWholeRound:
    def test_teaches_the_generator_what_its_judge_likes(self, trained_shop):
        record = trained_shop.feedback.round("r1")
        assert record.stage == "done"
        assert record.verdict.is_promoted, record.verdict.reasons
        assert record.verdict.combined_delta.low > 0
        assert record.verdict.outfits == 16
        assert trained_shop.adapters.alias("champion") == 1

    def test_publishes_weights_that_load(self, trained_shop):
        record, manifest = trained_shop.feedback.round("r1"), trained_shop.adapters.manifest(1)
        weights = load_weights(trained_shop.adapters, record.published)
        assert (weights.rank, weights.targets, weights.base_digest) == (
            manifest.rank,
            manifest.targets,
            trained_shop.bundle.digest,
        )
        assert manifest.training["outfits"] == 12
        assert manifest.training["updates"] == 12
        assert manifest.training["objective"] == "d3po"
        assert manifest.training["pairs"] == len(trained_shop.feedback.pairs("r1"))

    def asked_again(self, shop: Shop) -> list[CandidateRequest]:
        """Requests for the round's candidates, from nothing but what is recorded of them."""
        return [
            CandidateRequest(
                set_id=found.set_id,
                outfit=found.outfit,
                slot=found.slot,
                seeds=tuple(candidate.seed for candidate in found.candidates),
                sampler=found.sampler,
            )
            for found in map(shop.feedback.set, shop.feedback.set_ids("r1"))
        ]

    def test_keeps_candidates_with_what_reproduces_them_byte_for_byte(self, trained_shop):
        generator, asked = trained_shop.generator(), self.asked_again(trained_shop)
        per_call = trained_shop.parts().sets_per_call
        found = [*generator.generate(asked[:per_call]), *generator.generate(asked[per_call:])]
        assert found == [trained_shop.feedback.set(request.set_id) for request in asked]

    def test_keeps_candidates_that_look_the_same_when_painted_alone(self, trained_shop):
        request = self.asked_again(trained_shop)[10]
        found = list(trained_shop.generator().generate([request]))
        assert_same_look(found, [trained_shop.feedback.set(request.set_id)], trained_shop.artifacts)

    def test_records_densities_that_a_replay_finds_again(self, trained_shop):
        found = trained_shop.feedback.set("r1-0-0-0")
        trajectory = Trajectory.from_bytes(trained_shop.artifacts.get(found.trajectory))
        assert trajectory.seeds == tuple(candidate.seed for candidate in found.candidates)
        with torch.no_grad():
            visits = [Visit(trajectory, step) for step in range(trajectory.num_steps)]
            now = replay_log_probs(trained_shop.bundle.unet, trained_shop.bundle.schedule, visits)
        torch.testing.assert_close(torch.stack(now, dim=1), trajectory.log_probs, rtol=0, atol=1e-5)

    def test_leaves_the_base_model_as_it_was(self, trained_shop, bundle_folder):
        assert torch.equal(output(trained_shop.bundle), output(load_bundle(bundle_folder)))

    def test_goes_on_where_its_training_was_stopped(self, open_shop):
        shop, rows = open_shop(), []
        record = open_round(shop.feedback, RoundRecord(round_id="r1", seed=0))
        settings = LEARN.model_copy(update={"passes": 2})
        stopping = shop.trainer(
            settings, progress=lambda done, total, _: rows.append(done), should_stop=lambda: len(rows) == 1
        )
        with pytest.raises(Cancelled, match="training was stopped after 1 of 2 updates"):
            run_round(record, requests(4), shop.parts(trainer=stopping, gate=shop.gate(2)))
        assert shop.feedback.round("r1").stage == "train"
        done = run_round(
            shop.feedback.round("r1"), requests(4), shop.parts(trainer=shop.trainer(settings), gate=shop.gate(2))
        )
        assert done.stage == "done"
        assert shop.adapters.versions() == (1,)
        assert [row["step"] for row in read_metrics(shop.folder / "runs" / "r1")] == [1, 2]

    def test_the_next_one_starts_from_the_champion(self, trained_shop):
        champion = trained_shop.adapters.manifest(1).ref
        one_pass = LEARN.model_copy(update={"passes": 1})
        parts = trained_shop.parts(trainer=trained_shop.trainer(one_pass), gate=trained_shop.gate(2))
        record = open_round(trained_shop.feedback, RoundRecord(round_id="r2", seed=0, adapter=champion))
        with pytest.raises(PolicyMismatch, match="made with adapter version 0, the round starts from version 1"):
            run_round(record, requests(4, prefix="r2", round_index=1), parts)
        parts.generator.activate(champion, load_weights(trained_shop.adapters, champion))
        done = run_round(record, requests(4, prefix="r2", round_index=1), parts)
        assert trained_shop.adapters.manifest(2).parent == champion
        assert {trained_shop.feedback.set(set_id).adapter.version for set_id in done.set_ids} == {1}
        first = read_metrics(trained_shop.folder / "runs" / "r2")[0]
        assert first["kl"] == pytest.approx(0, abs=1e-8), "the reference is the parent"


class TestGate:
    def bad(self, shop: Shop) -> TrainedAdapter:
        """Trained on the same candidates to do the opposite of what was liked."""
        record = shop.feedback.round("r1")
        sets = [shop.feedback.set(set_id) for set_id in record.set_ids]
        inverted = [
            PreferencePair(set_id=p.set_id, chosen=p.rejected, rejected=p.chosen, margin=p.margin)
            for p in shop.feedback.pairs("r1")
        ]
        return shop.trainer().train("inverted", sets, inverted, AdapterRef())

    def test_refuses_an_adapter_that_learnt_the_opposite(self, trained_shop):
        verdict = trained_shop.gate().decide(AdapterRef(), self.bad(trained_shop))
        assert not verdict.is_promoted
        assert verdict.combined_delta.mean < 0
        assert "lower confidence bound" in verdict.reasons[0]

    def test_refuses_weights_made_of_noise(self, trained_shop):
        weights = random_adapter(trained_shop.bundle, scale=30.0)
        trained = TrainedAdapter(
            weights=trained_shop.artifacts.put(weights.to_bytes(), "safetensors"),
            base_digest=trained_shop.bundle.digest,
            rank=weights.rank,
            targets=weights.targets,
        )
        assert not trained_shop.gate(8, min_outfits=8).decide(AdapterRef(), trained).is_promoted

    def test_refuses_what_only_a_few_outfits_speak_for(self, trained_shop):
        record = trained_shop.feedback.round("r1")
        verdict = trained_shop.gate(2).decide(record.adapter, record.trained)
        assert not verdict.is_promoted
        assert "compared on 2 held-out outfits, fewer than the 10 asked for" in verdict.reasons[0] + verdict.reasons[1]

    def test_refuses_the_parent_itself(self, trained_shop):
        record = trained_shop.feedback.round("r1")
        verdict = trained_shop.gate(2).decide(record.published, record.trained)
        assert not verdict.is_promoted
        assert (verdict.win_rate.mean, verdict.combined_delta.mean, verdict.diversity_ratio) == (0.5, 0, 1)

    def test_shows_what_it_compared(self, trained_shop):
        record = trained_shop.feedback.round("r1")
        comparison, before, after = trained_shop.gate(2).compare(record.adapter, record.trained)
        assert comparison.outfits == 2
        seeds = [[[c.seed for c in found.candidates] for found in side.candidate_sets] for side in (before, after)]
        assert seeds[0] == seeds[1], "both paint from the same noise"
        assert {found.adapter.version for found in before.candidate_sets} == {0}
        assert {found.adapter.digest for found in after.candidate_sets} == {record.published.digest}
