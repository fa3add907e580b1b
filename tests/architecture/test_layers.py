"""The import contracts of pyproject.toml hold, and would notice if they did not."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.checkout import HEAVY_LIBRARIES, LIGHT, ROOT

LINT_IMPORTS = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_logo=True, cache_dir=None))"


SERVICES = "Services stand beside each other, above the library"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def contracts() -> dict[str, dict]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {contract["name"]: contract for contract in configuration["tool"]["importlinter"]["contracts"]}


@pytest.fixture
def copy_of_the_package(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("fashiondpo", "services"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


class TestImportContracts:
    def test_are_all_kept(self):
        result = lint_imports(ROOT)
        assert result.returncode == 0, result.stdout + result.stderr

    @pytest.mark.parametrize(
        ("module", "statement", "contract"),
        [
            ("contracts", "import fashiondpo.outfits.model", "Arrows point down"),
            ("outfits/model", "import fashiondpo.storage", "Arrows point down"),
            ("storage/crafted", "import fashiondpo.training", "Arrows point down"),
            ("diffusion/crafted", "import fashiondpo.judges", "Arrows point down"),
            ("unplaced", "", "Arrows point down"),
            ("judges/quality", "import fashiondpo.judges.personalization", "Judges never import each other"),
            ("judges/compatibility", "import fashiondpo.judges.quality", "Judges never import each other"),
            ("diffusion/crafted", "import httpx", "The method knows no web, queue or store"),
            (
                "training/crafted",
                "def late():\n    from celery import Celery",
                "The method knows no web, queue or store",
            ),
            ("storage/crafted", "import torch", "The light modules load no neural networks"),
            ("evaluation/crafted", "from diffusers import DDIMScheduler", "The light modules load no neural networks"),
            ("serving/crafted", "import fashiondpo.cli", "Arrows point down"),
            ("remote", "import fashiondpo.offline", "Arrows point down"),
            ("clients/crafted", "import services.generator.settings", SERVICES),
            ("services/trainer/crafted", "import services.generator.settings", SERVICES),
        ],
    )
    def test_notice_a_forbidden_import(self, copy_of_the_package, module, statement, contract):
        root = copy_of_the_package if module.startswith("services/") else copy_of_the_package / "fashiondpo"
        with (root / f"{module}.py").open("a") as file:
            file.write(f"\n{statement}\n")
        result = lint_imports(copy_of_the_package)
        assert result.returncode == 1
        assert f"{contract} BROKEN" in " ".join(result.stdout.split())

    def test_name_every_light_module_there_is(self):
        named = set(contracts()["The light modules load no neural networks"]["source_modules"])
        there = {path.stem for path in (ROOT / "fashiondpo").iterdir()}
        assert named == {f"fashiondpo.{name}" for name in LIGHT & there}

    def test_name_every_neural_network_library(self):
        forbidden = contracts()["The light modules load no neural networks"]["forbidden_modules"]
        assert tuple(forbidden) == HEAVY_LIBRARIES
