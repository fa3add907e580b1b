"""Where a round's training keeps its checkpoints: a folder per lease, so that a late holder disturbs nobody.

    <root>/round-0001/lease-0000000000000003/checkpoint.safetensors, metrics.jsonl

Whoever takes a round over copies what the holder before has left. What that one still writes, if it lives, is seen by
nobody.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

from fashiondpo.errors import Unavailable
from fashiondpo.storage.records import checked_name, replace_file
from fashiondpo.training.metrics import METRICS_FILE

CHECKPOINT = "checkpoint.safetensors"


def lease_folder_name(token: int) -> str:
    """The folder of the lease with this fencing token; later ones sort behind."""
    return f"lease-{token:016d}"


def take_over_training(root: Path, round_id: str, token: int) -> Path:
    """The folder of this lease, with the newest state of the leases before it; folders before those are removed.

    Args:
        root: of all rounds.
        round_id: the round.
        token: fencing token of the lease.
    """
    folder = root / checked_name(round_id) / lease_folder_name(token)
    if folder.exists():
        return folder
    before = [found for found in _lease_folders(root, round_id) if found.name < folder.name]
    with_state = [found for found in before if (found / CHECKPOINT).exists()]
    incoming = folder.with_name(f".{uuid4().hex}.tmp")
    incoming.mkdir(parents=True)
    for name in (METRICS_FILE, CHECKPOINT):
        if with_state and (with_state[-1] / name).exists():
            replace_file(incoming / name, (with_state[-1] / name).read_bytes())
    incoming.rename(folder)
    for old in before:
        if old not in with_state[-1:]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def remove_training(root: Path, round_id: str) -> None:
    """Remove all of a round's folders; nothing happens if there are none.

    Raises:
        Unavailable: if they cannot be removed now.
    """
    try:
        shutil.rmtree(root / checked_name(round_id))
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"the training folder {root} does not answer: {error}") from error


def _lease_folders(root: Path, round_id: str) -> list[Path]:
    """Oldest first."""
    return sorted((root / checked_name(round_id)).glob("lease-*"))
