"""What a model hub has, and how its files come here: whole, with the right digest, and going on after an interruption.

The hub's own client keeps no part of a file whose download was cut off by the end of a process; the parts here are kept,
and continued by the byte.
"""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol

from httpx2 import HTTPError
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils._headers import build_hf_headers

from fashiondpo.errors import CorruptArtifact, Forbidden, InvalidInput, NotFound, Unavailable
from fashiondpo.profiles.profile import HubSource

_LIBRARY = "fashiondpo"
_READABLE = (".json", ".txt", ".model", ".safetensors")
"""Ends of the names of files that loaders read; no pickles."""
_BUNDLE_FOLDERS = (
    "fashion_encoder",
    "mutual_encoder",
    "scheduler",
    "text_encoder",
    "tokenizer",
    "unet",
    "vae",
)


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub describes it. Large ones go by SHA-256, small ones by git's SHA-1 of a blob."""

    path: str
    size: int
    sha256: str | None
    git_id: str | None

    def matches(self, content: Path) -> bool:
        """Whether a local file has this content."""
        if content.stat().st_size != self.size:
            return False
        with content.open("rb") as opened:
            if self.sha256 is not None:
                return hashlib.file_digest(opened, "sha256").hexdigest() == self.sha256
            whole = hashlib.sha1(f"blob {self.size}\0".encode() + opened.read(), usedforsecurity=False)
        return whole.hexdigest() == self.git_id


@dataclass(frozen=True)
class Listing:
    """What is to be fetched of a source.

    Attributes:
        source: where from.
        commit: what its revision means now.
        licence: as the model's card says; None if it says none.
        files: those that the source's patterns choose.
    """

    source: HubSource
    commit: str
    licence: str | None
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def has(self, path: str) -> bool:
        """Whether a file is among them."""
        return any(file.path == path for file in self.files)


class ModelHub(Protocol):
    """Lists repositories and gives their files."""

    def listing(self, source: HubSource, commit: str | None) -> Listing:
        """What a source is at a commit, or at its revision of now; raises NotFound, Forbidden or Unavailable."""

    def download(self, listing: Listing, file: RemoteFile, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Write one file whole, or nothing under its name; tells after each piece how many bytes of it are there."""


class HuggingFaceHub:
    """A hub that speaks the Hugging Face API. A token for private or gated models is found as its own client finds it."""

    def __init__(self, endpoint: str | None = None) -> None:
        """`endpoint`: its address; that of HF_ENDPOINT, or the public one, unless given."""
        self._endpoint = endpoint
        self._api = HfApi(endpoint=endpoint, library_name=_LIBRARY)

    def listing(self, source: HubSource, commit: str | None) -> Listing:
        """Ask for names, sizes, digests and licence of the files that a source chooses.

        Raises:
            NotFound: if there is no such repository or revision, or a pattern matches nothing.
            Forbidden: if the model's licence has to be accepted first.
            Unavailable: if the hub does not answer.
            InvalidInput: if a file's name leads out of the folder.
        """
        with _told(source):
            info = self._api.model_info(source.repo, revision=commit or source.revision, files_metadata=True)
        if info.sha is None or (commit is not None and info.sha != commit):
            raise NotFound(f"{source.repo} has no commit {commit or source.revision}: the hub answered {info.sha}")
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        chosen = _chosen(source, sorted(siblings))
        return Listing(source, info.sha, _licence(info), tuple(_remote_file(source, siblings[name]) for name in chosen))

    def download(self, listing: Listing, file: RemoteFile, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Fetch one file; what an earlier attempt left beside its place, `….part`, is continued.

        Raises:
            CorruptArtifact: if it does not have the digest that the hub names; nothing of it is kept.
            NotFound, Forbidden, Unavailable: as `listing`.
        """
        part = target.with_name(f"{target.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        if part.exists() and part.stat().st_size > file.size:
            part.unlink()
        is_continued = part.exists()
        self._append(listing, file, part, on_bytes)
        if is_continued and not file.matches(part):  # what was left may have been anything
            part.unlink()
            self._append(listing, file, part, on_bytes)
        if not file.matches(part):
            part.unlink()
            raise CorruptArtifact(
                f"{file.path} of {listing.source.place} does not have the digest that the hub names: it was thrown away; "
                "fetch again, and if it happens again, do not trust what lies between"
            )
        part.replace(target)

    def _append(self, listing: Listing, file: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> None:
        url = hf_hub_url(listing.source.repo, file.path, revision=listing.commit, endpoint=self._endpoint)
        with _told(listing.source), _CountedFile(part, on_bytes) as opened:
            http_get(
                url,
                opened,
                resume_size=opened.tell(),
                headers=build_hf_headers(library_name=_LIBRARY),
                expected_size=file.size,
                displayed_filename=file.path,
            )


class _CountedFile(io.BufferedRandom):
    """A file to append to, which tells how long it is."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "a+"))
        self.seek(0, io.SEEK_END)
        self._on_bytes = on_bytes

    def write(self, content: bytes) -> int:  # type: ignore[override]
        written = super().write(content)
        self._on_bytes(self.tell())
        return written


def _chosen(source: HubSource, names: Sequence[str]) -> list[str]:
    """Names that the patterns choose; without patterns those that loaders read.

    Raises:
        NotFound: if a pattern, or nothing at all, matches.
    """
    if source.files:
        for pattern in source.files:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise NotFound(f"{source.place} has no file {pattern}, which is needed")
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in source.files)]
    is_bundle = any(name.startswith("unet/") for name in names)
    found = [name for name in names if _is_readable(PurePosixPath(name), is_bundle=is_bundle)]
    if not found:
        raise NotFound(f"{source.place} has no weights as safetensors")
    return found


def _is_readable(path: PurePosixPath, *, is_bundle: bool) -> bool:
    """Whether a loader reads a file: no pickle, no second copy in another type, no single-file copy of a bundle."""
    is_index = path.name.endswith(".safetensors.index.json")
    if path.suffix not in _READABLE or (len(path.suffixes) > 1 and not is_index):
        return False
    if is_bundle and len(path.parts) == 1:
        return path.suffix == ".json"
    return not is_bundle or path.parts[0] in _BUNDLE_FOLDERS


def _remote_file(source: HubSource, sibling: RepoSibling) -> RemoteFile:
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts or "\\" in sibling.rfilename:
        raise InvalidInput(f"{source.place} has a file {sibling.rfilename!r}, which leads out of its folder")
    lfs = sibling.lfs
    size = lfs.size if lfs is not None else sibling.size
    if size is None or (lfs is None and sibling.blob_id is None):
        raise Unavailable(f"the hub names no size or digest of {sibling.rfilename} of {source.place}")
    return RemoteFile(sibling.rfilename, size, lfs.sha256 if lfs is not None else None, sibling.blob_id)


def _licence(info: ModelInfo) -> str | None:
    card = info.card_data
    if card is None or not card.license:
        return None
    name = getattr(card, "license_name", None)
    return f"{card.license} ({name})" if name else str(card.license)


@contextmanager
def _told(source: HubSource) -> Iterator[None]:
    """The client's errors as ours, with what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise Forbidden(
            f"{source.repo} is given to those who accept its licence: do that on its page, and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFound(f"the hub has no {source.repo}; for a private one set HF_TOKEN") from error
    except (RevisionNotFoundError, EntryNotFoundError) as error:
        raise NotFound(f"{source.repo} has no such revision or file any more: {_first_line(error)}") from error
    except OfflineModeIsEnabled as error:
        raise Unavailable("HF_HUB_OFFLINE forbids to ask the hub: unset it for this command") from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Unavailable(f"the disk is full; the same command goes on where it was: {error}") from error
        raise Unavailable(
            f"the hub did not give {source.repo}: {_first_line(error)}; the same command goes on where it was"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
