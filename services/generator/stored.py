"""Artifacts for callers, who need not know where the store is."""

from __future__ import annotations

from fashiondpo.contracts import ArtifactRef
from fashiondpo.errors import NotFound
from fashiondpo.storage.artifacts import ArtifactStore


def stored_artifact(artifacts: ArtifactStore, ref: ArtifactRef) -> bytes:
    """What is stored under a reference.

    Raises:
        NotFound: if nothing is; the message does not say where it was looked for.
        CorruptArtifact, Unavailable: as the store does.
    """
    try:
        return artifacts.get(ref)
    except NotFound:
        raise NotFound(f"there is no artifact {ref}") from None
