"""A trained VBPR on disk, whole or not at all: the folder that judges load, with the report of its training beside."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fashiondpo.errors import Conflict, InvalidInput
from fashiondpo.judges.vbpr import VBPR
from fashiondpo.judges.weights import CONFIG_FILE

REPORT_FILE = "report.json"


def check_vbpr_target(folder: Path, *, replace: bool = False) -> None:
    """See before a training that its result can be written.

    Raises:
        InvalidInput: if the folder holds something else.
        Conflict: if it holds a VBPR and `replace` is false.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file()):
        raise InvalidInput(f"{folder} holds something else than a VBPR: choose another folder")
    if (folder / CONFIG_FILE).is_file() and not replace:
        raise Conflict(f"{folder} already holds a VBPR: replace it with --replace, or choose another folder")


def write_vbpr(folder: Path, network: VBPR, report: Mapping[str, object], *, replace: bool = False) -> None:
    """Write weights, configuration and report.

    The folder appears under its name when it is complete; work that is cut off leaves at most a hidden folder
    `.<name>.partial-*` beside it.

    Raises:
        InvalidInput, Conflict: as `check_vbpr_target`.
    """
    check_vbpr_target(folder, replace=replace)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial-", dir=folder.parent) as partial:
        fresh = Path(partial) / "fresh"
        network.save(fresh)
        (fresh / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
        if folder.exists():
            folder.rename(Path(partial) / "replaced")
        fresh.rename(folder)
