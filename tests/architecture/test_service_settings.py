"""docs/configuration.md has a table of every class of services' settings, with each variable and its default."""

import importlib
import json
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings

from fashiondpo.run_settings import MINI_ASSETS
from fashiondpo.serving.judge_settings import CatalogueJudgeSettings, JudgeSettings
from fashiondpo.serving.settings import ServingSettings
from tests.architecture.checkout import ROOT, module_name
from tests.architecture.pages import page_text, quoted, tables

# Settings that several services share, and what stands for the services' prefixes there.
SHARED = {ServingSettings: "…_", JudgeSettings: "JUDGE_…_", CatalogueJudgeSettings: "JUDGE_…_"}


def service_settings() -> dict[type[BaseModel], str]:
    """Every class that reads the environment, and with which prefix."""
    found: dict[type[BaseModel], str] = {}
    for path in sorted((ROOT / "services").glob("*/settings.py")):
        module = importlib.import_module(module_name(path))
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, BaseSettings) and value.__module__ == module.__name__:
                found[value] = value.model_config["env_prefix"]
    return found


def shown_default(value: object) -> str:
    """What the cell of a default says."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return "–"
    if value == MINI_ASSETS:
        return "the checkout's `assets/mini`"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value if isinstance(value, str | Path) else json.dumps(value)}`"


def variables(settings: type[BaseModel], prefix: str) -> dict[str, str]:
    """Variables of the fields that this class adds or changes, with what their defaults look like."""
    own = {name: field for name, field in settings.model_fields.items() if name in settings.__annotations__}
    return {f"{prefix}{name.upper()}": shown_default(field.default) for name, field in own.items()}


CLASSES = SHARED | service_settings()


@pytest.fixture(scope="module")
def page():
    return tables(page_text("configuration.md"))


class TestServiceSettings:
    @pytest.mark.parametrize("settings", CLASSES, ids=lambda settings: settings.__name__)
    def test_are_listed_with_their_defaults_and_nothing_else_is(self, page, settings):
        shown = {quoted(row["variable"])[0]: row["default"] for row in page[settings.__name__]}
        assert shown == variables(settings, CLASSES[settings])

    @pytest.mark.parametrize("settings", CLASSES, ids=lambda settings: settings.__name__)
    def test_have_a_meaning(self, page, settings):
        assert all(len(row["meaning"]) > 4 for row in page[settings.__name__])

    def test_inherit_nothing_that_has_no_table(self):
        for settings in service_settings():
            bases = {base for base in settings.__mro__ if base.__module__.startswith(("fashiondpo.", "services."))}
            assert bases <= set(CLASSES)

    def test_of_each_service_have_a_prefix_of_their_own(self):
        prefixes = list(service_settings().values())
        assert len(prefixes) == len(set(prefixes)) == len(list((ROOT / "services").glob("*/settings.py")))

    def test_that_were_added_would_be_missed(self):
        class More(ServingSettings):
            patience_s: float = 30.0

        assert variables(More, "MORE_") == {"MORE_PATIENCE_S": "`30`"}
