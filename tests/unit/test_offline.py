"""The pipeline's parts in one process, each by itself, over a tiny bundle that really paints and really learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fashiondpo.contracts import AdapterRef, PreferencePair, content_digest
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import Cancelled, Conflict, InvalidAdapter, InvalidInput, PolicyMismatch, Unavailable
from fashiondpo.judges.base import Scored, Unscored, to_scores
from fashiondpo.offline import LocalGenerator, LocalJudge, LocalTrainer, blank_requests, judge_inputs, load_weights
from fashiondpo.offline_evaluation import LocalEvaluator
from fashiondpo.outfits.images import encode_png
from fashiondpo.storage.adapters import MemoryAdapters
from fashiondpo.storage.artifacts import MemoryArtifacts
from tests.tiny_models import TINY_SAMPLER, build_tiny_bundle, random_adapter
from tests.tiny_rounds import HISTORY, SLOTS, Squares, blanks, same_weights
from tests.unit.offline_shop import CANDIDATES, LEARN, Brightness, assert_same_look, requests
from tests.unit.training.small_runs import output


@pytest.fixture
def generator() -> LocalGenerator:
    return LocalGenerator(build_tiny_bundle(), Squares(), HISTORY, MemoryArtifacts())


@pytest.fixture
def adapter(generator) -> tuple[AdapterRef, AdapterWeights]:
    weights = random_adapter(generator.bundle)
    return AdapterRef(version=3, digest=content_digest(weights.to_bytes())), weights


class TestEvaluator:
    def evaluator(self, generator, judge, asked=None, **options) -> LocalEvaluator:
        asked = requests(2) if asked is None else asked
        local = LocalJudge(judge, generator.artifacts)
        return LocalEvaluator(generator, [local], blanks(2), asked, lambda sets: np.ones(len(sets)), **options)

    def test_gives_the_generator_its_own_adapter_back(self, generator, adapter):
        generator.activate(*adapter)
        with_adapter = output(generator.bundle)
        measured = self.evaluator(generator, Brightness()).measure(AdapterRef(), None)
        assert {found.adapter.version for found in measured.candidate_sets} == {0}
        assert generator.adapter == adapter[0]
        assert torch.equal(output(generator.bundle), with_adapter)

    def test_a_score_that_there_cannot_be_is_a_gap(self, generator):
        class Particular(Brightness):
            def score(self, inputs):
                gap = Unscored("no_history")
                return to_scores(inputs, self.info, [gap, *(Scored(1.0) for _ in inputs[1:])])

        measured = self.evaluator(generator, Particular()).measure(AdapterRef(), None).measured
        assert np.isnan(measured.scores[0, 0, 0])
        assert np.isfinite(measured.scores).sum() == measured.scores.size - 1

    def test_a_score_that_a_judge_still_owes_is_not_guessed(self, generator):
        class Tired(Brightness):
            def score(self, inputs):
                return to_scores(inputs, self.info, [Unscored("no answer", is_final=False)] * len(inputs))

        with pytest.raises(Unavailable, match="8 held-out scores are missing, the first because of: no answer"):
            self.evaluator(generator, Tired()).measure(AdapterRef(), None)

    def test_needs_something_to_paint(self, generator):
        with pytest.raises(InvalidInput, match="no held-out outfits"):
            self.evaluator(generator, Brightness(), []).measure(AdapterRef(), None)

    def test_hands_held_out_metrics_the_sets_and_their_blanks(self, generator):
        seen = []

        def metrics(sets, of):
            seen.append(([found.outfit for found in sets], [blank.outfit for blank in of]))
            return {"share": np.full(len(sets), 0.5)}

        measured = self.evaluator(generator, Brightness(), held_out=metrics).measure(AdapterRef(), None).measured
        assert measured.held_out["share"].tolist() == [0.5, 0.5]
        assert seen[0][0] == seen[0][1]


class TestGenerator:
    def test_activating_and_deactivating_leaves_the_base_model_untouched(self, generator, adapter):
        before = output(generator.bundle)
        for _ in range(3):
            generator.activate(*adapter)
            assert not torch.equal(output(generator.bundle), before)
            generator.activate(AdapterRef(), None)
            assert torch.equal(output(generator.bundle), before)
        assert not any(parameter.requires_grad for parameter in generator.bundle.unet.parameters())

    def test_paints_with_its_adapter_whatever_others_did_to_the_bundle_meanwhile(self, generator, adapter):
        generator.activate(*adapter)
        (expected,) = generator.generate(requests(1))
        other = LocalGenerator(generator.bundle, Squares(), HISTORY, generator.artifacts)
        (base,) = other.generate(requests(1))
        (again,) = generator.generate(requests(1))
        assert again == expected
        assert base.candidates != expected.candidates
        assert (base.adapter, again.adapter) == (AdapterRef(), adapter[0])

    def test_refuses_a_version_without_weights_and_weights_without_a_version(self, generator, adapter):
        ref, weights = adapter
        with pytest.raises(InvalidInput, match="adapter version 3 and no weights were given"):
            generator.activate(ref, None)
        with pytest.raises(InvalidInput, match="adapter version 0 and weights were given"):
            generator.activate(AdapterRef(), weights)

    def test_is_the_base_model_after_it_refused_weights(self, generator, adapter):
        before, (ref, weights) = output(generator.bundle), adapter
        generator.activate(ref, weights)
        with pytest.raises(InvalidAdapter, match="trained on base 444444444444"):
            generator.activate(ref, replace(weights, base_digest="4" * 64))
        assert generator.adapter == AdapterRef()
        assert torch.equal(output(generator.bundle), before)

    def test_splits_requests_of_different_settings_and_keeps_their_order(self, generator):
        fast = TINY_SAMPLER.model_copy(update={"num_inference_steps": 2})
        asked = [
            request.model_copy(update={"sampler": sampler, "seeds": request.seeds[:count]})
            for request, sampler, count in zip(
                requests(6), [None, fast, fast, TINY_SAMPLER, None, fast], [4, 4, 2, 4, 4, 4], strict=True
            )
        ]
        found = list(generator.generate(asked))
        assert [s.set_id for s in found] == [request.set_id for request in asked]
        assert [s.sampler.num_inference_steps for s in found] == [4, 2, 2, 4, 4, 2]
        assert [len(s.candidates) for s in found] == [4, 4, 2, 4, 4, 4]
        alone = [next(generator.generate([request])) for request in asked]
        assert_same_look(alone, found, generator.artifacts)

    @pytest.mark.parametrize("rows", [1, 5, 8, 100])
    def test_a_candidate_does_not_depend_on_what_it_was_painted_with(self, generator, rows):
        generator.rows_per_forward = rows
        (first, *_) = generator.generate(requests(3))
        generator.rows_per_forward = 2
        assert_same_look([first], [next(generator.generate(requests(1)))], generator.artifacts)

    def test_a_picture_of_an_item_stands_for_the_item(self, generator):
        (request,) = requests(1)
        slot = request.outfit.item_ids.index(request.outfit.given_item_ids[1])
        ref = generator.artifacts.put(encode_png(Squares().image(request.outfit.given_item_ids[1])), "png")
        outfit = request.outfit.without(slot).model_copy(update={"item_images": {slot: ref}})
        expected, found = generator.generate([request, request.model_copy(update={"outfit": outfit})])
        assert [c.image for c in found.candidates] == [c.image for c in expected.candidates]
        together = generator.complete_outfit(outfit.without(2), {0: (1, 2), 2: (3, 4)}, prefix="joint")
        as_items = generator.complete_outfit(request.outfit.without(2), {0: (1, 2), 2: (3, 4)}, prefix="joint")
        assert [[c.image for c in s.candidates] for s in together] == [
            [c.image for c in s.candidates] for s in as_items
        ]

    def test_takes_the_history_from_the_request_and_keeps_it(self, generator):
        (request,) = requests(1)
        ref = generator.artifacts.put(encode_png(Squares().image(9)), "png")
        asked = [request.model_copy(update={"history": history}) for history in (None, (0, 4), (), (9,), (ref,))]
        known, same, nothing, item, picture = generator.generate(asked)
        look = [[c.image for c in found.candidates] for found in (known, same, nothing, item, picture)]
        assert look[0] == look[1]
        assert look[3] == look[4]
        assert len({tuple(images) for images in look}) == 3
        assert [found.history for found in (known, nothing, picture)] == [None, (), (ref,)]

    def test_takes_the_history_of_an_outfit_painted_as_a_whole_by_category(self, generator):
        outfit, seeds = blanks(1)[0].outfit.without(2), {0: (1, 2), 2: (3, 4)}
        (first, second) = generator.complete_outfit(outfit, seeds, prefix="joint", history={SLOTS[0]: (9,)})
        assert (first.history, second.history) == ((9,), ())
        (known, _) = generator.complete_outfit(outfit, seeds, prefix="joint")
        assert [c.image for c in first.candidates] != [c.image for c in known.candidates]

    def test_names_every_candidate(self, generator):
        found = list(generator.generate(requests(3)))
        names = [candidate.candidate_id for s in found for candidate in s.candidates]
        assert len(set(names)) == 12
        assert [candidate.index for candidate in found[0].candidates] == [0, 1, 2, 3]

    def test_keeps_trajectories_only_if_asked_to(self, generator):
        generator.is_recorded = False
        (found,) = generator.generate(requests(1))
        assert found.trajectory is None
        assert {ref.rpartition(".")[2] for ref in generator.artifacts.refs()} == {"png"}

    def test_stops_when_it_is_told_to(self, generator):
        generator.should_stop = lambda: True
        with pytest.raises(Cancelled):
            next(generator.generate(requests(1)))


class TestJudge:
    def test_sees_every_candidate_of_every_set_in_order(self, generator):
        sets = list(generator.generate(requests(2)))
        inputs = judge_inputs(sets, generator.artifacts)
        assert [i.candidate_id for i in inputs] == [c.candidate_id for s in sets for c in s.candidates]
        assert [i.slot for i in inputs] == [0] * 4 + [1] * 4
        scores = LocalJudge(Brightness(), generator.artifacts).score(sets)
        assert [score.value for score in scores] == [float(i.image.mean()) for i in inputs]


class TestTrainer:
    @pytest.fixture
    def trainer(self, generator, tmp_path) -> LocalTrainer:
        settings = LEARN.model_copy(update={"passes": 1})
        return LocalTrainer(generator.bundle, generator.artifacts, MemoryAdapters(), settings, tmp_path)

    def pairs(self, sets) -> list[PreferencePair]:
        return [PreferencePair(set_id=s.set_id, chosen=0, rejected=1, margin=1.0) for s in sets]

    def test_gives_the_same_weights_when_it_is_asked_again(self, trainer, generator):
        sets = list(generator.generate(requests(2)))
        first = trainer.train("r1", sets, self.pairs(sets), AdapterRef())
        assert trainer.train("r1", sets, self.pairs(sets), AdapterRef()) == first
        assert trainer.train("r2", sets, self.pairs(sets), AdapterRef()).weights == first.weights

    def test_learns_from_the_sets_that_have_pairs(self, trainer, generator):
        sets = list(generator.generate(requests(4)))
        found = trainer.train("r1", sets, self.pairs(sets[1:3]), AdapterRef())
        alone = trainer.train("r2", sets[1:3], self.pairs(sets[1:3]), AdapterRef())
        assert (found.figures["outfits"], found.figures["pairs"]) == (2, 2)
        assert found.weights == alone.weights

    def test_refuses_candidates_of_another_adapter(self, trainer, generator, adapter):
        sets = list(generator.generate(requests(2)))
        with pytest.raises(PolicyMismatch, match="2 sets were made with another adapter than version 3"):
            trainer.train("r1", sets, self.pairs(sets), adapter[0])

    def test_refuses_candidates_that_were_not_recorded(self, trainer, generator):
        generator.is_recorded = False
        sets = list(generator.generate(requests(1)))
        with pytest.raises(InvalidInput, match="r1-0-0-0 was generated without recording its trajectory"):
            trainer.train("r1", sets, self.pairs(sets), AdapterRef())

    def test_refuses_a_round_without_pairs(self, trainer, generator):
        with pytest.raises(InvalidInput, match="no preference pair"):
            trainer.train("r1", list(generator.generate(requests(1))), [], AdapterRef())

    def test_refuses_other_pairs_under_the_name_of_a_round_that_was_trained(self, trainer, generator):
        sets, before = list(generator.generate(requests(2))), output(generator.bundle)
        trainer.train("r1", sets, self.pairs(sets), AdapterRef())
        with pytest.raises(Conflict, match="other data or settings"):
            trainer.train("r1", sets, self.pairs(sets[:1]), AdapterRef())
        assert torch.equal(output(generator.bundle), before)

    def test_takes_its_adapter_off_when_it_is_stopped(self, trainer, generator):
        sets, before = list(generator.generate(requests(2))), output(generator.bundle)
        with pytest.raises(Cancelled):
            replace(trainer, should_stop=lambda: True).train("r1", sets, self.pairs(sets), AdapterRef())
        assert torch.equal(output(generator.bundle), before)

    def test_starts_from_a_registered_parent(self, trainer, generator, adapter):
        _, weights = adapter
        manifest = trainer.adapters.publish(
            weights.to_bytes(),
            round_id="r0",
            base_digest=generator.bundle.digest,
            parent=AdapterRef(),
            rank=weights.rank,
            targets=weights.targets,
            training={},
            verdict=None,
        )
        generator.activate(manifest.ref, weights)
        sets = list(generator.generate(requests(2)))
        trained = trainer.train("r1", sets, self.pairs(sets), manifest.ref)
        child = AdapterWeights.from_bytes(generator.artifacts.get(trained.weights))
        assert child.rank == weights.rank
        moved = sum(float((child.tensors[key] - weights.tensors[key]).norm()) for key in weights.tensors)
        assert 0 < moved < 0.2 * sum(float(value.norm()) for value in weights.tensors.values())
        assert not same_weights(child, weights)


class TestBlankRequests:
    def test_have_a_seed_of_their_own_for_every_candidate(self):
        found = [*requests(6), *requests(6, prefix="r2", round_index=1)]
        seeds = [seed for request in found for seed in request.seeds]
        assert len(set(seeds)) == len(seeds) == 2 * 6 * CANDIDATES

    def test_are_the_same_for_the_same_seed(self):
        assert requests() == requests()

    def test_names_are_unique_though_users_share_an_outfit_and_files_hold_rows_twice(self):
        (blank,) = blanks(1)
        shared = replace(blank, outfit=blank.outfit.model_copy(update={"user_id": 3}))
        other_slot = replace(blank, outfit=blank.outfit.without(2), slot=2)
        found = blank_requests([blank, shared, other_slot, blank, blank], prefix="r1", candidates=2, seed=0)
        names = [request.set_id for request in found]
        assert names == ["r1-0-0-0", "r1-3-0-0", "r1-0-0-2", "r1-0-0-0-2", "r1-0-0-0-3"]


class TestLoadWeights:
    def test_are_none_for_the_base_model(self):
        assert load_weights(MemoryAdapters(), AdapterRef()) is None
