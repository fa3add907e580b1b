"""Keeps the claims of what this process paints, and takes over what processes that died have left behind."""

from __future__ import annotations

from threading import Event, Thread

from fashiondpo.errors import FashionDPOError, Overloaded, Unavailable
from fashiondpo.serving.problems import problem_of
from fashiondpo.storage.aliases import utc_now
from fashiondpo.telemetry import log
from services.generator.generation_records import GenerationRecord, GenerationRecords
from services.generator.generations import Generations

MAX_ATTEMPTS = 3
"""What has ended so many processes is not tried by another."""

_STEADY_ROUNDS = 4
_TAKEN_AT_ONCE = 4


class ClaimKeeper:
    """A thread that renews, saves what could not be saved before, and takes over, several times in the life of a claim."""

    def __init__(self, generations: Generations, records: GenerationRecords, *, claim_s: float) -> None:
        """Compose; `claim_s` is the life of a claim."""
        self._generations, self._records, self._pause_s = generations, records, claim_s / 3
        self._steady = 0
        self._is_leaving, self._is_closed = False, Event()
        self._thread = Thread(target=self._run, name="claim-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def leave(self) -> None:
        """Take nothing over any more, since this process is about to end."""
        self._is_leaving = True

    def close(self) -> None:
        """Stop, and wait until that is so."""
        self._is_closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed.wait(self._pause_s):
            try:
                self.keep()
            except FashionDPOError as error:
                self._steady = 0
                log().warning("claims_not_kept", reason=str(error))
            except Exception as error:  # noqa: BLE001 - the thread must outlive one bad record
                log().error("claims_not_kept", exc_info=error)

    def keep(self) -> None:
        """Renew, save, take over; once. Raises Unavailable if the records do not answer."""
        held = self._generations.held()
        for ended in [h for h in held if h.live.is_ended]:
            if not self._generations.save(ended):
                raise Unavailable("the records of generations do not answer")
        claimed = {h.live.plan.generation_id: h for h in held if h.is_claimed and not h.live.is_ended}
        for name in self._records.renew([h.record() for h in claimed.values()]):
            self._generations.stop(claimed[name].live)
        self._steady += 1
        # after an outage, first those that live get the time to renew
        if self._steady >= _STEADY_ROUNDS and not self._is_leaving:
            for record in self._records.take_over(_TAKEN_AT_ONCE):
                self._take(record)

    def _take(self, record: GenerationRecord) -> None:
        name = record.generation_id
        if record.request is None:
            self._records.discard(name)  # its caller waited for it and is gone; asking again begins anew
            return
        log().warning("generation_taken_over", generation_id=name, attempts=record.attempts)
        if record.attempts >= MAX_ATTEMPTS:
            self._give_up(record, Unavailable(f"{record.attempts} processes have ended while they painted this"))
            return
        try:
            self._generations.resume(record)
        except (Overloaded, Unavailable):
            self._records.release([name])
        except FashionDPOError as error:
            self._give_up(record, error)

    def _give_up(self, record: GenerationRecord, error: FashionDPOError) -> None:
        ended = record.generation.model_copy(
            update={"status": "failed", "problem": problem_of(error), "finished_at": utc_now()}
        )
        self._records.finish(record.model_copy(update={"generation": ended, "request": None}))
