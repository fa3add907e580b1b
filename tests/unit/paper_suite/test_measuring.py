"""What the suite measures, against the same figures worked out picture by picture."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from fashiondpo.contracts import JudgeInfo, content_ref
from fashiondpo.diffusion.conditions import category_prompt
from fashiondpo.errors import Unavailable
from fashiondpo.evaluation.distributions import frechet_distance, inception_score, kernel_distance
from fashiondpo.evaluation.paper_table import Measured, Task
from fashiondpo.judges.base import JudgeInput, Unscored, to_scores
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.pixels import square_batch
from fashiondpo.outfits.colour import is_harmonious, measured_colour
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import Image
from fashiondpo.paper_suite import measuring
from fashiondpo.paper_suite.measuring import measure, reference_sets
from fashiondpo.paper_suite.painting import Filling, Picture, true_filling
from fashiondpo.paper_suite.tasks import PaperTask, paper_tasks
from tests.unit.judges.small_world import garment
from tests.unit.paper_suite.conftest import Bench

K = 3


def painted(tasks: list[PaperTask], seed: int = 0) -> list[Filling]:
    """Garments of random colours in the place of candidates."""
    rng = np.random.default_rng(seed)

    def picture() -> Picture:
        image = garment(tuple(int(x) for x in rng.integers(0, 230, 3)))
        return Picture(content_ref(encode_png(image), "png"), image)

    return [Filling(task, {slot: tuple(picture() for _ in range(K)) for slot in task.slots}) for task in tasks]


def measured(bench: Bench, fillings: list[Filling]) -> Measured:
    data = bench.data
    return measure(iter(fillings), bench.instruments, bench.references, data.catalogue, data.categories)


@pytest.fixture(scope="module", params=["pfitb", "gor"])
def fillings(request: pytest.FixtureRequest, bench: Bench) -> list[Filling]:
    kind: Task = request.param
    return painted(paper_tasks(bench.data, "valid", kind, 11, seed=0))


@pytest.fixture(scope="module")
def found(bench: Bench, fillings: list[Filling]) -> Measured:
    return measured(bench, fillings)


def by_picture(fillings: list[Filling], value) -> list[float]:
    """A mean per outfit of what `value` says of every picture: the task, the slot, the candidate, its image."""
    return [
        float(
            np.mean(
                [
                    value(f.task, slot, k, p.image)
                    for slot, pictures in f.pictures.items()
                    for k, p in enumerate(pictures)
                ]
            )
        )
        for f in fillings
    ]


def vector(bench: Bench, image: Image) -> np.ndarray:
    return bench.instruments.clip.images([image]).double().numpy()[0]


class TestClip:
    def test_score_compares_with_the_categorys_sentence(self, bench: Bench, fillings, found):
        def value(task, slot, k, image):
            category = bench.data.categories[task.outfit.category_ids[slot]]
            sentence = bench.instruments.clip.texts([category_prompt(category)]).double().numpy()[0]
            return 100 * max(0.0, float(vector(bench, image) @ sentence))

        assert found.means["clip_score"] == pytest.approx(by_picture(fillings, value), abs=1e-4)

    def test_image_score_compares_with_the_true_item(self, bench: Bench, fillings, found):
        def value(task, slot, k, image):
            truth = vector(bench, bench.data.catalogue.image(task.true_item_ids[slot]))
            return 100 * max(0.0, float(vector(bench, image) @ truth))

        assert found.means["clip_image_score"] == pytest.approx(by_picture(fillings, value), abs=1e-4)

    def test_retrieval_asks_for_the_true_item_among_five(self, bench: Bench, fillings, found):
        def value(task, slot, k, image):
            if not task.wrong_item_ids[slot]:
                return math.nan
            own = vector(bench, image)
            scores = [
                float(own @ vector(bench, bench.data.catalogue.image(item)))
                for item in (task.true_item_ids[slot], *task.wrong_item_ids[slot])
            ]
            assert len(scores) == 5
            return float(scores[0] > max(scores[1:]))

        expected = np.array(by_picture(fillings, value))
        known = ~np.isnan(expected)
        assert known.any()
        assert found.means["retrieval"][known] == pytest.approx(expected[known])

    def test_history_is_compared_with_own_and_others(self, bench: Bench, fillings, found):
        history, catalogue = bench.data.history("valid"), bench.data.catalogue

        def similarity(image, user, category):
            items = history.of(user, category)
            if not items:
                return math.nan
            mean = np.mean([vector(bench, catalogue.image(item)) for item in items], axis=0)
            return float(vector(bench, image) @ mean / np.linalg.norm(mean))

        def own(task, slot, k, image):
            return similarity(image, task.outfit.user_id, task.outfit.category_ids[slot])

        def others(task, slot, k, image):
            category = task.outfit.category_ids[slot]
            strangers = bench.instruments.tastes.strangers(task.outfit.user_id, category)
            return float(np.mean([similarity(image, user, category) for user in strangers]))

        expected = np.array(by_picture(fillings, own)), np.array(by_picture(fillings, others))
        known = ~np.isnan(expected[0]) & ~np.isnan(expected[1])
        assert known.any()
        assert found.means["history"][known] == pytest.approx(expected[0][known], abs=1e-5)
        assert found.means["history_of_others"][known] == pytest.approx(expected[1][known], abs=1e-5)
        assert found.means["history_lead"][known] == pytest.approx((expected[0] - expected[1])[known], abs=1e-5)

    def test_diversity_is_the_distance_between_candidates_of_one_slot(self, bench: Bench, fillings, found):
        expected = [
            np.mean(
                [
                    np.linalg.norm(vector(bench, a.image) - vector(bench, b.image))
                    for pictures in f.pictures.values()
                    for a, b in combinations(pictures, 2)
                ]
            )
            for f in fillings
        ]
        assert found.means["diversity"] == pytest.approx(expected, abs=1e-5)


class TestJudges:
    def test_compatibility_of_a_candidate_counts_what_is_worn_with_it(self, bench: Bench, fillings, found):
        judge = bench.instruments.judges[1]
        vbpr, items = judge._vbpr, bench.instruments.items

        def value(task, slot, k, image):
            beside = [items.of([item])[0] if item is not None else None for item in task.outfit.item_ids]
            filling = next(f for f in fillings if f.task is task)
            for other, pictures in filling.pictures.items():
                if other != slot:
                    beside[other] = bench.instruments.clip.images([pictures[k].image])[0]
            others = np.stack([v.numpy() for v in beside if v is not None])
            with torch.no_grad():
                score = vbpr(
                    bench.instruments.clip.images([image])[None],
                    torch.from_numpy(others)[None],
                    torch.ones(1, len(others), dtype=torch.bool),
                )
            return float(score)

        assert found.means["judge_compatibility"] == pytest.approx(by_picture(fillings, value), abs=1e-4)

    def test_every_judge_of_the_run_is_asked(self, bench: Bench, found):
        assert {f"judge_{judge.info.criterion}" for judge in bench.instruments.judges} <= set(found.means)

    def test_one_that_may_answer_later_is_waited_for(self, bench: Bench, fillings):
        class Silent:
            info = JudgeInfo(criterion="quality", version="silent", low=0, high=1)

            def score(self, inputs: list[JudgeInput]):
                return to_scores(inputs, self.info, [Unscored("busy", is_final=False)] * len(inputs))

        silent = replace(bench, instruments=replace(bench.instruments, judges=[Silent()]))
        with pytest.raises(Unavailable, match="scores are missing, the first because of: busy"):
            measured(silent, fillings[:1])


class TestHeldOut:
    def test_accuracy_is_the_share_named_as_asked(self, bench: Bench, fillings, found):
        def value(task, slot, k, image):
            named = int(bench.instruments.classifier.probabilities([image]).argmax())
            return float(named == task.outfit.category_ids[slot])

        assert found.means["is_accuracy"] == pytest.approx(by_picture(fillings, value))

    def test_harmony_of_a_whole_outfit_is_that_of_its_pictures(self, bench: Bench, fillings, found):
        catalogue = bench.data.catalogue

        def value(task, slot, k, image):
            colours = [catalogue.colour(item) for item in task.outfit.given_item_ids]
            filling = next(f for f in fillings if f.task is task)
            colours += [measured_colour(p[k].image) for other, p in filling.pictures.items() if other != slot]
            return float(is_harmonious(measured_colour(image), colours))

        assert found.means["harmony"] == pytest.approx(by_picture(fillings, value))

    def test_lpips_compares_with_the_true_item_and_between_candidates(self, bench: Bench, fillings, found):
        def pixels(image: Image) -> np.ndarray:
            return square_batch([image], 64)[0].numpy()

        def value(task, slot, k, image):
            truth = bench.data.catalogue.image(task.true_item_ids[slot])
            return 2 * np.abs(pixels(image) - pixels(truth)).mean()

        assert found.means["lpips"] == pytest.approx(by_picture(fillings, value), abs=1e-5)
        between = [
            np.mean(
                [
                    2 * np.abs(pixels(a.image) - pixels(b.image)).mean()
                    for pictures in f.pictures.values()
                    for a, b in combinations(pictures, 2)
                ]
            )
            for f in fillings
        ]
        assert found.means["lpips_diversity"] == pytest.approx(between, abs=1e-5)


class TestWholeSets:
    def test_figures_are_those_of_all_pictures_against_the_real_ones(self, bench: Bench, fillings, found):
        images = [p.image for f in fillings for pictures in f.pictures.values() for p in pictures]
        held_out, clip = bench.instruments.extractors
        for extractor in (held_out, clip):
            name = extractor.feature_id
            vectors, real = extractor.images(images).double().numpy(), bench.references[name].vectors
            scale = 1 / math.sqrt(np.mean(real**2))
            assert found.figures[f"fid_{name}"].value() == pytest.approx(frechet_distance(vectors, real), rel=1e-4)
            expected = 1000 * kernel_distance(scale * vectors, scale * real)
            assert found.figures[f"kid_{name}"].value() == pytest.approx(expected, rel=1e-4)
        chances = bench.instruments.classifier.probabilities(images).numpy()
        assert found.figures["is"].value() == pytest.approx(inception_score(chances), rel=1e-6)


class TestTrueItems:
    @pytest.mark.parametrize("kind", ["pfitb", "gor"])
    def test_reach_the_most_where_they_are_compared_with_themselves(self, bench: Bench, kind):
        tasks = paper_tasks(bench.data, "valid", kind, 5, seed=0)
        found = measured(bench, [true_filling(task, bench.data.catalogue) for task in tasks])
        assert found.means["clip_image_score"] == pytest.approx(100)
        assert found.means["lpips"] == pytest.approx(0)
        assert found.means["colour_match"].mean() > 0.9
        assert np.isnan(found.means["diversity"]).all()
        assert np.nanmin(found.means["retrieval"]) > 0  # 1, or a share where two items look the same


class TestMeasure:
    def test_does_not_depend_on_how_many_outfits_are_in_memory(self, bench: Bench, fillings, found, monkeypatch):
        monkeypatch.setattr(measuring, "OUTFITS_AT_ONCE", 2)
        again = measured(bench, fillings)
        for name, values in found.means.items():
            assert again.means[name] == pytest.approx(values, nan_ok=True, abs=1e-4)

    def test_tells_how_far_it_is(self, bench: Bench, fillings):
        told: list[tuple[int, int]] = []
        data = bench.data
        measure(
            iter(fillings), bench.instruments, bench.references, data.catalogue, data.categories,
            progress=lambda done, total, _: told.append((done, total)), total=len(fillings),
        )  # fmt: skip
        assert told[-1] == (11, 11)
        assert all(a < b for a, b in pairwise(done for done, _ in told))


class TestReferenceSets:
    def test_are_the_features_of_real_pictures_in_order(self, bench: Bench, monkeypatch):
        monkeypatch.setattr(measuring, "REFERENCE_AT_ONCE", 3)
        item_ids = [5, 1, 9, 30]
        instruments = bench.instruments
        fresh = CatalogueFeatures(instruments.clip, bench.data.catalogue)
        found = reference_sets(instruments.extractors, fresh, item_ids)
        images = [bench.data.catalogue.image(item) for item in item_ids]
        for extractor in instruments.extractors:
            expected = extractor.images(images).double().numpy()
            assert found[extractor.feature_id].vectors == pytest.approx(expected, abs=1e-5)
