"""Which processes make up the embedded services, with what environment, and at which addresses."""

from __future__ import annotations

import json
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from fashiondpo.clients.addresses import Addresses
from fashiondpo.errors import InvalidInput, Unavailable
from fashiondpo.quality_backend import QualityBackend
from services.embedded.processes import Command
from services.embedded.settings import EmbeddedSettings
from services.embedded.valkey import valkey_arguments, valkey_configuration

SERVICES = ("generator", "judge_quality", "judge_compat", "judge_personal", "trainer")
"""In the order of their ports."""
JUDGES = SERVICES[1:4]
CELERY = ("worker", "beat")
"""Parts of the trainer that listen to no port."""
_QUALITY_VARIABLES = {
    "model": "VLM_MODEL",
    "revision": "VLM_REVISION",
    "dialect": "VLM_DIALECT",
    "levels": "LEVELS",
    "dtype": "DTYPE",
    "batch": "VLM_BATCH",
    "concurrency": "VLM_CONCURRENCY",
    "timeout_s": "VLM_TIMEOUT_S",
    "tries": "VLM_TRIES",
}
FEATURES = "features"
"""Folder of the catalogue's features, for the next start."""
STOP_ORDER = (("trainer", "beat", "worker"), ("generator", *JUDGES), ("valkey",))
"""First nothing new is started, and a round in work is saved while what it needs still answers; the records go last."""


@dataclass(frozen=True)
class Plan:
    """Everything to start.

    Attributes:
        valkey: the store; to be started first.
        services: the HTTP services, the worker and the beat; to be started at once.
        waiting: those that find something ready if they are started when the judge of compatibility is.
        addresses: by name of the service.
        redis_url: with its password.
    """

    valkey: Command
    services: tuple[Command, ...]
    waiting: tuple[Command, ...]
    addresses: dict[str, str]
    redis_url: str

    def described(self, pid: int) -> Addresses:
        """For the run's folder."""
        return Addresses(pid=pid, redis_url=self.redis_url, **self.addresses)


def make_plan(settings: EmbeddedSettings, inherited: Mapping[str, str]) -> Plan:
    """Decide ports, password and environments.

    Raises:
        InvalidInput: if the network would be let in without keys.
        Unavailable: if a port is taken.
    """
    _check_exposure(settings, inherited)
    ports = _ports(settings)
    password = secrets.token_urlsafe(32)
    redis_url = f"redis://:{password}@127.0.0.1:{ports['valkey']}/0"
    shown_host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    urls = {name: f"http://{shown_host}:{ports[name]}" for name in SERVICES}
    # waiting threads of a service that has nothing to do must leave the cores to one that has
    common = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", **inherited}
    services = []
    for name in (*SERVICES, *CELERY):
        own = _variables(name, settings, redis_url, urls, ports)
        module = ["services.trainer", name] if name in CELERY else [f"services.{name}"]
        services.append(Command(name, [sys.executable, "-m", *module], {**common, **own}))
    folder = settings.folder / "valkey"
    valkey = Command("valkey", valkey_arguments(), inherited, valkey_configuration(ports["valkey"], password), folder)
    # two judges need the features of the whole catalogue: the first one computes them, the second one reads them
    are_there = settings.embeddings is not None or (settings.folder / FEATURES).exists()
    late = "" if are_there else "judge_personal"
    return Plan(
        valkey,
        tuple(command for command in services if command.name != late),
        tuple(command for command in services if command.name == late),
        urls,
        redis_url,
    )


def _check_exposure(settings: EmbeddedSettings, inherited: Mapping[str, str]) -> None:
    """The services would refuse too, but only after everything has been started."""
    if settings.is_loopback:
        return
    prefixes = [name.upper() for name in SERVICES]
    if bare := [p for p in prefixes if not (inherited.get(f"{p}_API_KEYS") or inherited.get(f"{p}_API_KEYS_FILE"))]:
        wanted = ", ".join(f"{prefix}_API_KEYS" for prefix in bare)
        raise InvalidInput(f"without API keys services listen on loopback only, not on {settings.host}: set {wanted}")


def _variables(
    name: str, settings: EmbeddedSettings, redis_url: str, urls: Mapping[str, str], ports: Mapping[str, int]
) -> dict[str, str]:
    """What a process needs to know, as variables with its service's prefix."""
    folder = settings.folder
    own = {"DEVICE": settings.device, "ARTIFACTS_URL": str(folder / "artifacts")}
    own["MODEL_CACHE"] = str(settings.model_cache.absolute())
    if name in SERVICES:
        own |= {"HOST": settings.host, "PORT": str(ports[name])}
    match name:
        case "judge_quality":
            own |= _of_quality(settings)
        case "judge_compat" | "judge_personal":
            own |= {
                "DATA_SET": settings.data_set,
                "CLIP": settings.of_judges("clip"),
                "FEATURES_CACHE": str(folder / FEATURES),
            }
            own |= {"VBPR": settings.of_judges("vbpr")} if name == "judge_compat" else {}
            own |= {} if (embeddings := settings.embeddings) is None else {"EMBEDDINGS": str(embeddings.absolute())}
        case _:
            own |= {"DATA_SET": settings.data_set, "BUNDLE": settings.bundle, "REDIS_URL": redis_url}
    if name in ("trainer", *CELERY):
        own |= {
            "CLIP": settings.of_judges("clip"),
            "TRAINING_FOLDER": str(folder / "training"),
            "GENERATOR_URL": urls["generator"],
            "JUDGE_URLS": json.dumps([urls[judge] for judge in JUDGES]),
        }
    if name in CELERY:
        own["LOG_LEVEL"] = "INFO"  # that a worker is ready says only its log
    prefix = "TRAINER" if name in CELERY else name.upper()
    return {f"{prefix}_{variable}": value for variable, value in own.items()}


def _of_quality(settings: EmbeddedSettings) -> dict[str, str]:
    """What the quality judge is made of; what was not chosen is left to the service, or to the environment."""
    weights = {"WEIGHTS": settings.of_judges("quality")}
    if settings.quality is None:
        return weights
    chosen = QualityBackend.parse(settings.quality)
    if chosen.backend == "mini":
        return {"BACKEND": "mini", **weights}
    places = {"WEIGHTS": chosen.folder} if chosen.backend == "local" else {"VLM_URL": chosen.url}
    given = {
        variable: getattr(chosen, name)
        for name, variable in _QUALITY_VARIABLES.items()
        if name in chosen.model_fields_set
    }
    return {name: str(value) for name, value in {"BACKEND": chosen.backend, **places, **given}.items()}


def _ports(settings: EmbeddedSettings) -> dict[str, int]:
    """A port for each; they are free now, all at once."""
    ports = {}
    with ExitStack() as held:
        for position, name in enumerate((*SERVICES, "valkey")):
            # Valkey's has no meaning for people, and so no fixed place
            wanted = settings.base_port + position if settings.base_port and name in SERVICES else 0
            taken = held.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1" if name == "valkey" else settings.host, wanted))
            except OSError as error:
                raise Unavailable(
                    f"{name} cannot listen on {settings.host}:{wanted}: {error.strerror}; choose another --base-port, "
                    "or 0 for free ones"
                ) from error
            ports[name] = taken.getsockname()[1]
    return ports
