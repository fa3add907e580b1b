"""docs/configuration.md lists every setting and option with its default, and none that is not there."""

import ast
import json
import re
from dataclasses import asdict, is_dataclass
from enum import Enum
from fractions import Fraction

import pytest
from pydantic import BaseModel
from typer.main import get_command

from fashiondpo.cli.commands import app
from fashiondpo.cli.options import run_settings
from fashiondpo.contracts import SamplerSettings
from fashiondpo.diffusion.pretrain import PretrainSettings
from fashiondpo.evaluation.gate import GateSettings
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.pretraining.bundle import MINI_SAMPLER
from fashiondpo.pretraining.mini import MiniRecipe
from fashiondpo.run_settings import RunSettings
from fashiondpo.training.config import TrainSettings
from tests.architecture.checkout import ROOT
from tests.architecture.pages import blocks, page_text, quoted, tables

PAGE = "configuration.md"
ENVIRONMENT_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")

# Per heading, the settings that each column of values shows.
PAPER = run_settings(mode="paper")
SETTINGS = {
    "RunSettings": {"default": RunSettings()},
    "SamplerSettings": {"default": SamplerSettings(), "mini bundle": MINI_SAMPLER},
    "TrainSettings": {"default": TrainSettings(), "paper": PAPER.training},
    "PreferenceSettings": {"default": PreferenceSettings(), "paper": PAPER.preferences},
    "GateSettings": {"default": GateSettings()},
    "PretrainSettings": {"default": PretrainSettings(), "mini bundle": MiniRecipe().generator},
}
COLUMNS = [(heading, column) for heading, columns in SETTINGS.items() for column in columns]


def values_of(settings: object, *, is_flat: bool) -> dict[str, object]:
    """Fields with their values as JSON has them; those of parts under dotted names, or as the name of their class."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return asdict(settings)
    assert isinstance(settings, BaseModel)
    values: dict[str, object] = {}
    for name, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            part = getattr(settings, name)
            if isinstance(part, BaseModel) and not is_flat:
                values[name] = type(part)
            else:
                values |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            values[name] = value
    return values


def shown_value(cell: str) -> object:
    """What a cell claims: a JSON value, a fraction, or the class whose table it links to."""
    if link := re.fullmatch(r"\[below\]\(#(\w+)\)", cell):
        return next(type(columns["default"]) for name, columns in SETTINGS.items() if name.lower() == link[1])
    (text,) = quoted(cell)
    return float(Fraction(text)) if re.fullmatch(r"\d+/\d+", text) else json.loads(text)


def all_commands() -> dict[str, object]:
    """Every command that can be called, and the program itself, by what one types."""
    found: dict[str, object] = {}
    pending = [("fashiondpo", get_command(app))]
    while pending:
        name, command = pending.pop()
        if command.params or not hasattr(command, "commands"):
            found[name] = command
        pending += [(f"{name} {word}", inner) for word, inner in getattr(command, "commands", {}).items()]
    return found


def parameters_of(command: object) -> dict[str, str]:
    """What one types for each option or argument, and what its cell for the default says."""
    return {_typed(parameter): _default(parameter) for parameter in command.params}


def _typed(parameter: object) -> str:
    is_argument = not parameter.opts[0].startswith("-")
    return parameter.name.upper() if is_argument else ", ".join([*parameter.opts, *parameter.secondary_opts])


def _default(parameter: object) -> str:
    if parameter.required:
        return "required"
    if parameter.default is False:
        return "off"
    if parameter.default is None:
        return "–"
    return f"`{parameter.default.value if isinstance(parameter.default, Enum) else parameter.default}`"


def environment_names() -> dict[str, str | None]:
    """Names of environment variables in the command line's source; with a value where one is given for them."""
    found: dict[str, str | None] = {}
    for path in sorted((ROOT / "fashiondpo" / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Constant(value=str(name)) if ENVIRONMENT_NAME.fullmatch(name):
                    found.setdefault(name, None)
                case ast.Dict(keys=keys, values=values):
                    for key, value in zip(keys, values, strict=True):
                        match key, value:
                            case ast.Constant(value=str(name)), ast.Constant(value=given):
                                if ENVIRONMENT_NAME.fullmatch(name):
                                    found[name] = given
    return found


@pytest.fixture(scope="module")
def page():
    return tables(page_text(PAGE))


class TestSettings:
    @pytest.mark.parametrize(("heading", "column"), COLUMNS)
    def test_are_listed_with_their_values_and_nothing_else_is(self, page, heading, column):
        shown = {quoted(row["field"])[0]: shown_value(row[column]) for row in page[heading]}
        assert shown == values_of(SETTINGS[heading][column], is_flat=heading != "RunSettings")

    @pytest.mark.parametrize("heading", SETTINGS)
    def test_have_a_meaning(self, page, heading):
        assert all(len(row["meaning"]) > 4 for row in page[heading])

    def test_that_are_missing_or_wrong_are_found_out(self):
        listed = tables("### GateSettings\n\n| field | default |\n|---|---|\n| `min_outfits` | `31` |\n")[
            "GateSettings"
        ]
        shown = {quoted(row["field"])[0]: shown_value(row["default"]) for row in listed}
        wanted = values_of(GateSettings(), is_flat=True)
        assert shown["min_outfits"] != wanted["min_outfits"]
        assert wanted.keys() - shown.keys() == {"min_win_rate_low", "min_diversity_ratio", "max_fall"}


class TestSettingsFile:
    @pytest.mark.parametrize("example", blocks(page_text(PAGE), "json"))
    def test_shown_as_an_example_is_accepted(self, tmp_path, example):
        path = tmp_path / "settings.json"
        path.write_text(example)
        settings = run_settings(file=path)
        assert settings != RunSettings()
        assert settings.outfits == json.loads(example)["outfits"]

    def test_is_shown(self):
        assert blocks(page_text(PAGE), "json")


class TestCommandLine:
    @pytest.mark.parametrize("name", sorted(all_commands()))
    def test_commands_are_listed_with_every_option_and_its_default(self, page, name):
        shown = {", ".join(quoted(row["option"])): row["default"] for row in page[f"`{name}`"]}
        assert shown == parameters_of(all_commands()[name])

    def test_no_other_command_is_listed(self, page):
        listed = {quoted(heading)[0] for heading in page if heading.startswith("`fashiondpo")}
        assert listed == set(all_commands())


class TestEnvironment:
    def test_variables_are_those_that_the_command_line_reads(self, page):
        assert {quoted(row["variable"])[0] for row in page["Environment"]} == set(environment_names())

    def test_variables_that_are_set_for_libraries_have_the_value_shown(self, page):
        shown = {quoted(row["variable"])[0]: row["default"] for row in page["Environment"]}
        for name, value in environment_names().items():
            if value is not None:
                assert shown[name] == f"`{value}`"
