"""What the architecture tests look at: the modules and files of this checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Modules and packages of fashiondpo that no neural network library may come with.
LIGHT = frozenset(
    {
        "clients",
        "contracts",
        "errors",
        "evaluation",
        "messages",
        "pipeline",
        "preferences",
        "remote",
        "serving",
        "storage",
        "telemetry",
    }
)
HEAVY_LIBRARIES = ("accelerate", "diffusers", "open_clip", "peft", "timm", "torch", "torchvision", "transformers")


def module_name(path: Path) -> str:
    """The dotted name under which a file of the package is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_paths() -> list[Path]:
    """Every module of the library and, where they are there, of the services."""
    return sorted(path for folder in ("fashiondpo", "services") for path in (ROOT / folder).rglob("*.py"))


def light_modules() -> list[str]:
    """Every module that must load without a neural network library."""
    names = [module_name(path) for path in module_paths()]
    return [name for name in names if name.startswith("fashiondpo.") and name.split(".")[1] in LIGHT]


def repository_paths() -> list[Path]:
    """Files that are, or would be, under version control.

    Raises:
        OSError: if git is not installed.
        subprocess.CalledProcessError: if this is not a git checkout.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).is_file()]
