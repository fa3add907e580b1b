import threading

import pytest

from fashiondpo.errors import InvalidInput, Unavailable
from fashiondpo.judges.circuit import CircuitBreaker
from tests.polling import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock) -> CircuitBreaker:
    return CircuitBreaker("the server", failures=3, pause_s=10, clock=clock)


def fail(breaker: CircuitBreaker, error: Exception | None = None) -> None:
    error = error or Unavailable("no route")
    with pytest.raises(type(error)), breaker.attempt():
        raise error


def succeed(breaker: CircuitBreaker) -> None:
    with breaker.attempt():
        pass


class TestClosed:
    def test_opens_after_so_many_failures_in_a_row(self, breaker):
        for _ in range(2):
            fail(breaker)
        assert not breaker.is_open
        fail(breaker)
        assert breaker.is_open

    def test_a_success_between_them_begins_the_count_anew(self, breaker):
        fail(breaker)
        fail(breaker)
        succeed(breaker)
        fail(breaker)
        fail(breaker)
        assert not breaker.is_open

    def test_an_answer_that_nobody_understands_is_no_failure_of_the_server(self, breaker):
        for _ in range(5):
            fail(breaker, InvalidInput("prose"))
        assert not breaker.is_open


class TestOpen:
    @pytest.fixture(autouse=True)
    def opened(self, breaker):
        for _ in range(3):
            fail(breaker)

    def test_lets_nobody_try_and_says_why_and_until_when(self, breaker, clock):
        clock.now += 4
        tried = []
        with (
            pytest.raises(Unavailable, match=r"failed 3 times in a row and is tried again in 6 s: no route"),
            breaker.attempt(),
        ):
            tried.append(1)
        assert not tried

    def test_lets_one_try_after_the_pause_and_closes_if_that_succeeds(self, breaker, clock):
        clock.now += 10
        succeed(breaker)
        assert not breaker.is_open
        succeed(breaker)

    def test_waits_as_long_again_if_the_one_fails(self, breaker, clock):
        clock.now += 10
        fail(breaker)
        clock.now += 9
        with pytest.raises(Unavailable, match="in 1 s"), breaker.attempt():
            pass

    def test_lets_nobody_else_try_while_the_one_does(self, breaker, clock):
        clock.now += 10
        is_trying, may_end = threading.Event(), threading.Event()

        def probe() -> None:
            with breaker.attempt():
                is_trying.set()
                may_end.wait(10)

        thread = threading.Thread(target=probe)
        thread.start()
        assert is_trying.wait(10)
        with pytest.raises(Unavailable, match="right now"), breaker.attempt():
            pass
        may_end.set()
        thread.join()
        eventually(lambda: not breaker.is_open)

    def test_a_probe_that_is_interrupted_leaves_the_way_open_for_the_next(self, breaker, clock):
        clock.now += 10
        with pytest.raises(KeyboardInterrupt), breaker.attempt():
            raise KeyboardInterrupt
        clock.now += 10
        succeed(breaker)
        assert not breaker.is_open


class TestLateSuccess:
    def test_of_a_call_that_began_before_does_not_close_it(self, breaker):
        late = breaker.attempt()
        late.__enter__()
        for _ in range(3):
            fail(breaker)
        late.__exit__(None, None, None)
        assert breaker.is_open
