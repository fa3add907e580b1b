"""Where the embedded services of a run's folder answer, and where they keep what they know."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from fashiondpo.contracts import Frozen
from fashiondpo.errors import Unavailable

ADDRESSES_FILE = "services.json"


class Addresses(Frozen):
    """The embedded services that run on a folder; the file exists while all of them are ready."""

    pid: int = Field(ge=1, description="Of the process that started them and ends with them.")
    generator: str
    judge_quality: str
    judge_compat: str
    judge_personal: str
    trainer: str
    redis_url: str = Field(description="With its password; nobody but the owner of the folder may read this file.")

    @property
    def services(self) -> dict[str, str]:
        """Address by name of the service."""
        return self.model_dump(exclude={"pid", "redis_url"})


def write_addresses(folder: Path, addresses: Addresses) -> None:
    """Say that the services are ready."""
    path = folder / ADDRESSES_FILE
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(addresses.model_dump_json(indent=2) + "\n")
    temporary.replace(path)


def read_addresses(folder: Path) -> Addresses:
    """Where the services of this folder answer.

    Raises:
        Unavailable: if none are running there.
    """
    path = folder / ADDRESSES_FILE
    try:
        addresses = Addresses.model_validate_json(path.read_bytes())
        os.kill(addresses.pid, 0)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"no services are running in {folder}: start them with `fashiondpo up --run {folder}`"
        ) from error
    return addresses
