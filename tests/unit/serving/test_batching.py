import asyncio
from collections.abc import Callable, Iterator, Sequence
from threading import Event, current_thread

import pytest

from fashiondpo.errors import Overloaded, Unavailable
from fashiondpo.serving.batching import MicroBatcher

Doubler = MicroBatcher[int, int]


class Worker:
    """Doubles numbers; notes batches; can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.entered, self.may_go_on = Event(), Event()
        self.may_go_on.set()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.threads.add(current_thread().name)
        self.batches.append(list(numbers))
        self.entered.set()
        assert self.may_go_on.wait(10)
        if 13 in numbers:
            raise RuntimeError("thirteen")
        return [2 * number for number in numbers]


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def open_batcher(worker: Worker) -> Iterator[Callable[..., Doubler]]:
    opened: list[Doubler] = []

    def make(**options: object) -> Doubler:
        chosen = {"max_batch": 4, "max_wait_s": 5.0, "max_queued": 10, **options}
        opened.append(MicroBatcher(worker, **chosen))  # type: ignore[arg-type]
        opened[-1].start()
        return opened[-1]

    yield make
    worker.may_go_on.set()
    for batcher in opened:
        batcher.close()


def ask(batcher: Doubler, *numbers: int):
    with batcher.room_for(len(numbers)) as ticket:
        return ticket.submit(numbers)


def hold(worker: Worker, batcher: Doubler):
    """Keep the worker busy with one number."""
    worker.may_go_on.clear()
    future = ask(batcher, 0)
    assert worker.entered.wait(10)
    return future


class TestMicroBatcher:
    def test_gives_every_request_its_own_results_in_order(self, open_batcher):
        batcher = open_batcher()
        futures = [ask(batcher, *range(start, start + 3)) for start in (0, 10, 20)]
        assert [future.result(10) for future in futures] == [[0, 2, 4], [20, 22, 24], [40, 42, 44]]

    def test_puts_what_waits_into_the_same_batch_whoever_asked(self, open_batcher, worker):
        batcher = open_batcher()
        futures = [hold(worker, batcher), ask(batcher, 1, 2), ask(batcher, 3, 4, 5), ask(batcher, 6)]
        worker.may_go_on.set()
        assert [future.result(10) for future in futures] == [[0], [2, 4], [6, 8, 10], [12]]
        assert worker.batches == [[0], [1, 2, 3, 4], [5, 6]]

    def test_splits_a_request_that_is_larger_than_a_batch(self, open_batcher, worker):
        assert ask(open_batcher(), *range(10)).result(10) == list(range(0, 20, 2))
        assert [len(batch) for batch in worker.batches] == [4, 4, 2]

    def test_does_not_wait_when_nobody_else_has_announced_work(self, open_batcher):
        assert ask(open_batcher(max_wait_s=3600), 1).result(10) == [2]

    def test_waits_for_announced_work_to_join(self, open_batcher, worker):
        batcher = open_batcher(max_wait_s=3600)
        with batcher.room_for(2) as ticket:
            first = ask(batcher, 1)
            second = ticket.submit([2, 3])
        assert (first.result(10), second.result(10)) == ([2], [4, 6])
        assert worker.batches == [[1, 2, 3]]

    def test_does_not_wait_for_announced_work_beyond_its_time(self, open_batcher, worker):
        batcher = open_batcher(max_wait_s=0.01)
        with batcher.room_for(2) as ticket:
            assert ask(batcher, 1).result(10) == [2]
            ticket.submit([2]).result(10)
        assert worker.batches == [[1], [2]]

    def test_works_on_one_thread_only(self, open_batcher, worker):
        batcher = open_batcher()
        for number in range(5):
            ask(batcher, number).result(10)
        assert worker.threads == {"micro-batches"}

    def test_nothing_in_nothing_out(self, open_batcher):
        assert ask(open_batcher()).result(10) == []


class TestFullQueue:
    def test_refuses_what_does_not_fit_and_says_when_to_try_again(self, open_batcher, worker):
        batcher = open_batcher()
        held = hold(worker, batcher)
        waiting = ask(batcher, *range(1, 10))
        with pytest.raises(Overloaded) as caught:
            ask(batcher, 99)
        assert caught.value.retry_after_s >= 1
        worker.may_go_on.set()
        held.result(10), waiting.result(10)
        assert ask(batcher, 99).result(10) == [198]

    def test_takes_a_request_that_is_larger_than_itself_only_while_it_is_empty(self, open_batcher, worker):
        batcher = open_batcher(max_queued=3)
        assert len(ask(batcher, *range(8)).result(10)) == 8
        hold(worker, batcher)
        with pytest.raises(Overloaded):
            ask(batcher, *range(8))

    def test_counts_announced_work_and_forgets_what_never_came(self, open_batcher):
        batcher = open_batcher(max_queued=3)
        with batcher.room_for(3), pytest.raises(Overloaded):  # and then the pictures could not be read
            ask(batcher, 1)
        assert batcher.queued == 0
        assert ask(batcher, 1, 2, 3).result(10) == [2, 4, 6]

    def test_is_empty_again_when_all_is_done(self, open_batcher):
        batcher = open_batcher()
        with batcher.room_for(5) as ticket:
            future = ticket.submit([1, 2])  # three could not be read
        future.result(10)
        batcher.close()
        assert batcher.queued == 0


class TestTrouble:
    def test_a_batch_that_fails_fails_those_in_it_and_nobody_else(self, open_batcher, worker):
        batcher = open_batcher()
        futures = [hold(worker, batcher), ask(batcher, 13, 1, 2, 3, 4, 5), ask(batcher, 6)]
        worker.may_go_on.set()
        with pytest.raises(RuntimeError, match="thirteen"):
            futures[1].result(10)
        assert futures[2].result(10) == [12]
        assert batcher.queued == 0

    def test_a_function_that_gives_too_few_results_fails_the_batch(self):
        batcher: Doubler = MicroBatcher(lambda numbers: [], max_batch=4, max_wait_s=0, max_queued=4)
        batcher.start()
        with pytest.raises(RuntimeError, match="1 parts of work gave 0 results"):
            ask(batcher, 1).result(10)
        batcher.close()

    def test_work_that_nobody_waits_for_any_more_is_not_done(self, open_batcher, worker):
        batcher = open_batcher()
        held, dropped, last = hold(worker, batcher), ask(batcher, 1, 2), ask(batcher, 3)
        assert dropped.cancel()
        worker.may_go_on.set()
        assert (held.result(10), last.result(10)) == ([0], [6])
        assert worker.batches == [[0], [3]]
        assert batcher.queued == 0

    def test_a_caller_that_is_cancelled_while_its_work_is_done_disturbs_nobody(self, open_batcher, worker):
        batcher = open_batcher()

        async def scenario() -> list[int]:
            task = asyncio.ensure_future(asyncio.wrap_future(hold(worker, batcher)))
            await asyncio.sleep(0)
            task.cancel()
            worker.may_go_on.set()
            return await asyncio.wrap_future(ask(batcher, 4))

        assert asyncio.run(scenario()) == [8]

    def test_closing_finishes_what_was_submitted_and_refuses_the_rest(self, open_batcher, worker):
        batcher = open_batcher()
        futures = [hold(worker, batcher), ask(batcher, 1, 2)]
        worker.may_go_on.set()
        batcher.close()
        assert [future.result(0) for future in futures] == [[0], [2, 4]]
        with pytest.raises(Unavailable):
            ask(batcher, 3)
