"""One set of services per folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashiondpo.errors import Conflict, Unavailable

LOCK_FILE = ".services.lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Inside, no other process is; the kernel lets go when a process dies.

    Raises:
        Conflict: if another one is.
        Unavailable: if the folder cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a+")
    except OSError as error:
        raise Unavailable(
            f"the run's folder {folder} cannot be written: {error.strerror}; choose another one with --run"
        ) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise Conflict(
                f"services are running in {folder} already (process {lock.read().strip()}); stop them, or choose another "
                "folder with --run"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
