"""Only the command line and the services' settings read the environment; the rest is told what it needs."""

import ast
from pathlib import Path

import pytest

from tests.architecture.checkout import ROOT, module_name, module_paths

OF_THE_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def is_allowed(path: Path) -> bool:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:2] == ("fashiondpo", "cli") or (parts[0] == "services" and parts[-1] == "settings")


def uses_of_the_environment(source: str) -> list[int]:
    """Lines that touch os.environ and its kin, under whatever name os goes, or that derive from BaseSettings."""
    tree = ast.parse(source)
    of_os = {
        alias.asname or alias.name
        for node in ast.walk(tree) if isinstance(node, ast.Import)
        for alias in node.names if alias.name == "os"
    }  # fmt: skip
    lines = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                found = (module in of_os and name in OF_THE_ENVIRONMENT) or name == "BaseSettings"
            case ast.ImportFrom(module="os", names=names):
                found = any(alias.name in OF_THE_ENVIRONMENT for alias in names)
            case ast.ImportFrom(module="pydantic_settings"):
                found = True
            case _:
                found = False
        if found:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", [path for path in module_paths() if not is_allowed(path)], ids=module_name)
def test_a_module_does_not_read_the_environment(path):
    assert uses_of_the_environment(path.read_text()) == []


class TestUsesOfTheEnvironment:
    @pytest.mark.parametrize(
        "source",
        [
            "import os\nos.environ['HOME']",
            "import os\nos.getenv('HOME')",
            "import os as system\nsystem.environ.get('HOME')",
            "def home():\n    from os import environ",
            "import pydantic_settings\nclass S(pydantic_settings.BaseSettings): ...",
            "from pydantic_settings import BaseSettings\nclass S(BaseSettings): ...",
        ],
    )
    def test_are_found(self, source):
        assert uses_of_the_environment(source)

    @pytest.mark.parametrize("source", ["import os\nos.replace('a', 'b')", "gym.environ", "environ = 1"])
    def test_are_not_seen_where_there_are_none(self, source):
        assert uses_of_the_environment(source) == []
