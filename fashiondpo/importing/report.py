"""What an import did: which keys were read, what was left out and why, and digests of what was written."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from fashiondpo.errors import Conflict

ImportKind = Literal["difashion", "stable_diffusion", "adapter", "vbpr"]

REPORT_FILE = "import.json"
"""Lies beside what was imported; no part of it, so that the same weights have the same digest wherever they came from."""

_NAMED = 5


@dataclass(frozen=True)
class LeftOut:
    """A file or a key that was not taken over: `name` is relative to the source, a key stands behind a colon."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What an import read and wrote.

    Attributes:
        kind: what the source was recognised as.
        out: the folder that was written.
        keys_read: every tensor that was taken over, as `file:key` of the source.
        left_out: everything else in the source, with the reason.
        digest: of the result: the bundle's, the adapter's or VBPR's weights'.
        digests: SHA-256 of every file that was written, by its path in `out`.
        source_digests: SHA-256 of every file of weights that was read, by its path in the source.
        warnings: what somebody who uses the result has to know.
    """

    kind: ImportKind
    out: Path
    keys_read: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    digest: str
    digests: Mapping[str, str]
    source_digests: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """For people and for the record; says nothing about folders of this machine."""
        content = {key: value for key, value in asdict(self).items() if key != "out"}
        return json.dumps({"format": "fashiondpo-import/1", **content}, indent=2, ensure_ascii=False) + "\n"


@dataclass
class Account:
    """What has been read and left out so far."""

    keys_read: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    source_digests: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def leave_out(self, name: str, reason: str) -> None:
        """Note that something is not taken over."""
        self.left_out.append(LeftOut(name, reason))

    def close(self, kind: ImportKind, folder: Path, out: Path, digest: str) -> ImportReport:
        """The report of what lies in a folder that will have the name `out`; written there too."""
        report = ImportReport(
            kind=kind,
            out=out,
            keys_read=tuple(sorted(self.keys_read)),
            left_out=tuple(sorted(self.left_out, key=lambda left: left.name)),
            digest=digest,
            digests={path.relative_to(folder).as_posix(): file_digest(path) for path in _files(folder)},
            source_digests=dict(sorted(self.source_digests.items())),
            warnings=tuple(self.warnings),
        )
        (folder / REPORT_FILE).write_text(report.to_json(), encoding="utf-8")
        return report


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def named(keys: Sequence[str]) -> str:
    """Keys for a message: the first of them, and how many more there are."""
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to write into; it gets that name when all of it is there, or goes away.

    Raises:
        Conflict: if `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict(f"{out} already exists: choose another folder, or move it away")
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as partial:
        fresh = Path(partial) / "fresh"
        fresh.mkdir()
        yield fresh
        if out.exists():
            out.rmdir()
        fresh.rename(out)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
