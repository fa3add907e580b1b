"""Artifacts: bytes (images, trajectories, weights) under the digest of their content."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from fsspec.core import split_protocol, url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pydantic import TypeAdapter, ValidationError

from fashiondpo.contracts import ArtifactRef, content_digest, content_ref
from fashiondpo.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from fashiondpo.storage.records import replace_file

_REF: TypeAdapter[str] = TypeAdapter(ArtifactRef)

_WHOLE_WRITES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
"""Protocols whose stores show an object only once all of it is there."""

_S3 = frozenset({"s3", "s3a"})

# s3fs and botocore each ask five times and wait 15 s for every answer: a server that hangs would hold whoever asks for six
# minutes. So many tries end within a minute, before the callers of a service give up; a busy server is asked after pauses.
_S3_TRIES = 2
_S3_OPTIONS = {"config_kwargs": {"read_timeout": 8, "retries": {"mode": "standard", "total_max_attempts": 3}}}


class ArtifactStore(Protocol):
    """Immutable bytes, found by what they are. Several writers may put the same content at once."""

    def put(self, content: bytes, suffix: str) -> ArtifactRef:
        """Keep the content; once, however often it is put.

        Args:
            content: any bytes.
            suffix: what they are: "png", "safetensors", "json" or "html"; without the dot.

        Returns:
            The reference under which `get` finds them, a function of content and suffix alone.

        Raises:
            InvalidInput: for another suffix.
            Unavailable: if the place does not answer.
        """

    def get(self, ref: ArtifactRef) -> bytes:
        """The content, checked against its digest.

        Raises:
            InvalidInput: if this is no artifact reference.
            NotFound: if nothing is stored under it.
            CorruptArtifact: if what is stored is no longer what was put.
            Unavailable: if the place does not answer.
        """

    def has(self, ref: ArtifactRef) -> bool:
        """Whether something is stored under the reference; raises InvalidInput, Unavailable."""

    def refs(self) -> Iterator[ArtifactRef]:
        """Every reference, sorted; what others put or delete meanwhile may or may not appear."""

    def delete(self, ref: ArtifactRef) -> None:
        """Forget the content; nothing happens if there is none. Raises InvalidInput, Unavailable."""


class _Artifacts(ABC):
    """The meaning of an artifact store; subclasses say where the bytes are."""

    def put(self, content: bytes, suffix: str) -> ArtifactRef:
        ref = checked_ref(content_ref(content, suffix))
        # The size is compared so that an artifact that a failing disk cut short is written again.
        if self._size(ref) != len(content):
            self._write(ref, content)
        return ref

    def get(self, ref: ArtifactRef) -> bytes:
        content = self._read(checked_ref(ref))
        if content is None:
            raise NotFound(f"artifact {ref} is not in {self}")
        if content_digest(content) != ref.partition(".")[0]:
            raise CorruptArtifact(f"artifact {ref} in {self} is damaged: its {len(content)} bytes have another digest")
        return content

    def has(self, ref: ArtifactRef) -> bool:
        return self._size(checked_ref(ref)) is not None

    def refs(self) -> Iterator[ArtifactRef]:
        return iter(sorted(self._names()))

    def delete(self, ref: ArtifactRef) -> None:
        self._remove(checked_ref(ref))

    @abstractmethod
    def _size(self, ref: str) -> int | None: ...

    @abstractmethod
    def _read(self, ref: str) -> bytes | None: ...

    @abstractmethod
    def _write(self, ref: str, content: bytes) -> None: ...

    @abstractmethod
    def _names(self) -> list[str]: ...

    @abstractmethod
    def _remove(self, ref: str) -> None: ...


class MemoryArtifacts(_Artifacts):
    """Artifacts of this process; gone with it."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def __str__(self) -> str:
        return "memory"

    def _size(self, ref: str) -> int | None:
        content = self._contents.get(ref)
        return None if content is None else len(content)

    def _read(self, ref: str) -> bytes | None:
        return self._contents.get(ref)

    def _write(self, ref: str, content: bytes) -> None:
        self._contents[ref] = bytes(content)

    def _names(self) -> list[str]:
        return list(self._contents)

    def _remove(self, ref: str) -> None:
        self._contents.pop(ref, None)


class FolderArtifacts(_Artifacts):
    """Artifacts as files `<root>/<first two digits of the digest>/<ref>` of any fsspec file system.

    A file is written under a temporary name and then moved, so that its own name never shows a part of it. What a
    killed writer leaves behind is a file named `.*.tmp` that nobody reads. Object stores such as S3 show an object whole
    or not at all, so there it is written once, under its own name. Endpoint and keys come from where the file system
    looks for them: for S3, the variables and files of AWS.

    A local folder is made when something is first put, or by `make_folder`. One that was there and is gone, for instance
    because its disk is no longer mounted, is Unavailable: what lies in it is not lost, and nothing is written beside it.
    So is one from which something is to be read and that is not there: whoever has a reference has it from somebody who
    put something.
    """

    def __init__(self, url_or_path: str | Path) -> None:
        """Takes a folder's path or an fsspec URL, such as s3://bucket/prefix or memory://name; opens nothing yet.

        Raises:
            InvalidInput: if no file system is installed for the URL.
        """
        self._url = str(url_or_path)
        is_s3 = split_protocol(self._url)[0] in _S3
        try:
            # Other processes write too: a cached listing would hide what they put.
            self._fs, root = url_to_fs(self._url, use_listings_cache=False, **(_S3_OPTIONS if is_s3 else {}))
        except (ValueError, ImportError) as error:
            raise InvalidInput(f"artifacts cannot be kept at {self._url!r}: {error}") from error
        if is_s3:
            self._fs.retries = _S3_TRIES
        self._root = str(root).rstrip("/")
        self._folder = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        self._was_there = False
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        self._writes_whole = not protocols.isdisjoint(_WHOLE_WRITES)
        self._troubles: tuple[type[Exception], ...] = (OSError, *(_s3_errors() if is_s3 else ()))

    def __str__(self) -> str:
        return self._url

    def make_folder(self) -> None:
        """Make the local folder unless it is there: for whoever puts things, so that readers meet an empty store.

        What prevents it shows when something is put.
        """
        if self._folder is not None:
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._was_there = True

    def _size(self, ref: str) -> int | None:
        with self._answering():
            try:
                size = int(self._fs.info(self._file(ref))["size"])
            except FileNotFoundError:
                self._check_folder()
                return None
            self._was_there = True
            return size

    def _read(self, ref: str) -> bytes | None:
        with self._answering():
            try:
                content = bytes(self._fs.cat_file(self._file(ref)))
            except FileNotFoundError:
                self._check_folder(is_expected=True)
                return None
            self._was_there = True
            return content

    def _write(self, ref: str, content: bytes) -> None:
        path = self._file(ref)
        with self._answering():
            if self._folder is not None:
                self._check_folder()
                replace_file(Path(path), content)
                self._was_there = True
                return
            if self._writes_whole:
                self._fs.pipe_file(path, content)
                return
            folder = path.rpartition("/")[0]
            temporary = f"{folder}/.{uuid4().hex}.tmp"
            self._fs.makedirs(folder, exist_ok=True)
            self._fs.pipe_file(temporary, content)
            self._fs.mv(temporary, path)

    def _names(self) -> list[str]:
        with self._answering():
            self._check_folder()
            files = [str(file) for file in self._fs.find(self._root or "/")]
        names = ((file, file.rpartition("/")[2]) for file in files)
        return [name for file, name in names if _is_ref(name) and file == self._file(name)]

    def _remove(self, ref: str) -> None:
        with self._answering():
            self._check_folder()
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._file(ref))

    def _file(self, ref: str) -> str:
        return f"{self._root}/{ref[:2]}/{ref}"

    def _check_folder(self, *, is_expected: bool = False) -> None:
        """Raises FileNotFoundError if the local folder is not there although it was, or although it is expected."""
        if self._folder is None:
            return
        if self._folder.is_dir():
            self._was_there = True
        elif self._was_there or is_expected:
            raise FileNotFoundError("its folder is not there; bring it back, or mount its disk")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise Unavailable(f"the artifact store {self._url} refuses: {error}; check its keys and rights") from error
        except self._troubles as error:
            raise Unavailable(f"the artifact store {self._url} does not answer: {error}") from error


def _s3_errors() -> tuple[type[Exception], ...]:
    """What the libraries of S3 raise, beside OSError, when the store does not answer, or breaks off."""
    from aiohttp import ClientError as ConnectionTrouble  # both installed with the file system, which is open by now
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, ConnectionTrouble


def checked_ref(ref: str) -> ArtifactRef:
    """The reference itself.

    Raises:
        InvalidInput: if it is none, for instance a path.
    """
    try:
        return _REF.validate_python(ref, strict=True)
    except ValidationError as error:
        raise InvalidInput(
            f"{ref!r} is no artifact reference: 64 hexadecimal digits and .png, .safetensors, .json or .html"
        ) from error


def _is_ref(name: str) -> bool:
    try:
        _REF.validate_python(name, strict=True)
    except ValidationError:
        return False
    return True
