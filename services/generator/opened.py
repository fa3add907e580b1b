"""The generator with everything open: model, engine, stores, and the threads that keep it up to date."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from dataclasses import dataclass

from fashiondpo.diffusion.engine import Engine
from fashiondpo.errors import FashionDPOError
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.telemetry import log
from services.generator.adapter_desk import AdapterDesk
from services.generator.adapter_follower import AdapterFollower
from services.generator.claim_keeper import ClaimKeeper
from services.generator.generations import Generations
from services.generator.settings import GeneratorSettings
from services.generator.stores import Stores


@dataclass(frozen=True)
class OpenedGenerator:
    """What the routes work with."""

    settings: GeneratorSettings
    stores: Stores
    engine: Engine
    generations: Generations
    adapters: AdapterDesk
    follower: AdapterFollower
    keeper: ClaimKeeper
    executors: tuple[Executor, ...]

    @property
    def artifacts(self) -> ArtifactStore:
        """Where pictures are."""
        return self.stores.artifacts

    def engine_problem(self) -> str | None:
        """Why the engine takes no requests."""
        return self.engine.problem

    def adapter_problem(self) -> str | None:
        """Why nobody knows yet what should be served; a later champion that is broken leaves the old one serving."""
        return None if self.follower.has_followed else self.follower.problem

    def close(self, timeout_s: float) -> None:
        """Refuse new work, finish what was accepted if there is time, and stop."""
        started = time.monotonic()
        self.keeper.leave()
        self.follower.close()
        is_finished = self.engine.drain(timeout_s)
        log().info("drained", is_finished=is_finished, seconds=round(time.monotonic() - started, 2))
        self.keeper.close()
        # before the engine ends what it has not finished, which would count as failed: another process may have it
        unfinished = self.generations.hand_over()
        self.engine.close()
        for executor in self.executors:
            executor.shutdown(wait=True)
        try:
            self.stores.generations.release(unfinished)
        except FashionDPOError as error:
            log().warning("claims_not_released", reason=str(error))
