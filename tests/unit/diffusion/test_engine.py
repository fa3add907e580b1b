from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from fashiondpo.contracts import AdapterRef, GuidanceScales
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.engine import Engine, NoMetrics
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    FashionDPOError,
    InvalidInput,
    MissingImages,
    Overloaded,
    TooLarge,
    Unavailable,
    UnknownItem,
)
from fashiondpo.outfits.images import white_image
from fashiondpo.outfits.model import Image
from tests.tiny_engines import PATIENCE_S, Told, ask, fill_in, paint, painted_together, running_engine, settings
from tests.tiny_models import build_tiny_bundle
from tests.tiny_rounds import HISTORY, Squares

LONG = settings(num_inference_steps=40)
REF = f"{'a' * 64}.png"


@pytest.fixture(scope="module")
def own_bundle() -> DiFashion:
    return build_tiny_bundle()


@pytest.fixture
def engine(own_bundle) -> Iterator[Engine]:
    with running_engine(own_bundle, max_queued_rows=21) as running:
        yield running


class Held:
    """Keeps an engine between two steps of a request of seven rows until it is let go."""

    def __init__(self, engine: Engine, *, steps: int = 2) -> None:
        self._go = threading.Event()
        self.told = Told(on_advanced=lambda step: self._go.wait(PATIENCE_S) and None)
        sampler = settings(num_inference_steps=steps)
        engine.submit(ask("holds", fill_in(0, range(7)), sampler=sampler), self.told)
        self.told.begun()

    def let_go(self) -> None:
        self._go.set()


def until(claim: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


class TestWhatAnObserverIsTold:
    def test_begin_every_step_every_set_and_the_end(self, engine):
        told = Told()
        engine.submit(ask("r", fill_in(1, range(3)), painted_together(2, (0, 3), 2)), told)
        assert [result.set_id for result in told.result()] == ["set-1", "set-2-0", "set-2-3"]
        for name in ("set-1", "set-2-0", "set-2-3"):
            assert [step for step in told.steps if step[0] == name] == [(name, step, 4) for step in (1, 2, 3, 4)]
        assert told.events[0] == "started"
        assert (told.events.count("started"), told.events.count("ended")) == (1, 1)
        assert told.events[-2:] == ["finished_set", "ended"]
        assert told.adapters == [AdapterRef()]

    def test_what_reproduces_a_set(self, engine, own_bundle):
        (result,) = paint(engine, ask("r", fill_in(1, (5, 6))))
        assert (result.slot, result.history) == (1, None)
        assert result.outfit.empty_slots == (1,)
        assert result.trajectory.seeds == (5, 6)
        assert result.trajectory.base_digest == own_bundle.digest
        assert [image.shape for image in result.images] == [(32, 32, 3)] * 2

    def test_previews_where_they_are_wanted(self, engine):
        wanted, unwanted = Told(), Told()
        engine.submit(ask("wanted", fill_in(1, range(3)), sampler=LONG, wants_previews=True), wanted)
        engine.submit(ask("unwanted", fill_in(1, range(3)), sampler=LONG), unwanted)
        assert torch.equal(wanted.result()[0].trajectory.latents, unwanted.result()[0].trajectory.latents)
        assert [step for step, images in enumerate(wanted.previews, 1) if images] == [8, 16, 24, 32]
        assert all(image.shape == (32, 32, 3) for images in wanted.previews for image in images)
        assert not any(unwanted.previews)

    def test_the_last_preview_is_nearly_the_picture(self, engine):
        told = Told()
        engine.submit(ask("r", fill_in(1, range(3)), sampler=LONG, wants_previews=True), told)
        finished = np.stack(told.result()[0].images).astype(float)
        previews = [np.stack(images).astype(float) for images in told.previews if images]
        errors = [np.abs(shown - finished).mean() for shown in previews]
        assert errors[-1] == min(errors)


class TestHistoryAndPictures:
    def test_a_history_in_the_request_comes_before_what_is_known(self, engine):
        task = fill_in(1, range(3))
        category_id = task.outfit.category_ids[1]
        known = HISTORY.of(task.outfit.user_id, category_id)
        (usual,) = paint(engine, ask("a", task))
        (same,) = paint(engine, ask("b", fill_in(1, range(3), history={category_id: known})))
        (none,) = paint(engine, ask("c", fill_in(1, range(3), history={})))
        assert torch.equal(usual.trajectory.latents, same.trajectory.latents)
        assert not torch.equal(usual.trajectory.latents, none.trajectory.latents)
        assert [result.history for result in (usual, same, none)] == [None, known, ()]

    def test_a_picture_of_an_item_stands_for_the_item(self, engine):
        task = fill_in(1, range(3))
        item_id = task.outfit.item_ids[0]
        outfit = task.outfit.without(0).model_copy(update={"item_images": {0: REF}})
        pictures = {REF: Squares().image(item_id)}
        (usual,) = paint(engine, ask("a", task))
        pictured = type(task)(outfit, task.set_ids, task.seeds, pictures=pictures)
        (same,) = paint(engine, ask("b", pictured))
        assert torch.equal(usual.trajectory.latents, same.trajectory.latents)


class WithoutSomePictures(Squares):
    """Item 30 has no picture; looking at item 31 fails in a way that nobody foresaw."""

    def image(self, item_id: int) -> Image:
        if item_id == 30:
            raise MissingImages("somewhere", [item_id])
        if item_id == 31:
            raise RuntimeError("the disk is gone")
        return super().image(item_id)


class TestFaults:
    @pytest.fixture
    def engine(self, own_bundle) -> Iterator[Engine]:
        encoder = ConditionEncoder(own_bundle, WithoutSomePictures(), own_bundle.categories)
        engine = Engine(own_bundle, encoder, HISTORY)
        engine.start()
        yield engine
        engine.close()

    @pytest.mark.parametrize(
        ("task", "error"),
        [
            (fill_in(1, range(3), history={1: (99,)}), UnknownItem),
            (fill_in(1, range(3), history={1: (30,)}), MissingImages),
            (fill_in(1, range(3), history={1: (REF,)}), InvalidInput),
            (fill_in(1, range(3), history={1: (REF,)}, pictures={REF: white_image(8)}), InvalidInput),
            (fill_in(1, range(3), history={1: (31,)}), FashionDPOError),
        ],
    )
    def test_of_one_request_end_that_request_and_no_other(self, engine, task, error):
        expected = paint(engine, ask("alone", fill_in(2, range(3))))[0].trajectory.latents
        good, bad = Told(), Told()
        engine.submit(ask("good", fill_in(2, range(3))), good)
        engine.submit(ask("bad", fill_in(3, (1,)), task), bad)
        assert torch.equal(good.result()[0].trajectory.latents, expected)
        assert type(bad.over().errors[0]) is error
        assert engine.queued_rows == engine.running_rows == 0

    def test_in_a_forward_end_those_who_took_part_and_the_engine_goes_on(self, engine, own_bundle):
        def fail(*_: object) -> None:
            raise RuntimeError("out of memory")

        held = Held(engine)
        hook = own_bundle.unet.register_forward_pre_hook(fail)
        hit = Told()
        engine.submit(ask("hit", fill_in(1, range(3))), hit)
        held.let_go()
        assert held.told.over().errors[0].code == "internal"
        assert hit.over().errors[0].code == "internal"
        assert "out of memory" not in str(hit.errors[0])
        hook.remove()
        assert len(paint(engine, ask("next", fill_in(1, range(3))))) == 1

    def test_in_many_forwards_in_a_row_are_the_engines_problem_until_one_succeeds(self, engine, own_bundle):
        def fail(*_: object) -> None:
            raise RuntimeError("the card fell off the bus")

        until(lambda: engine.is_ready)
        hook = own_bundle.unet.register_forward_pre_hook(fail)
        for number in range(3):
            told = Told()
            engine.submit(ask(f"r{number}", fill_in(1, range(3))), told)
            told.over()
        assert engine.problem == "the last 3 denoising steps failed"
        hook.remove()
        paint(engine, ask("next", fill_in(1, range(3))))
        assert engine.is_ready

    def test_of_an_observer_end_its_request(self, engine):
        def fail(step: int) -> None:
            raise RuntimeError("nobody listens")

        deaf = Told(on_advanced=fail)
        engine.submit(ask("deaf", fill_in(1, range(3))), deaf)
        assert deaf.over().errors[0].code == "internal"
        assert len(paint(engine, ask("next", fill_in(1, range(3))))) == 1


class TestSubmit:
    @pytest.mark.parametrize("steps", [1000])
    def test_refuses_a_number_of_steps_that_the_model_cannot_do(self, engine, steps):
        with pytest.raises(InvalidInput, match="steps"):
            engine.submit(ask("r", fill_in(1, range(3)), sampler=settings(num_inference_steps=steps)), Told())

    def test_refuses_an_unknown_category(self, engine):
        task = fill_in(1, range(3))
        outfit = task.outfit.model_copy(update={"category_ids": (0, 99, 5, 8)})
        with pytest.raises(InvalidInput, match="category 99 is unknown"):
            engine.submit(ask("r", type(task)(outfit, task.set_ids, task.seeds)), Told())

    def test_refuses_what_no_task_can_be(self):
        task = fill_in(1, range(3))
        with pytest.raises(InvalidInput, match="need a name and seeds each"):
            type(task)(task.outfit, (), task.seeds)
        with pytest.raises(InvalidInput, match="same number of candidates"):
            type(task)(task.outfit.without(0), ("a", "b"), ((1, 2), (3,)))
        with pytest.raises(InvalidInput, match="no empty slot"):
            type(task)(task.outfit.model_copy(update={"item_ids": (1, 2, 3, 4)}), (), ())
        with pytest.raises(InvalidInput, match="names no outfit"):
            ask("r")
        with pytest.raises(InvalidInput, match="ddim_eta > 0"):
            ask("r", task, sampler=settings(ddim_eta=0.0))

    def test_refuses_a_name_that_is_in_use(self, engine):
        held = Held(engine)
        with pytest.raises(Conflict, match="'holds' is in work"):
            engine.submit(ask("holds", fill_in(1, range(3))), Told())
        held.let_go()
        held.told.result()
        assert len(paint(engine, ask("holds", fill_in(1, range(3))))) == 1

    def test_refuses_more_than_may_ever_wait(self, engine):
        with pytest.raises(TooLarge, match="28 pictures to paint, at most 21"):
            engine.submit(ask("r", *(fill_in(n, range(7)) for n in range(4))), Told())

    def test_refuses_more_than_may_wait_now_and_says_when_to_come_again(self, engine):
        held, waiting = Held(engine), Told()
        engine.submit(ask("waiting", *(fill_in(n, range(7)) for n in range(3))), waiting)
        assert (engine.queued_rows, engine.running_rows) == (21, 7)
        with pytest.raises(Overloaded, match="21 pictures wait") as refused:
            engine.submit(ask("r", fill_in(1, range(3))), Told())
        held.let_go()
        waiting.result()
        assert (engine.queued_rows, engine.running_rows) == (0, 0)
        assert refused.value.retry_after_s >= 0.1

    def test_the_time_to_come_again_is_that_of_the_work_in_front(self, engine):
        until(lambda: engine.is_ready)
        asked_for = []
        for steps in (50, 500):
            held = Held(engine, steps=steps)
            engine._bench.seconds_per_row = 0.01
            long = settings(num_inference_steps=100)
            for n in range(3):
                engine.submit(ask(f"r{n}", fill_in(n, range(7)), sampler=long), Told())
            with pytest.raises(Overloaded) as refused:
                engine.submit(ask("r3", fill_in(3, range(7)), sampler=long), Told())
            asked_for.append(refused.value.retry_after_s)
            for name in ("holds", "r0", "r1", "r2"):
                engine.cancel(name)
            held.let_go()
            until(lambda: engine.running_rows == engine.queued_rows == 0)
        assert asked_for == pytest.approx([0.01 * 7 * (49 + 100), 0.01 * 7 * (499 + 100)])


class TestStopping:
    def test_a_cancelled_request_stops_within_two_steps(self, engine):
        told = Told(on_advanced=lambda step: engine.cancel("r") if step == 3 else None)
        engine.submit(ask("r", fill_in(1, range(7)), sampler=LONG), told)
        assert isinstance(told.over().errors[0], Cancelled)
        assert told.steps[-1][1] <= 5
        assert (engine.queued_rows, engine.running_rows) == (0, 0)

    def test_a_request_that_waits_can_be_cancelled(self, engine):
        held, told = Held(engine), Told()
        engine.submit(ask("r", fill_in(1, range(7))), told)
        engine.cancel("r")
        held.let_go()
        assert isinstance(told.over().errors[0], Cancelled)
        assert told.events == ["ended"]

    def test_cancelling_what_is_not_there_does_nothing(self, engine):
        engine.cancel("nobody")
        assert len(paint(engine, ask("r", fill_in(1, range(3))))) == 1

    def test_a_cancelled_request_leaves_the_others_as_they_are(self, engine):
        expected = paint(engine, ask("alone", fill_in(2, range(3))))[0].trajectory.latents
        told, other = Told(on_advanced=lambda step: engine.cancel("r") if step == 2 else None), Told()
        engine.submit(ask("r", fill_in(1, range(3)), sampler=LONG), told)
        engine.submit(ask("other", fill_in(2, range(3))), other)
        assert torch.equal(other.result()[0].trajectory.latents, expected)

    def test_a_request_ends_at_its_deadline_whether_it_has_begun_or_not(self, engine):
        held, waiting = Held(engine), Told()
        engine.submit(ask("waiting", fill_in(1, range(3)), deadline_s=0.001), waiting)
        held.let_go()
        assert isinstance(waiting.over().errors[0], DeadlineExceeded)
        begun = Told(on_advanced=lambda step: time.sleep(0.05))
        engine.submit(ask("begun", fill_in(1, range(3)), sampler=LONG, deadline_s=0.2), begun)
        assert isinstance(begun.over().errors[0], DeadlineExceeded)
        assert len(begun.steps) < 10

    def test_a_drained_engine_finishes_what_it_accepted_and_takes_nothing_new(self, engine):
        held, told = Held(engine), Told()
        engine.submit(ask("r", fill_in(1, range(3))), told)
        assert not engine.drain(0.01)
        with pytest.raises(Unavailable, match="finishes what it has accepted"):
            engine.submit(ask("late", fill_in(1, range(3))), Told())
        assert not engine.is_ready
        held.let_go()
        assert engine.drain(PATIENCE_S)
        assert len(told.result()) == 1

    def test_a_closed_engine_ends_what_is_left_and_hands_the_bundle_back(self, own_bundle):
        with running_engine(own_bundle) as engine:
            told = Told()
            engine.submit(ask("r", fill_in(1, range(7)), sampler=LONG), told)
            told.begun()
        assert isinstance(told.over().errors[0], Unavailable)
        assert not hasattr(own_bundle.unet, "peft_config")
        with pytest.raises(Unavailable, match="closed"):
            engine.submit(ask("r", fill_in(1, range(3))), Told())

    def test_an_engine_that_was_never_started_refuses_and_closes(self, own_bundle):
        engine = Engine(own_bundle, ConditionEncoder(own_bundle, Squares(), own_bundle.categories), HISTORY)
        with pytest.raises(Unavailable, match="not started"):
            engine.submit(ask("r", fill_in(1, range(3))), Told())
        engine.close()
        assert not hasattr(own_bundle.unet, "peft_config")


class TestOrder:
    def test_a_request_of_one_outfit_does_not_wait_for_one_of_many(self, own_bundle):
        with running_engine(own_bundle) as engine:
            many, one = Told(), Told()
            engine.submit(ask("many", *(fill_in(n, range(7)) for n in range(12))), many)
            many.begun()
            engine.submit(ask("one", fill_in(30, range(7))), one)
            one.result()
            assert len(many.sets) <= 5
            assert len(many.result()) == 12

    def test_a_request_joins_while_another_is_painted(self, engine):
        joined = Told()
        first = Told(
            on_advanced=lambda step: step == 5 and engine.submit(ask("joins", fill_in(2, (1, 2))), joined),
        )
        engine.submit(ask("first", fill_in(1, range(3)), sampler=LONG), first)
        joined.result()
        assert not first.errors
        first.result()


class Watcher(NoMetrics):
    def __init__(self) -> None:
        self.forwards: list[tuple[int, int]] = []
        self.queues: list[tuple[int, int]] = []
        self.times: list[str] = []

    def forward(self, rows: int, capacity: int, seconds: float) -> None:
        assert seconds > 0
        self.forwards.append((rows, capacity))

    def queue(self, queued_rows: int, running_rows: int) -> None:
        self.queues.append((queued_rows, running_rows))

    def first_step(self, seconds: float) -> None:
        self.times.append("first step")

    def last_image(self, seconds: float) -> None:
        self.times.append("last image")


class TestMetrics:
    def test_tell_how_full_forwards_are_and_how_long_requests_take(self, own_bundle):
        watcher = Watcher()
        with running_engine(own_bundle, metrics=watcher) as engine:
            paint(engine, ask("r", fill_in(1, range(3))))
            paint(engine, ask("s", fill_in(1, range(9))))
        assert watcher.forwards[:4] == [(3, 7)] * 4
        assert sum(rows for rows, _ in watcher.forwards[4:]) == 9 * 4
        assert watcher.times == ["first step", "last image"] * 2
        assert watcher.queues[-1] == (0, 0)
        assert {(3, 0), (0, 3), (9, 0), (0, 9)} <= set(watcher.queues)

    def test_is_ready_when_it_is_warm(self, own_bundle):
        engine = Engine(own_bundle, ConditionEncoder(own_bundle, Squares(), own_bundle.categories), HISTORY)
        assert engine.problem == "the engine was not started"
        engine.start()
        until(lambda: engine.is_ready)
        engine.close()
        assert engine.problem == "the engine is closed"


class TestGuidanceBranches:
    """The tiny scales (3, 2, 2) leave one branch of four without weight; (5, 1, 3) need all."""

    def test_without_weight_are_not_computed_and_others_do_not_change_that(self, own_bundle):
        seen = []
        hook = own_bundle.unet.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output.sample)))
        all_four = settings(guidance=GuidanceScales(category=5, mutual=1, history=3))
        try:
            with running_engine(own_bundle, rows_per_forward=7) as engine:
                until(lambda: engine.is_ready)
                seen.clear()
                held = Held(engine)
                four, three = Told(), Told()
                engine.submit(ask("four", fill_in(1, range(3)), sampler=all_four), four)
                engine.submit(ask("three", fill_in(2, range(3))), three)
                held.let_go()
                assert len(held.told.result()) == len(four.result()) == len(three.result()) == 1
        finally:
            hook.remove()
        # each alone with its scales; four branches are not known from the start, so a full forward stands beside
        assert set(seen) == {3 * 3, 4 * 3, 3 * 7, 4 * 7}
