"""docker-compose.yml and the file that makes it fit for the CPU, as Docker Compose reads them."""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parents[2]
OURS = {
    "generator": "generator",
    "judge-quality": "judge_quality",
    "judge-compat": "judge_compat",
    "judge-personal": "judge_personal",
    "trainer": "trainer",
    "worker": "trainer",
    "beat": "trainer",
}
"""Services of docker-compose.yml that run our code, and the package below services/ whose settings they read."""
LISTENING = {name: package for name, package in OURS.items() if name != "beat"}
"""Those that answer on a port."""
ONE_SHOT = {"models", "prepare"}
"""Started by hand; they do one thing and end."""
BUILT = {name: package for name, package in LISTENING.items() if name != "worker"}
"""Those that have an image of their own."""


class Reset:
    """What the tag !reset stands for: the value of the file before is taken away."""


class _ComposeLoader(yaml.SafeLoader):
    """YAML with Compose's own tag."""


_ComposeLoader.add_constructor("!reset", lambda loader, node: Reset())


def load(name: str) -> dict[str, Any]:
    """A Compose file of the repository."""
    return yaml.load((ROOT / name).read_text(), _ComposeLoader)  # noqa: S506 - a safe loader, with one more tag


def merged(first: Any, second: Any) -> Any:
    """A file with the next one laid over it: mappings are merged, anything else is replaced."""
    if isinstance(first, dict) and isinstance(second, dict):
        both = {key: merged(first.get(key), second[key]) if key in second else value for key, value in first.items()}
        both |= {key: value for key, value in second.items() if key not in first}
        return {key: value for key, value in both.items() if not isinstance(value, Reset)}
    return second


def plain(value: Any) -> Any:
    """Without what only Compose knows, for a schema."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if not isinstance(each, Reset)}
    return [plain(each) for each in value] if isinstance(value, list) else value


def variables(text: str) -> dict[str, str]:
    """What ${NAME:-default} asks of .env: the default by the name."""
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))


def interpolated(text: str) -> str:
    """With nothing set in .env."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """What a container is told, with nothing set in .env."""
    return {name: interpolated(str(value)) for name, value in service.get("environment", {}).items()}


def settings_class(package: str) -> type[BaseSettings]:
    """The settings of a service."""
    module = import_module(f"services.{package}.settings")
    return getattr(module, "".join(part.title() for part in package.split("_")) + "Settings")


GPU = load("docker-compose.yml")
CPU = merged(GPU, load("docker-compose.cpu.yml"))
