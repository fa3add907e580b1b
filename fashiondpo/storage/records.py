"""Records as JSON, one per name, in memory or in files: each is there whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, TypeVar
from uuid import uuid4

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_jsonable_python

from fashiondpo.contracts import Name
from fashiondpo.errors import DataFileError, InvalidInput

RecordT = TypeVar("RecordT", bound=BaseModel)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Kind(Generic[RecordT]):
    """A kind of record: its folder, its type, and which of its fields is the name it is kept under."""

    folder: str
    record_type: type[RecordT]
    name_of: Callable[[RecordT], str]

    def parsed(self, content: bytes, name: str, source: Path | str) -> RecordT:
        """The record kept under the name; raises DataFileError, also if it is another's, e.g. a copied file."""
        record = json_to_record(content, self.record_type, source)
        if (found := self.name_of(record)) != name:
            raise DataFileError(source, f"holds the record of {found!r}; give the file its own name back")
        return record


class Records(Protocol):
    """Named records of several kinds; the last one written under a name counts."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Whoever is inside is alone, among threads and processes; not to be nested."""

    def names(self, kind: Kind[RecordT]) -> list[str]:
        """The names under which records of this kind are kept, sorted."""

    def read(self, kind: Kind[RecordT], name: str) -> RecordT | None:
        """The record, or None where none was written; raises InvalidInput for a malformed name, DataFileError."""

    def write(self, kind: Kind[RecordT], record: RecordT) -> None:
        """Keep the record; raises InvalidInput for a malformed name or what JSON cannot hold."""

    def remove(self, kind: Kind[RecordT], name: str) -> None:
        """Forget the record; nothing happens if there is none. Raises InvalidInput for a malformed name."""


class MemoryRecords:
    """Records of this process. They are kept as JSON, so that what JSON would change or refuse is seen here too."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._contents: dict[tuple[str, str], bytes] = {}

    def exclusive(self) -> AbstractContextManager[None]:
        """Alone among threads."""
        return exclusive_thread(self._lock)

    def names(self, kind: Kind[RecordT]) -> list[str]:
        """The names of this kind, sorted."""
        return sorted(name for folder, name in list(self._contents) if folder == kind.folder)

    def read(self, kind: Kind[RecordT], name: str) -> RecordT | None:
        """The record, or None."""
        content = self._contents.get((kind.folder, checked_name(name)))
        return None if content is None else kind.parsed(content, name, f"memory/{kind.folder}/{name}.json")

    def write(self, kind: Kind[RecordT], record: RecordT) -> None:
        """Keep the record."""
        self._contents[kind.folder, checked_name(kind.name_of(record))] = record_to_json(record)

    def remove(self, kind: Kind[RecordT], name: str) -> None:
        """Forget the record."""
        self._contents.pop((kind.folder, checked_name(name)), None)


class FolderRecords:
    """Records in files `<path>/<kind>/<name>.json`; other processes may read and write the same folder."""

    def __init__(self, path: Path | str) -> None:
        """Takes the folder's path; the folder is made when something is first written."""
        self._path = Path(path)

    def exclusive(self) -> AbstractContextManager[None]:
        """Alone among threads and processes that use this folder."""
        return exclusive_folder(self._path)

    def names(self, kind: Kind[RecordT]) -> list[str]:
        """The names of this kind, sorted; files that are not called like a record are left alone."""
        folder = self._path / kind.folder
        files = folder.glob("[!.]*.json") if folder.is_dir() else ()
        return sorted(file.stem for file in files)

    def read(self, kind: Kind[RecordT], name: str) -> RecordT | None:
        """The record, or None; raises DataFileError for a file that is cut short or holds something else."""
        path = self._file(kind, name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        return kind.parsed(content, name, path)

    def write(self, kind: Kind[RecordT], record: RecordT) -> None:
        """Keep the record; it survives a crash once this returns."""
        replace_file(self._file(kind, kind.name_of(record)), record_to_json(record))

    def remove(self, kind: Kind[RecordT], name: str) -> None:
        """Forget the record."""
        self._file(kind, name).unlink(missing_ok=True)

    def _file(self, kind: Kind[RecordT], name: str) -> Path:
        return self._path / kind.folder / f"{checked_name(name)}.json"


def checked_name(name: str) -> str:
    """The name itself.

    Raises:
        InvalidInput: if it could not be a file's name everywhere, e.g. because it leads to another folder.
    """
    try:
        return _NAME.validate_python(name, strict=True)
    except ValidationError as error:
        raise InvalidInput(
            f"{name!r} cannot be a name: up to 128 letters, digits, '.', '_', '-', the first a letter or digit"
        ) from error


def record_to_json(record: BaseModel) -> bytes:
    """The record as JSON in UTF-8.

    Raises:
        InvalidInput: if JSON cannot hold it, e.g. because a figure is not finite.
    """
    try:
        text = json.dumps(
            record.model_dump(), allow_nan=False, ensure_ascii=False, indent=1, default=to_jsonable_python
        )
        return text.encode()
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{type(record).__name__} cannot be stored as JSON: {error}") from error


def json_to_record(content: bytes, record_type: type[RecordT], source: Path | str) -> RecordT:
    """The record that `record_to_json` wrote.

    Args:
        content: the JSON.
        record_type: what it should be; its `schema_version` says which version is known.
        source: the file, for the message.

    Raises:
        DataFileError: if it is cut short, something else, or of a schema version that is not known.
    """
    try:
        fields = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise DataFileError(source, f"is cut short or not JSON ({error}); restore or delete it") from error
    known = record_type.model_fields["schema_version"].default
    found = fields.get("schema_version") if isinstance(fields, dict) else None
    if found is None:
        raise DataFileError(source, f"has no schema_version, so it is no {record_type.__name__}; move it elsewhere")
    if found != known:
        raise DataFileError(
            source, f"has schema_version {found!r}, but only {known} is known here; read it with what wrote it"
        )
    try:
        return record_type.model_validate(fields)
    except ValidationError as error:
        raise DataFileError(source, f"is no {record_type.__name__}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line, with its place."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers find either the old or the new content, also after a crash.

    What a killed writer leaves behind is a file named `.*.tmp` that nobody reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in this folder durable: without it a power failure may undo them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Alone among the threads and processes that ask for the same folder; not to be nested.

    The kernel holds the lock, so it ends with the process that has it, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive_thread(lock: Lock) -> Iterator[None]:
    """Alone among the threads of this process; not to be nested."""
    with lock:
        yield
