"""Swaps: adapters changed in a working engine, against taking one off and putting the next one on.

Requests keep coming while one version after the other is put into use; none of them may fail.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from measuring.mini import open_mini, shared_options
from measuring.timing import print_figures

from fashiondpo.contracts import NUM_CANDIDATES, AdapterRef, SamplerSettings, content_digest
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.engine import Engine, FinishedSet, NoMetrics, OutfitTask, PaintRequest
from fashiondpo.diffusion.lora import AdapterWeights, adapter_weights, add_adapter, load_adapter, remove_adapter
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import FashionDPOError
from fashiondpo.outfits.model import Blank
from fashiondpo.outfits.sources import load_data_set

CATALOGUE = Path(__file__).resolve().parents[1] / "assets/mini/catalogue"


class SwapClock(NoMetrics):
    """How long rows waited for weights to be put into a slot."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def swap(self, adapter: AdapterRef, seconds: float) -> None:
        """Remember it."""
        self.seconds.append(seconds)


@dataclass
class Caller:
    """Asks for one outfit after the other, until it is told to stop; two are in work at a time."""

    engine: Engine
    blanks: Sequence[Blank]
    sampler: SamplerSettings
    asked: int = 0
    finished: int = 0
    failures: list[FashionDPOError] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    is_stopped: bool = False
    _idle: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(2))

    def started(self, adapter: AdapterRef) -> None:
        """Remember which versions were at work."""
        self.versions.add(adapter.version)

    def advanced(self, set_id: str, step: int, num_steps: int, previews: Sequence[object]) -> None:
        """Nothing to do."""

    def finished_set(self, result: FinishedSet) -> None:
        """Count it."""
        self.finished += 1

    def ended(self, error: FashionDPOError | None) -> None:
        """Count what went wrong."""
        if error is not None:
            self.failures.append(error)
        self._idle.release()

    def run(self) -> None:
        """Ask until stopped, then wait for the answers."""
        while not self.is_stopped:
            self._idle.acquire()
            blank, seed = self.blanks[self.asked % len(self.blanks)], self.asked * NUM_CANDIDATES
            task = OutfitTask(blank.outfit, ("set",), (tuple(range(seed, seed + NUM_CANDIDATES)),))
            self.asked += 1
            try:
                self.engine.submit(PaintRequest(f"request-{self.asked}", (task,), self.sampler), self)
            except FashionDPOError as error:
                self.ended(error)
        for _ in range(2):
            self._idle.acquire()


def versions(bundle: DiFashion, count: int) -> list[tuple[AdapterRef, AdapterWeights]]:
    """That many adapters, each of other weights."""
    add_adapter(bundle.unet, rank=4)
    fresh = adapter_weights(bundle.unet, bundle.digest)
    remove_adapter(bundle.unet)
    found = []
    for number in range(1, count + 1):
        generator = torch.Generator().manual_seed(number)
        tensors = {key: 0.02 * torch.randn(value.shape, generator=generator) for key, value in fresh.tensors.items()}
        weights = replace(fresh, tensors=tensors)
        found.append((AdapterRef(version=number, digest=content_digest(weights.to_bytes())), weights))
    return found


def reload_seconds(bundle: DiFashion, adapters: Sequence[tuple[AdapterRef, AdapterWeights]]) -> list[float]:
    """Seconds to take an adapter off and put the next one on, during which nothing can be painted."""
    seconds = []
    for _, weights in adapters:
        started = time.perf_counter()
        remove_adapter(bundle.unet)
        load_adapter(bundle.unet, weights, bundle.digest)
        seconds.append(time.perf_counter() - started)
    remove_adapter(bundle.unet)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Swap under load, compare, print, end with one line of JSON."""
    parser = shared_options("Adapters swapped in a working engine, against taking one off and putting the next one on.")
    parser.add_argument("--swaps", type=int, default=30, help="versions put into use (default: 30)")
    options = parser.parse_args(arguments)
    swaps, steps = (4, 2) if options.quick else (options.swaps, 8)
    torch.set_num_threads(options.threads)
    bundle, data = open_mini(options.bundle), load_data_set(CATALOGUE)
    adapters = versions(bundle, swaps)
    reloads = reload_seconds(bundle, adapters)
    clock = SwapClock()
    engine = Engine(
        bundle, ConditionEncoder(bundle, data.catalogue, data.categories), data.history("test"), metrics=clock
    )
    engine.start()
    sampler = bundle.sampler.model_copy(update={"num_inference_steps": steps})
    caller = Caller(engine, data.blanks_of("test", 8), sampler)
    thread = threading.Thread(target=caller.run)
    thread.start()
    waits = []
    for ref, weights in adapters:
        started = time.perf_counter()
        engine.use(ref, weights).result()
        waits.append(time.perf_counter() - started)
    caller.is_stopped = True
    thread.join()
    engine.close()
    print(f"Requests: {caller.asked}, failed: {len(caller.failures)}; painted with {len(caller.versions)} versions.")
    print(
        f"A swap held the rows up for {median(clock.seconds) * 1e3:.1f} ms (longest {max(clock.seconds) * 1e3:.1f} ms),"
    )
    print(f"taking off and putting on takes {median(reloads) * 1e3:.1f} ms, with nothing painted meanwhile.")
    print_figures(
        {
            "failed_requests": len(caller.failures),
            "swap_ms": median(clock.seconds) * 1e3,
            "longest_swap_ms": max(clock.seconds) * 1e3,
            "reload_over_swap": median(reloads) / median(clock.seconds),
            "until_in_use_ms": median(waits) * 1e3,
            "swaps": swaps,
            "requests": caller.asked,
            "steps": steps,
            "threads": options.threads,
        }
    )


if __name__ == "__main__":
    main()
