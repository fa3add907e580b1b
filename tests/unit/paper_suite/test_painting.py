"""Candidates for the suite: painted once, found again, and shown to judges with what was painted beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fashiondpo.contracts import AdapterRef, content_digest
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import InvalidInput
from fashiondpo.offline import LocalGenerator, blank_requests
from fashiondpo.outfits.images import decode_image
from fashiondpo.paper_suite.painting import Painter, painted_filling, true_filling
from fashiondpo.paper_suite.tasks import PaperTask
from fashiondpo.storage.artifacts import MemoryArtifacts
from tests.tiny_models import TINY_SAMPLER, random_adapter, saved_tiny_bundle
from tests.tiny_rounds import HISTORY, Squares, blanks

CANDIDATES = 3


class Counting(LocalGenerator):
    """Counts the outfits that it really paints, and can be made to stop after some."""

    painted = 0
    stop_after = 10**9

    def generate(self, requests):
        for found in super().generate(requests):
            self._count()
            yield found

    def complete_outfit(self, *arguments, **options):
        self._count()
        return super().complete_outfit(*arguments, **options)

    def _count(self) -> None:
        if self.painted == self.stop_after:
            raise KeyboardInterrupt
        self.painted += 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> DiFashion:
    return saved_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def generator(bundle: DiFashion) -> Counting:
    return Counting(bundle, Squares(), HISTORY, MemoryArtifacts(), is_recorded=False)


@pytest.fixture
def painter(generator: Counting, tmp_path: Path) -> Painter:
    return Painter(generator, tmp_path / "painted", CANDIDATES, seed=0)


def pfitb(count: int) -> list[PaperTask]:
    return [PaperTask(b.outfit, {b.slot: b.true_item_id}, {b.slot: ()}) for b in blanks(count)]


def gor(count: int) -> list[PaperTask]:
    found = []
    for task in pfitb(count):
        every = dict(enumerate(task.complete.given_item_ids))
        found.append(PaperTask(task.outfit.without(*every), every, dict.fromkeys(every, ())))
    return found


class TestPaint:
    def test_fills_every_empty_slot_of_every_task_in_order(self, painter: Painter):
        tasks = [*pfitb(3), *gor(2)]
        for task, sets in zip(tasks, painter.paint(tasks), strict=True):
            assert tuple(s.slot for s in sets) == task.slots
            assert all(s.outfit == task.outfit and len(s.candidates) == CANDIDATES for s in sets)

    def test_paints_what_the_evaluation_of_a_run_paints(self, painter: Painter, generator: Counting):
        requests = blank_requests(blanks(3), prefix="test", candidates=CANDIDATES, seed=0)
        expected = [[c.image for c in s.candidates] for s in generator.generate(requests)]
        assert [[c.image for c in sets[0].candidates] for sets in painter.paint(pfitb(3))] == expected

    def test_tells_how_many_outfits_are_done(self, painter: Painter):
        told: list[tuple[int, int]] = []
        painter.paint(pfitb(2), lambda done, total, _: told.append((done, total)))
        painter.paint([*pfitb(2), *gor(1)], lambda done, total, _: told.append((done, total)))
        assert told == [(0, 2), (1, 2), (2, 2), (2, 3), (3, 3)]


@pytest.mark.parametrize("tasks", [pfitb(3), gor(2)], ids=["pfitb", "gor"])
class TestPaintingAgain:
    def test_finds_everything_that_was_painted(self, painter: Painter, generator: Counting, tasks):
        first = painter.paint(tasks)
        before = generator.painted
        assert painter.paint(tasks) == first
        assert generator.painted == before

    def test_goes_on_where_it_was_stopped(self, painter: Painter, generator: Counting, tasks, tmp_path: Path):
        whole = Painter(generator, tmp_path / "elsewhere", CANDIDATES, seed=0).paint(tasks)
        generator.painted, generator.stop_after = 0, len(tasks) - 1
        with pytest.raises(KeyboardInterrupt):
            painter.paint(tasks)
        generator.painted, generator.stop_after = 0, 10**9
        assert painter.paint(tasks) == whole
        assert generator.painted == 1

    def test_paints_anew_what_was_made_otherwise(self, painter: Painter, generator: Counting, bundle, tasks):
        painter.paint(tasks)
        before = generator.painted
        more_steps = TINY_SAMPLER.model_copy(update={"num_inference_steps": 5})
        for other in (
            Painter(generator, painter.folder, CANDIDATES, seed=1),
            Painter(generator, painter.folder, CANDIDATES - 1, seed=0),
            Painter(generator, painter.folder, CANDIDATES, seed=0, sampler=more_steps),
        ):
            other.paint(tasks)
        weights = random_adapter(bundle)
        generator.activate(AdapterRef(version=1, digest=content_digest(weights.to_bytes())), weights)
        adapted = painter.paint(tasks)
        assert {s.adapter.version for sets in adapted for s in sets} == {1}
        assert generator.painted == before + 4 * len(tasks)

    def test_paints_again_what_is_lost_or_damaged(self, painter: Painter, generator: Counting, tasks):
        first = painter.paint(tasks)
        before = generator.painted
        generator.artifacts.delete(first[0][0].candidates[0].image)
        last = f'"outfit_id": {tasks[-1].outfit.outfit_id},'
        (damaged,) = (path for path in painter.folder.iterdir() if last in path.read_text())
        damaged.write_text(damaged.read_text()[:-40])
        assert painter.paint(tasks) == first
        assert generator.painted == before + 2


class TestJudgeInputs:
    def test_of_one_slot_show_the_outfit_as_it_is(self, painter: Painter, generator: Counting):
        (task,) = pfitb(1)
        filling = painted_filling(task, painter.paint([task])[0], generator.artifacts)
        for judge_input, picture in zip(filling.judge_inputs(), filling.pictures[task.slots[0]], strict=True):
            assert judge_input.outfit == task.outfit
            assert judge_input.pictures == {}
            assert np.array_equal(judge_input.image, picture.image)

    def test_of_a_whole_outfit_show_what_was_painted_beside(self, painter: Painter, generator: Counting):
        (task,) = gor(1)
        sets = painter.paint([task])[0]
        inputs = painted_filling(task, sets, generator.artifacts).judge_inputs()
        assert [(i.slot, int(i.candidate_id[-1])) for i in inputs] == [
            (s, k) for s in range(4) for k in range(CANDIDATES)
        ]
        for judge_input in inputs:
            k = int(judge_input.candidate_id[-1])
            refs = {s.slot: s.candidates[k].image for s in sets}
            own = refs.pop(judge_input.slot)
            assert np.array_equal(judge_input.image, decode_image(generator.artifacts.get(own)))
            assert judge_input.outfit.item_images == refs
            assert set(judge_input.pictures) == set(refs.values())

    def test_of_the_true_items_are_pictures_of_the_catalogue(self):
        (task,) = gor(1)
        inputs = true_filling(task, Squares()).judge_inputs()
        items = task.complete.given_item_ids
        assert len(inputs) == 4
        for judge_input in inputs:
            assert np.array_equal(judge_input.image, Squares().image(items[judge_input.slot]))
            beside = [judge_input.pictures[ref] for ref in judge_input.outfit.without(judge_input.slot).given_items]
            expected = [Squares().image(item) for slot, item in enumerate(items) if slot != judge_input.slot]
            assert all(np.array_equal(a, b) for a, b in zip(beside, expected, strict=True))


class TestAnAbsentSlot:
    def test_cannot_be_painted(self, painter: Painter):
        outfit = blanks(1)[0].outfit
        wrong = PaperTask(outfit, {(outfit.empty_slots[0] + 1) % 4: 3}, {})
        with pytest.raises(InvalidInput, match="is not empty"):
            painter.paint([wrong])
