"""A real server that speaks S3's protocol over HTTP, in a process of its own; a context manager."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

import httpx
import s3fs

from tests.polling import eventually
from tests.redis_server import free_port

REGION = "eu-central-1"


class S3Server:
    """A moto server with its log in a file; what it holds is gone when it ends."""

    def __init__(self, log_file: Path) -> None:
        self.log_file, self.port = log_file, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What lets a process find it, by the names that AWS' libraries read."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }

    def bucket(self) -> str:
        """A new, empty one; returns its name."""
        name = f"bucket-{uuid4().hex}"
        self.file_system().mkdir(name)
        return name

    def file_system(self) -> s3fs.S3FileSystem:
        """Looks at what is there, past our own code."""
        return s3fs.S3FileSystem(
            endpoint_url=self.url,
            key="test-key",
            secret="test-secret",
            client_kwargs={"region_name": REGION},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def pause(self) -> None:
        """Let it hang."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def __enter__(self) -> Self:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                env=os.environ | {"MOTO_S3_CUSTOM_ENDPOINTS": self.url},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(self._answers, within_s=60)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log_file.read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/moto-api/", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False
