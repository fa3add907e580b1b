"""One set of services per folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashiondpo.errors import Conflict

LOCK_FILE = ".services.lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Inside, no other process is; the kernel lets go when a process dies.

    Raises:
        Conflict: if another one is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise Conflict(f"services are running in {folder} already (process {lock.read().strip()})") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
