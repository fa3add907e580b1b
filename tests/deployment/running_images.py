"""The images of docker-compose.yml, running as it says, without a container engine.

buildah's chroot isolation runs them: each has its image's files and user, its volumes and its environment, but shares the
network and the processes of this machine, and its root can be written. So names of hosts become ports of loopback here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.deployment.composition import CPU, OURS, ROOT, environment, interpolated
from tests.polling import eventually
from tests.redis_server import ValkeyServer, free_port

USER = 10001
START_S, STOP_S = 600.0, 120.0
PORTS = {"generator": 8000, "judge-quality": 8001, "judge-compat": 8002, "judge-personal": 8003, "trainer": 8004}
"""In the composition; the worker's figures are at 8005."""


def image_of(service: str) -> str:
    """As deploy/build-images names it."""
    name = interpolated(CPU["services"][service]["image"]).split("/")[-1].split(":")[0]
    return f"localhost/fashiondpo/{name}:cpu"


def are_there() -> bool:
    """Whether this machine can run the images, and has them."""
    if os.getuid() != 0:
        return False
    try:
        return all(not _buildah("inspect", "--type", "image", image_of(service)).returncode for service in OURS)
    except FileNotFoundError:
        return False


def _buildah(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)


class Container:
    """A service of the composition, started from its image."""

    def __init__(self, service: str, variables: dict[str, str], volumes: dict[Path, str], folder: Path) -> None:
        self.service, self.folder = service, folder
        made = _buildah("from", "--pull-never", image_of(service))
        assert made.returncode == 0, made.stderr
        self.name = made.stdout.strip()
        self.root = Path(_buildah("mount", self.name).stdout.strip())
        self._run = ["buildah", "run", "--isolation", "chroot"]
        for name, value in variables.items():
            self._run += ["--env", f"{name}={value}"]
        for source, target in volumes.items():
            self._run += ["--volume", f"{source}:{target}"]
        command = CPU["services"][service].get("command", ["serve"])
        # the shell leaves its number and becomes the service
        start = ["sh", "-c", 'echo $$ >/tmp/service.pid; exec entry "$@"', "sh", *command]
        with (folder / f"{service}.log").open("wb") as log:
            self._process = subprocess.Popen([*self._run, self.name, "--", *start], stdout=log, stderr=log)

    def is_healthy(self) -> bool:
        """What the composition's own health check says."""
        assert self._process.poll() is None, self.log()
        test = CPU["services"][self.service]["healthcheck"].get("test", ["CMD", "true"])
        port = test[4:] and [self.port_of_figures]
        command = [*self._run, self.name, "--", *test[1:4], *port] if len(test) > 2 else ["true"]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    port_of_figures = ""

    def stop(self) -> int:
        """Stop it as Docker would; returns its exit status."""
        pid = self.root / "tmp/service.pid"
        if self._process.poll() is None and pid.exists():
            with suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGTERM)
        return self._process.wait(STOP_S)

    def remove(self) -> None:
        """Stop it, and remove what is left of it."""
        with suppress(subprocess.TimeoutExpired):
            self.stop()
        if self._process.poll() is None:
            os.kill(int((self.root / "tmp/service.pid").read_text()), signal.SIGKILL)
            self._process.wait(STOP_S)
        _buildah("rm", self.name)

    def log(self) -> str:
        """The last of what it has said."""
        return (self.folder / f"{self.service}.log").read_text()[-4000:]


class Composition:
    """All services of ours and a Valkey; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {number: free_port() for number in (*PORTS.values(), 8005)}
        self.containers: dict[str, Container] = {}
        self._stack = ExitStack()

    def url(self, service: str) -> str:
        """Where a service answers."""
        return f"http://127.0.0.1:{self.ports[PORTS[service]]}"

    def __enter__(self) -> Self:
        with self._stack:
            valkey = ValkeyServer(self.folder / "valkey").start()
            self._stack.callback(valkey.stop)
            self._make_secrets(valkey.url)
            for service in OURS:
                self._start(service)
            eventually(lambda: all(each.is_healthy() for each in self.containers.values()), within_s=START_S)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def answer(self, service: str, route: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        request = urllib.request.Request(self.url(service) + route, json.dumps(body).encode() if body else None)
        request.add_header("Content-Type", "application/json")
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def _make_secrets(self, redis_url: str) -> None:
        secrets = self.folder / "secrets"
        secrets.mkdir(mode=0o700)
        (secrets / "redis_url").write_text(redis_url)
        made = subprocess.run(
            [ROOT / "deploy/make-secrets"],
            env={"SECRETS_FOLDER": str(secrets), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.operator_key = made.stdout.split()[-1]

    def _start(self, service: str) -> None:
        container = Container(service, self._variables(service), self._volumes(service), self.folder)
        container.port_of_figures = str(self.ports[8005])
        self.containers[service] = container
        self._stack.callback(container.remove)

    def _variables(self, service: str) -> dict[str, str]:
        """Those of the composition, with this machine's ports for the names of hosts."""
        told = {"OMP_NUM_THREADS": "1", **environment(CPU["services"][service])}
        for name, value in told.items():
            if name.endswith("_HOST"):
                told[name] = "127.0.0.1"
            elif name.endswith("PORT"):
                told[name] = str(self.ports[int(value)])
            else:
                for host, port in PORTS.items():
                    told[name] = told[name].replace(f"http://{host}:{port}", self.url(host))
        return told

    def _volumes(self, service: str) -> dict[Path, str]:
        """Folders of this machine for the composition's volumes and secrets."""
        described = CPU["services"][service]
        mounted = {}
        for volume in described.get("volumes", []):
            name, _, target = volume.partition(":")
            if name in CPU["volumes"]:
                source = self.folder / name
                source.mkdir(exist_ok=True)
                os.chown(source, USER, USER)
                mounted[source] = target
        mounted |= {self.folder / "secrets" / name: f"/run/secrets/{name}:ro" for name in described.get("secrets", [])}
        return mounted
