"""The disk of the artifacts is full: refusals are honest, nothing half-written is ever read, and afterwards all is well."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from fashiondpo.contracts import content_digest
from fashiondpo.storage.artifacts import FolderArtifacts
from tests.generator_calls import ASYNC, completion
from tests.polling import eventually
from tests.service_process import ServiceProcess

SMALLER_THAN_ANY_PICTURE = 60


class Disk(Protocol):
    """What the artifacts of a generator lie on."""

    folder: Path

    def fill(self, generator: ServiceProcess) -> None: ...

    def free(self, generator: ServiceProcess) -> None: ...


class SmallDisk:
    """A file system of its own with a megabyte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, generator: ServiceProcess) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(SMALLER_THAN_ANY_PICTURE))
        assert shutil.disk_usage(self.folder).free == 0

    def free(self, generator: ServiceProcess) -> None:
        (self.folder / "filler").unlink()


class ShortFiles:
    """The generator may write only the first bytes of a file: for machines on which nobody may mount anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, generator: ServiceProcess) -> None:
        self._limit(generator, SMALLER_THAN_ANY_PICTURE)

    def free(self, generator: ServiceProcess) -> None:
        self._limit(generator, resource.RLIM_INFINITY)

    @staticmethod
    def _limit(generator: ServiceProcess, size: int) -> None:
        _, highest = resource.prlimit(generator.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(generator.process.pid, resource.RLIMIT_FSIZE, (size, highest))


@pytest.fixture(params=["short files", pytest.param("small disk", marks=pytest.mark.slow)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "short files":
        yield ShortFiles(folder)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing may be mounted here: {mounted.stderr.decode()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def generator(disk: Disk, bundle_folder: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess("generator", bundle=bundle_folder, artifacts_url=disk.folder / "artifacts") as started:
        yield started.wait_until_ready(within_s=120)


def ask(generator: ServiceProcess, seed: int, **options) -> httpx.Response:
    return httpx.post(f"{generator.url}/generate", json=completion(seed=seed), timeout=60, **options)


def pictures_of(answer: dict) -> list[str]:
    return [c["image"] for found in answer["candidate_sets"] for c in found["candidates"]]


def test_is_an_honest_503_and_shows_no_half_picture_until_there_is_room_again(disk, generator):
    before = pictures_of(ask(generator, 1).json())
    disk.fill(generator)
    with ThreadPoolExecutor(4) as pool:
        refused = list(pool.map(lambda seed: ask(generator, seed), range(2, 10)))
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "unavailable")}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    place = ask(generator, 10, headers=ASYNC).headers["location"]
    ended = lambda: httpx.get(generator.url + place, timeout=30).json()  # noqa: E731
    assert (
        eventually(lambda: ended()["status"] == "failed" and ended(), within_s=60)["problem"]["code"] == "unavailable"
    )
    kept = FolderArtifacts(disk.folder / "artifacts")
    assert set(kept.refs()) == set(before)
    for ref in before:
        assert content_digest(httpx.get(f"{generator.url}/images/{ref}", timeout=30).content) == ref.split(".")[0]
    disk.free(generator)
    after = pictures_of(ask(generator, 2).json())
    assert set(kept.refs()) == {*before, *after}
    assert all(kept.get(ref) for ref in after)
    assert [path.name for path in (disk.folder / "artifacts").rglob("*.tmp")] == []
    assert generator.process.poll() is None
