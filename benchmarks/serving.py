"""Serving: the generator service against LitServe and against a plain FastAPI route, under the same arrivals.

All three serve the same bundle with the same number of threads, each in processes of its own; the load comes from here.
All are asked for whole answers. The time to the first sign of progress is taken in a run of its own, in which our service
is asked for events; the peers' first sign is the answer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import torch
from measuring.mini import shared_options
from measuring.timing import alternate, print_figures

from benchmarks.peers.load import LoadFigures, arrivals, offer, shares, summarise
from benchmarks.peers.painter import Painter
from fashiondpo.messages import GenerateRequest, OutfitRequest, SamplerChoice, Slot
from fashiondpo.outfits.sources import load_data_set

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "assets/mini/catalogue"
CANDIDATES, STEPS = (1, 4, 7), (8, 16, 32)
KEEPING_UP, OVERLOAD = 0.8, 1.3
LOADS = (0.5, KEEPING_UP, OVERLOAD)
"""Shares of what a bare sampler could do; the last is more than anybody can."""


@dataclass(frozen=True)
class Server:
    """A competitor that is up.

    Attributes:
        name: for people.
        url: where it listens.
        group: of all its processes.
    """

    name: str
    url: str
    group: int


def bodies(quick: bool) -> list[tuple[GenerateRequest, int]]:
    """Requests of one outfit with mixed candidates and steps, and the work of each in rows times steps."""
    steps = (2, 4) if quick else STEPS
    blanks = load_data_set(CATALOGUE).blanks_of("test", 12, seed=3)
    found = []
    for position, blank in enumerate(blanks * 3):
        candidates, count = CANDIDATES[position % 3], steps[(position // 3) % len(steps)]
        slots = tuple(
            Slot(item_id=item) if item is not None else Slot(category_id=category)
            for item, category in zip(blank.outfit.item_ids, blank.outfit.category_ids, strict=True)
        )
        asked = OutfitRequest(user_id=blank.outfit.user_id, slots=slots, outfit_id=blank.outfit.outfit_id)
        request = GenerateRequest(
            outfits=(asked,), num_candidates=candidates, sampler=SamplerChoice(num_inference_steps=count)
        )
        found.append((request, candidates * count))
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(name: str, command: Sequence[str], port: int, health: str, **environment: str) -> Iterator[Server]:
    """Start a server, wait until it is ready, stop it at the end."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        environ = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | environment
        # a session of its own: LitServe's workers outlive the process that started them
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True)
        try:
            _await_ready(process, url + health)
            yield Server(name, url, process.pid)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-3000:])
            raise
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode} before it was ready")
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{url} was not ready after two minutes")


def ours(stack: ExitStack, bundle: Path, threads: int) -> Server:
    """The generator service, as it runs everywhere."""
    port = free_port()
    environment = {
        "GENERATOR_PORT": str(port),
        "GENERATOR_BUNDLE": str(bundle),
        "GENERATOR_THREADS": str(threads),
        "GENERATOR_MAX_QUEUED_ROWS": "100000",
        "GENERATOR_LOG_LEVEL": "warning",
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "services.generator"]
    return stack.enter_context(running("ours", command, port, "/readyz", **environment))


def lit(stack: ExitStack, bundle: Path, threads: int, batch: int) -> Server:
    """LitServe with request-level batches."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.lit", *map(str, (bundle, CATALOGUE, port, threads, batch))]
    name = f"LitServe, batches of {batch}"
    return stack.enter_context(running(name, command, port, "/health", OMP_NUM_THREADS=str(threads)))


def plain(stack: ExitStack, bundle: Path, threads: int) -> Server:
    """A route and a lock."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.plain", *map(str, (bundle, CATALOGUE, port, threads))]
    return stack.enter_context(running("plain route", command, port, "/health", OMP_NUM_THREADS=str(threads)))


@contextmanager
def undisturbed(server: Server, servers: Sequence[Server]) -> Iterator[None]:
    """Inside, the other servers stand still: LitServe's idle processes take an eighth of a core, which others would pay."""
    others = [other for other in servers if other is not server]
    try:
        for other in others:
            os.killpg(other.group, signal.SIGSTOP)
        yield
    finally:
        for other in others:
            os.killpg(other.group, signal.SIGCONT)


def under_load(
    servers: Sequence[Server],
    rate: float,
    seconds: float,
    requests: list[tuple[GenerateRequest, int]],
    repeats: Sequence[int],
) -> dict[str, list[LoadFigures]]:
    """Offer every server the same arrivals in turn, other arrivals in every repeat: its number is their seed."""
    found: dict[str, list[LoadFigures]] = {server.name: [] for server in servers}
    for repeat in repeats:
        load = arrivals(requests, rate, seconds, seed=repeat)
        for server in random.Random(repeat).sample(list(servers), len(servers)):
            with undisturbed(server, servers):
                answers = asyncio.run(offer(server.url, load, streams=False))
            found[server.name].append(summarise(load, answers, seconds))
    return found


def first_progress(
    server: Server,
    servers: Sequence[Server],
    rate: float,
    seconds: float,
    requests: list[tuple[GenerateRequest, int]],
) -> float:
    """Median seconds to the first sign of progress under load, where every caller asks for events."""
    load = arrivals(requests, rate, seconds, seed=0)
    with undisturbed(server, servers):
        found = summarise(load, asyncio.run(offer(server.url, load, streams=True)), seconds)
    print(f"  {server.name + ', as events':<24} first progress {found.first_p50_s:6.2f} s   failed {found.failed}")
    return found.first_p50_s


def one_at_a_time(server: Server, painter: Painter, request: GenerateRequest, rounds: int) -> dict[str, float]:
    """Seconds of one request of seven candidates through HTTP and engine, over those of the bare sampler."""
    with httpx.Client(base_url=server.url, timeout=600) as client:

        def through_http(number: int) -> None:
            body = request.model_copy(update={"seed": number}).model_dump_json()
            client.post("/generate", content=body, headers={"Content-Type": "application/json"}).raise_for_status()

        timings = alternate(
            {"served": through_http, "bare": lambda n: painter.paint([request.model_copy(update={"seed": n})])},
            rounds=rounds,
        )
    pairs = zip(timings["served"].seconds, timings["bare"].seconds, strict=True)
    overhead = median(served / bare for served, bare in pairs) - 1
    print(f"One request of seven candidates, served:      {timings['served']}.")
    print(f"The same through the bare sampler and as PNG: {timings['bare']}.")
    print(f"HTTP and engine cost {overhead:.1%}.")
    return {
        "overhead": overhead,
        "served_s": timings["served"].median_s,
        "bare_s": timings["bare"].median_s,
        "served_spread": timings["served"].spread,
        "bare_spread": timings["bare"].spread,
    }


def describe(name: str, figures: Sequence[LoadFigures]) -> LoadFigures:
    """Print a server's medians over the repeats, and return them."""
    middle = LoadFigures(
        *(median(getattr(f, field) for f in figures) for field in ("throughput", "p50_s", "p95_s", "first_p50_s")),
        sum(f.failed for f in figures),
    )
    print(
        f"  {name:<24} {middle.throughput:5.2f} requests/s   p50 {middle.p50_s:6.2f} s   p95 {middle.p95_s:6.2f} s   "
        f"failed {middle.failed}"
    )
    return middle


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, end with one line of JSON."""
    parser = shared_options("Serving: the generator service against LitServe and against a plain route.")
    parser.add_argument("--seconds", type=float, default=40, help="of arrivals at each rate (default: 40)")
    parser.add_argument("--repeats", type=int, default=3, help="other arrivals each time (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat's arrivals; the next counts on")
    parser.add_argument("--rounds", type=int, default=15, help="times that one request is timed alone (default: 15)")
    parser.add_argument(
        "--loads",
        type=shares,
        default=LOADS,
        help="shares of what the bare sampler can do, such as 0.8,2.0 (default: 0.5,0.8,1.3), or none: then one request "
        "is timed alone, and that is all",
    )
    parser.add_argument("--batch", type=int, default=4, help="largest batch of LitServe (default: 4)")
    options = parser.parse_args(arguments)
    seconds, count, rounds = (2.0, 1, 2) if options.quick else (options.seconds, options.repeats, options.rounds)
    loads = LOADS[1:] if options.quick and options.loads is LOADS else options.loads
    print(
        "Time to answer, with mixed candidates (1, 4, 7) and steps, arriving at random; the load is the same for all."
    )
    torch.set_num_threads(options.threads)
    requests = bodies(options.quick)
    with ExitStack() as stack:
        places = stack, options.bundle, options.threads
        one = ours(*places)
        painter = Painter(options.bundle, CATALOGUE, options.threads)
        alone = requests[2][0].model_copy(update={"sampler": SamplerChoice(num_inference_steps=16)})
        # before the peers are there: LitServe's processes are busy even while nobody asks them
        figures = one_at_a_time(one, painter, alone, rounds)
        capacity = _capacity(painter, requests) if loads else 0.0
        servers = [one, lit(*places, options.batch), plain(*places)] if loads else []
        for share in loads:
            print(f"{share:.0%} of what the bare sampler can do, {capacity * share:.2f} requests/s:")
            repeats = range(options.seed, options.seed + count)
            found = under_load(servers, capacity * share, seconds, requests, repeats)
            middles = [describe(server.name, found[server.name]) for server in servers]
            figures |= _ratios(share, *middles)
            if share == KEEPING_UP:
                first = first_progress(one, servers, capacity * share, seconds, requests)
                figures["first_vs_litserve"] = first / middles[1].first_p50_s
    print_figures(figures | {"threads": options.threads, "batch": options.batch, "seconds": seconds})


def _capacity(painter: Painter, requests: list[tuple[GenerateRequest, int]]) -> float:
    """Requests per second of the bare sampler, one after the other."""
    started = time.perf_counter()
    for request, _ in requests[:9]:
        painter.paint([request])
    return 9 / (time.perf_counter() - started)


def _ratios(share: float, one: LoadFigures, other: LoadFigures, route: LoadFigures) -> dict[str, float]:
    name = f"at_{round(100 * share)}"
    found = {
        f"p95_vs_litserve_{name}": one.p95_s / other.p95_s,
        f"p50_vs_litserve_{name}": one.p50_s / other.p50_s,
        f"throughput_vs_litserve_{name}": one.throughput / other.throughput,
        f"p95_vs_route_{name}": one.p95_s / route.p95_s,
        f"throughput_vs_route_{name}": one.throughput / route.throughput,
        f"failed_{name}": float(one.failed),
    }
    if share == KEEPING_UP:
        found["p95_vs_litserve"] = found[f"p95_vs_litserve_{name}"]
    if share == OVERLOAD:
        found["throughput_vs_litserve"] = found[f"throughput_vs_litserve_{name}"]
        found["throughput_vs_route"] = found[f"throughput_vs_route_{name}"]
    return found


if __name__ == "__main__":
    main()
