"""Judges: candidates scored by POST /score over HTTP, against the bare model in batches, for each of the three services.

The bare model gets decoded pictures, or picture files that it decodes first; the service gets JSON, with pictures in base64
or as references to its artifact store. All give the same scores, which is checked first.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import torch
from measuring.mini import shared_options
from measuring.timing import alternate, print_figures

from fashiondpo.contracts import NUM_CANDIDATES
from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.messages import ScoreItem, ScoreRequest, ScoreResponse
from fashiondpo.outfits.images import decode_image, encode_png
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
SERVICES = {"quality": "judge_quality", "compatibility": "judge_compat", "personalization": "judge_personal"}
BATCH = 128
IN_FLIGHT = 4
LARGEST_DIFFERENCE = 1e-3
"""Between scores of the same picture in different batches: float32 sums in another order."""


@dataclass(frozen=True)
class Work:
    """The same candidates, as the model takes them and as the services do."""

    inputs: Sequence[JudgeInput]
    files: Sequence[bytes]
    by_base64: Sequence[bytes]
    by_reference: Sequence[bytes]


def make_work(place: Workspace, outfits: int, artifacts: FolderArtifacts) -> Work:
    """Seven candidates for each of some held-out outfits; garments of the catalogue stand for painted ones."""
    catalogue = place.data_set.catalogue
    item_ids = catalogue.item_ids()
    inputs, files, sent, stored = [], [], [], []
    for n, blank in enumerate(place.data_set.blanks_of("test", outfits)):
        for k in range(NUM_CANDIDATES):
            image = catalogue.image(item_ids[(97 * (NUM_CANDIDATES * n + k)) % len(item_ids)])
            content, name = encode_png(image), f"{n}-{k}"
            inputs.append(JudgeInput(name, blank.outfit, blank.slot, image))
            files.append(content)
            about = {"candidate_id": name, "outfit": blank.outfit, "slot": blank.slot}
            sent.append(ScoreItem(**about, image=base64.b64encode(content).decode()))
            stored.append(ScoreItem(**about, artifact=artifacts.put(content, "png")))
    return Work(inputs, files, _bodies(sent), _bodies(stored))


def _bodies(items: Sequence[ScoreItem]) -> list[bytes]:
    return [
        ScoreRequest(candidates=tuple(items[start : start + BATCH])).model_dump_json(exclude_defaults=True).encode()
        for start in range(0, len(items), BATCH)
    ]


def bare(judge: Judge, work: Work) -> list[float | None]:
    """The model's scores, batch by batch."""
    found: list[float | None] = []
    for start in range(0, len(work.inputs), BATCH):
        found += [score.value for score in judge.score(work.inputs[start : start + BATCH])]
    return found


def bare_with_files(judge: Judge, work: Work) -> list[float | None]:
    """The same, but pictures are decoded first, as a service has to."""
    images = [decode_image(content) for content in work.files]
    inputs = [replace(one, image=image) for one, image in zip(work.inputs, images, strict=True)]
    return bare(judge, replace(work, inputs=inputs))


async def _ask(url: str, bodies: Sequence[bytes]) -> list[float | None]:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        room = asyncio.Semaphore(IN_FLIGHT)

        async def one(body: bytes) -> bytes:
            async with room:
                answer = await client.post("/score", content=body, headers={"Content-Type": "application/json"})
                answer.raise_for_status()
                return answer.content

        answers = await asyncio.gather(*map(one, bodies))
    return [score.value for answer in answers for score in ScoreResponse.model_validate_json(answer).scores]


def over_http(url: str, bodies: Sequence[bytes]) -> list[float | None]:
    """The service's scores, some requests at a time."""
    return asyncio.run(_ask(url, bodies))


@contextmanager
def served(criterion: str, artifacts: Path, cache: Path, threads: int) -> Iterator[str]:
    """The service in a process of its own, when it is ready; its address."""
    service = SERVICES[criterion]
    settings = {"PORT": "0", "ARTIFACTS_URL": str(artifacts), "THREADS": str(threads)}
    if criterion != "quality":
        settings["FEATURES_CACHE"] = str(cache)
    environment = {f"{service.upper()}_{name}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", f"services.{service}"],
        cwd=ROOT,
        env=os.environ | environment | {"OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            told = json.loads(line)
            url = told.get("url", url)
            if told["event"] == "loaded":
                break
        if process.poll() is not None:
            raise SystemExit(f"services.{service} ended with {process.returncode}")
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)


def check_same(first: Sequence[float | None], second: Sequence[float | None]) -> None:
    """Stop if the service scores otherwise than the model."""
    pairs = list(zip(first, second, strict=True))
    if any((a is None) != (b is None) or (a or 0) - (b or 0) > LARGEST_DIFFERENCE for a, b in pairs):
        raise SystemExit("the service gives other scores than its model: nothing to compare")


def compare(judge: Judge, work: Work, url: str, rounds: int) -> dict[str, float]:
    """Time one judge in all ways, say what came out; seconds by way."""
    expected = bare(judge, work)
    check_same(expected, over_http(url, work.by_base64))
    check_same(expected, over_http(url, work.by_reference))
    competitors: dict[str, Callable[[int], object]] = {
        "bare": lambda _: bare(judge, work),
        "files": lambda _: bare_with_files(judge, work),
        "base64": lambda _: over_http(url, work.by_base64),
        "reference": lambda _: over_http(url, work.by_reference),
    }
    timings = alternate(competitors, rounds=rounds, warm_up=False)
    each = {name: 1e3 * timing.median_s / len(work.inputs) for name, timing in timings.items()}
    print(
        f"{judge.info.criterion}, ms a candidate: bare {each['bare']:.3f}, with files to decode {each['files']:.3f}; "
        f"over HTTP with pictures in base64 {each['base64']:.3f}, with references {each['reference']:.3f}."
    )
    return {name: timing.median_s for name, timing in timings.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, end with one line of JSON."""
    parser = shared_options("Judges: POST /score over HTTP against the bare model in batches.")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    options = parser.parse_args(arguments)
    rounds, outfits = (1, 8) if options.quick else (options.rounds, 200)
    torch.set_num_threads(options.threads)
    seconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place, artifacts, cache = (
            Workspace(Path(folder)),
            FolderArtifacts(f"{folder}/artifacts"),
            Path(folder, "features"),
        )
        work = make_work(place, outfits, artifacts)
        print(
            f"Time to score {len(work.inputs)} candidates, {BATCH} a request, {IN_FLIGHT} requests at a time; "
            f"threads: {options.threads}."
        )
        for judge in place.judges("test"):
            url = stack.enter_context(served(judge.info.criterion, Path(folder, "artifacts"), cache, options.threads))
            seconds[judge.info.criterion] = compare(judge, work, url, rounds)
    print_figures(ratios(seconds) | {"rounds": rounds, "threads": options.threads})


def ratios(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Time over time: of all judges together, and of each."""
    total = {way: sum(of_one[way] for of_one in seconds.values()) for way in ("bare", "files", "base64", "reference")}
    return {
        "ratio": total["base64"] / total["bare"],
        "ratio_with_files": total["base64"] / total["files"],
        "ratio_of_references": total["reference"] / total["bare"],
    } | {f"ratio_{criterion}": of_one["base64"] / of_one["bare"] for criterion, of_one in seconds.items()}


if __name__ == "__main__":
    main()
