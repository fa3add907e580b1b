import itertools

from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.engine_jobs import FairQueue, Painting
from fashiondpo.diffusion.engine_rows import StepPlan
from fashiondpo.pretraining.bundle import stable_diffusion_scheduler
from tests.tiny_engines import Told, ask, fill_in

PLAN = StepPlan.of(NoiseSchedule(stable_diffusion_scheduler(prediction_type="epsilon")), 10)
ROWS = 7


def painting(name: str, outfits: int = 1, candidates: int = ROWS) -> Painting:
    tasks = [fill_in(number, range(candidates)) for number in range(outfits)]
    return Painting(ask(name, *tasks), Told(), PLAN, None, None)


def serve(queue: FairQueue, done: dict, on_finished=lambda name: None) -> None:
    """One forward: the first outfits in the queue's order advance, finished ones leave."""
    room = ROWS
    for job in queue:
        rows = min(room, job.task.num_rows)
        done[job] = done.get(job, 0) + rows
        room -= rows
        if done[job] >= job.task.num_rows * len(PLAN):
            queue.remove(job)
            on_finished(job.painting.request.request_id)
        if room == 0:
            break
    queue.worked(ROWS - room)


def served(queue: FairQueue, done: dict) -> list[str]:
    """The requests of the outfits in the order in which they are finished."""
    finished: list[str] = []
    while len(queue):
        serve(queue, done, finished.append)
    return finished


class TestFairQueue:
    def test_serves_equal_requests_as_they_came(self):
        queue, done = FairQueue(), {}
        for name in "abc":
            queue.enter(painting(name))
            serve(queue, done)
        queue.enter(painting("d"))
        assert served(queue, done) == ["a", "b", "c", "d"]

    def test_lets_one_outfit_go_before_the_later_outfits_of_a_request_of_many(self):
        queue, done = FairQueue(), {}
        queue.enter(painting("many", outfits=64))
        for _ in range(35):  # in its fourth outfit
            serve(queue, done)
        queue.enter(painting("one"))
        finished = served(queue, done)
        assert finished.index("one") <= 2
        assert len(finished) == 62

    def test_lets_a_small_outfit_overtake_a_large_one(self):
        queue, done = FairQueue(), {}
        queue.enter(painting("large", candidates=32))
        serve(queue, done)
        queue.enter(painting("small", candidates=2))
        assert served(queue, done) == ["small", "large"]

    def test_gives_two_requests_of_many_outfits_equal_shares(self):
        queue, done = FairQueue(), {}
        queue.enter(painting("a", outfits=8))
        queue.enter(painting("b", outfits=8))
        assert served(queue, done) == ["a", "b"] * 8

    def test_lets_no_stream_of_small_requests_starve_a_large_one(self):
        queue, done, finished = FairQueue(), {}, []
        names = (f"small-{number}" for number in itertools.count())
        queue.enter(painting("many", outfits=4))
        for forward in itertools.count():
            if forward % 10 == 0:  # small ones alone would keep the engine busy
                queue.enter(painting(next(names)))
            serve(queue, done, finished.append)
            if finished.count("many") == 4:
                break
        assert forward <= 4 * (4 * 10), "its share shrinks with the number of those that wait, but it gets one"

    def test_forgets_a_request_that_is_taken_out(self):
        queue, done = FairQueue(), {}
        gone = painting("gone", outfits=3)
        queue.enter(gone)
        queue.enter(painting("stays"))
        assert [job.task.set_ids[0] for job in queue.leave(gone)] == ["set-0", "set-1", "set-2"]
        assert [waiting.request.request_id for waiting in queue.paintings] == ["stays"]
        assert served(queue, done) == ["stays"]
