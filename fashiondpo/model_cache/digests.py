"""Digests of the files of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fashiondpo.model_cache.lock import LockedFile


def files_below(folder: Path) -> list[Path]:
    """Every file of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def folder_size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in files_below(folder))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def locked_files(folder: Path, names: Iterable[str]) -> dict[str, LockedFile]:
    """Length and digest of these files of a folder."""
    return {name: LockedFile(size=(folder / name).stat().st_size, sha256=file_digest(folder / name)) for name in names}
