"""Open-loop load: requests arrive when they arrive, whether or not the server keeps up."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from fashiondpo.messages import GenerateRequest


@dataclass(frozen=True)
class Arrival:
    """One request, the second at which it is sent, and its work in rows times steps."""

    at_s: float
    request: GenerateRequest
    work: int


@dataclass(frozen=True)
class Answer:
    """What became of a request; seconds since it was due."""

    due_s: float
    status: int
    first_progress_s: float
    seconds: float


@dataclass(frozen=True)
class LoadFigures:
    """One server under one load.

    Attributes:
        throughput: work that was finished while requests were arriving, as requests of mean size per second.
        p50_s, p95_s: seconds from when a request was due to its whole answer.
        first_p50_s: seconds to the first sign of progress.
        failed: requests without an answer of status 200.
    """

    throughput: float
    p50_s: float
    p95_s: float
    first_p50_s: float
    failed: int


def shares(text: str) -> tuple[float, ...]:
    """What `--loads` says: positive numbers with commas between them; `none` for no load.

    Raises:
        ArgumentTypeError: if it is something else.
    """
    if text == "none":
        return ()
    try:
        found = tuple(float(share) for share in text.split(","))
    except ValueError:
        found = (0.0,)
    if not all(0 < share < float("inf") for share in found):
        raise argparse.ArgumentTypeError(f"expected shares such as 0.8,1.3, or none; got {text!r}")
    return found


def arrivals(bodies: Sequence[tuple[GenerateRequest, int]], rate: float, seconds: float, *, seed: int) -> list[Arrival]:
    """Poisson arrivals of bodies drawn at random, with their work; the seed decides all of it."""
    rng, now, found = random.Random(seed), 0.0, []
    while (now := now + rng.expovariate(rate)) < seconds:
        body, work = rng.choice(bodies)
        found.append(Arrival(now, body.model_copy(update={"seed": rng.randrange(2**32)}), work))
    return found


async def offer(url: str, load: Sequence[Arrival], *, streams: bool) -> list[Answer]:
    """Send every request when it is due; `streams` asks for events and notes the first."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(600), limits=limits) as client:
        started = time.perf_counter()
        return list(await asyncio.gather(*(_send(client, arrival, started, streams) for arrival in load)))


async def _send(client: httpx.AsyncClient, arrival: Arrival, started: float, streams: bool) -> Answer:
    await asyncio.sleep(max(0.0, started + arrival.at_s - time.perf_counter()))
    due = started + arrival.at_s
    headers = {"Accept": "text/event-stream" if streams else "application/json", "Content-Type": "application/json"}
    first, is_done = 0.0, not streams
    async with client.stream("POST", "/generate", content=arrival.request.model_dump_json(), headers=headers) as answer:
        async for line in answer.aiter_lines():
            if streams and line.startswith("data:"):
                done = json.loads(line.removeprefix("data:")).get("done", 0)
                first = first or (time.perf_counter() - due if done else 0.0)
            is_done = is_done or line == "event: done"
    seconds = time.perf_counter() - due
    status = answer.status_code if is_done else 500
    return Answer(arrival.at_s, status, first or seconds, seconds)


def summarise(load: Sequence[Arrival], answers: Sequence[Answer], seconds: float) -> LoadFigures:
    """Figures of one run; latencies over all requests, throughput while they were arriving."""
    mean_work = np.mean([arrival.work for arrival in load])
    done = sum(a.work for a, b in zip(load, answers, strict=True) if b.status == 200 and b.due_s + b.seconds <= seconds)
    latencies = [answer.seconds for answer in answers if answer.status == 200]
    return LoadFigures(
        throughput=float(done / mean_work / seconds),
        p50_s=float(np.quantile(latencies, 0.5)),
        p95_s=float(np.quantile(latencies, 0.95)),
        first_p50_s=float(np.median([answer.first_progress_s for answer in answers if answer.status == 200])),
        failed=sum(answer.status != 200 for answer in answers),
    )
