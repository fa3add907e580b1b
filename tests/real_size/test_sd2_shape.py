"""Published files of Stable Diffusion 2's size: imported, painted with, trained on, exported, in 8 GiB."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GIB = 2**30
UNET_BYTES = 4 * 865_922_244

Figures = dict[str, Any]

pytestmark = pytest.mark.real_size


def in_own_process(module: str, *arguments: Path, root: Path) -> str:
    """What a module of the tests prints; its peak memory is its own."""
    finished = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=root,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Figures:
    folder = tmp_path_factory.mktemp("sd2")
    try:
        in_own_process("tests.real_size.published_sd2", folder / "published", root=repository)
        said = in_own_process("tests.real_size.whole_way", folder / "published", folder / "work", root=repository)
    finally:
        shutil.rmtree(folder)  # ten gigabytes, which pytest would keep for three runs
    sys.stdout.write(said)  # seconds and memory of every stage, for whoever runs it with -s
    found: Figures = json.loads(said.splitlines()[-1])
    return found


class TestWholeWay:
    def test_the_networks_have_the_published_numbers_of_parameters(self, figures):
        assert figures["parameters"] == {
            "unet": 865_922_244,
            "vae": 83_653_863,
            "text_encoder": 340_387_840,
            "mutual_encoder": 50 * 64 + 2 * 256 * 16384 + 256 + 16384,
        }
        assert figures["mutual"] == [1, 4, 64, 64]

    def test_an_import_maps_a_network_and_never_holds_it_beside(self, figures):
        peak = figures["peak_bytes"]
        assert peak["import"] - peak["libraries"] < 1.1 * UNET_BYTES

    def test_a_candidate_is_painted(self, figures):
        assert figures["is_finite"]
        assert figures["picture"] == [64, 64, 3]

    def test_an_adapter_of_the_published_size_is_trained_exported_and_comes_back(self, figures):
        assert figures["adapter"] == [256, 829_952]
        assert figures["has_learned"]
        assert figures["comes_back"]

    def test_all_of_it_takes_less_than_eight_gib(self, figures):
        assert max(figures["peak_bytes"].values()) <= 8 * GIB
