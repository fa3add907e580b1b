"""Time competitors in turns, in one process, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from torch import nn


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one competitor, one entry per round."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest minus fastest round, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median_s

    def __str__(self) -> str:
        """For people: median, range and number of rounds."""
        rounds = f"{len(self.seconds)} round{'' if len(self.seconds) == 1 else 's'}"
        return f"median {self.median_s:.4g} s, {min(self.seconds):.4g} to {max(self.seconds):.4g} s in {rounds}"


def alternate(
    competitors: Mapping[str, Callable[[int], object]], *, rounds: int, warm_up: bool = True
) -> dict[str, Timing]:
    """Run every competitor once a round: A B A B.

    Args:
        competitors: each is called with the number of the round and does the same work as the others.
        rounds: at least one.
        warm_up: run all of them once before the first round, untimed.

    Raises:
        ValueError: if there is no round to run.
    """
    if rounds < 1:
        raise ValueError(f"at least one round is needed, got {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(-1 if warm_up else 0, rounds):
        for name, run in competitors.items():
            started = time.perf_counter()
            run(max(number, 0))
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(of_one)) for name, of_one in seconds.items()}


@dataclass
class ForwardClock:
    """Wall-clock seconds spent inside a module's forward."""

    seconds: float = 0.0
    _started: float = field(default=0.0, repr=False)

    @contextmanager
    def on(self, module: nn.Module) -> Iterator[ForwardClock]:
        """Count while inside."""
        before = module.register_forward_pre_hook(lambda *_: self._start())
        after = module.register_forward_hook(lambda *_: self._stop())
        try:
            yield self
        finally:
            before.remove()
            after.remove()

    def _start(self) -> None:
        self._started = time.perf_counter()

    def _stop(self) -> None:
        self.seconds += time.perf_counter() - self._started


def print_figures(figures: Mapping[str, float | int | str]) -> None:
    """The last line of a benchmark: its figures as JSON, four significant digits."""
    print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figures.items()}), flush=True)
