"""What the pages say of the code is true, and what they show can be run."""

import ast
import importlib
import inspect
import re
import tomllib
from types import ModuleType

import pytest
from typer.main import get_command

from fashiondpo.cli.commands import app
from fashiondpo.storage.feedback import PAIRS, ROUNDS, SCORES, SETS
from tests.architecture.checkout import ROOT
from tests.architecture.pages import blocks, commands, names_of_tests, page_text, quoted, shell_pages, tables

README, MAKEFILE = ROOT / "README.md", ROOT / "Makefile"
MINI_ASSETS = ROOT / "assets" / "mini"

# Every public function of these modules is a formula of a paper.
FORMULA_MODULES = ("fashiondpo.diffusion.ddim", "fashiondpo.diffusion.guidance", "fashiondpo.training.loss")
# Keys of the queue are Celery's business, under a prefix that it is given.
CELERYS_KEYS = {"queue"}
# Formulas in modules that hold other things too.
FORMULAS = {
    "fashiondpo.diffusion.conditions.mixed_latents",
    "fashiondpo.diffusion.pretrain.snr_weight",
    "fashiondpo.evaluation.alignment.clip_score",
    "fashiondpo.evaluation.alignment.retrieved",
    "fashiondpo.evaluation.distributions.change_interval",
    "fashiondpo.evaluation.distributions.frechet_distance",
    "fashiondpo.evaluation.distributions.inception_score",
    "fashiondpo.evaluation.distributions.kernel_distance",
    "fashiondpo.judges.vbpr.VBPR.forward",
    "fashiondpo.preferences.fuse",
    "fashiondpo.preferences.min_max",
    "fashiondpo.preferences.z_scores",
    "fashiondpo.pretraining.vbpr.bpr_loss",
    "fashiondpo.pretraining.vbpr.fitb_accuracy",
    "fashiondpo.pretraining.vbpr.ranking_auc",
}


def found_object(name: str) -> object:
    """What a dotted name stands for: a module, or something in one.

    Raises:
        LookupError: if it stands for nothing.
    """
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                raise LookupError(f"{found!r} has no {part!r}")
            found = getattr(found, part)
        return found
    raise LookupError(f"there is no module {parts[0]!r}")


def public_functions(module: ModuleType) -> set[str]:
    """Dotted names of the functions that a module defines for others."""
    return {
        f"{module.__name__}.{name}"
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }


def keys_in_redis() -> set[str]:
    """The fixed parts of every key that a store puts behind its prefix."""
    keys = {kind.folder for kind in (ROUNDS, SETS, SCORES, PAIRS)}
    for path in [*(ROOT / "fashiondpo/storage").glob("redis_*.py"), *(ROOT / "services").rglob("redis_*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="_key"), args=[ast.Constant(value=str(first)), *rest]):
                    fixed = [part.value for part in rest if isinstance(part, ast.Constant) and part.value]
                    keys.add(":".join([first, *fixed]))
                case ast.FunctionDef(name="lease_key"):
                    keys.add("lease")
    return keys


def claims() -> list[tuple[str, list[str], list[str]]]:
    """Rows of docs/papers.md that name functions: the claim, the functions, the tests."""
    rows = [row for of_heading in tables(page_text("papers.md")).values() for row in of_heading if "function" in row]
    return [(row["equation or claim"], quoted(row["function"]), quoted(row["tests"])) for row in rows]


def parsed(words: list[str]) -> str:
    """The path of the command that these words call; nothing is run.

    Raises:
        typer's usage errors: if there is no such command or option, an argument is missing, or a value cannot be.
    """
    command, name, context = get_command(app), words[0], None
    arguments = words[1:]
    while True:
        context = command.make_context(name, list(arguments), parent=context)
        if not hasattr(command, "commands"):
            return context.command_path
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])


def shown_commands(program: str) -> list[tuple[str, list[str]]]:
    """Where a page or the Makefile calls a program, and with which words."""
    scripts = [
        (path.name, block) for path in shell_pages() for block in blocks(path.read_text(), "bash", "console", "sh")
    ]
    recipes = re.findall(r"^\t[@-]?(.+)$", MAKEFILE.read_text(), re.MULTILINE)
    scripts += [("Makefile", recipe.replace("$(BIN)/", "")) for recipe in recipes if "fashiondpo" in recipe]
    return [
        (name, words) for name, script in scripts for words in commands(script) if words[0].split("/")[-1] == program
    ]


def run_python(text: str) -> None:
    """Run the Python blocks of a page, one after the other; tracebacks name the block."""
    namespace: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks(text, "python"), start=1):
        exec(compile(block, f"python block {number}", "exec"), namespace)


class TestPage:
    def test_is_read_by_headings_and_tables(self):
        first = "# A\n\n| x | y |\n|---|---|\n| `1` | – |\n\n```\n# no heading\n| 2 | 3 |\n```\n"
        text = f"{first}\n## B\n\n| z |\n|---|\n| 4 |\n"
        assert tables(text) == {"A": [{"x": "`1`", "y": "–"}], "B": [{"z": "4"}]}

    def test_is_read_by_blocks_of_a_language(self):
        text = "```python\na = 1\n```\n\n```\nplain\n```\n\n```python\nb = 2\n```\n"
        assert blocks(text, "python") == ["a = 1\n", "b = 2\n"]
        assert blocks(text, "") == ["plain\n"]


class TestPapers:
    @pytest.mark.parametrize(("claim", "functions", "tests"), claims())
    def test_name_functions_and_tests_that_exist(self, claim, functions, tests):
        assert functions
        assert tests
        for function in functions:
            found_object(function)
        for test in tests:
            path, _, name = test.partition("::")
            assert name in names_of_tests(path)

    @pytest.mark.parametrize(("claim", "functions", "tests"), claims())
    def test_name_tests_that_are_about_the_function(self, claim, functions, tests):
        sources = "".join((ROOT / "tests" / test.partition("::")[0]).read_text() for test in tests)
        spoken_of = [name for name in functions if re.search(rf"\b{name.split('.')[-1]}\b", sources)]
        assert spoken_of

    def test_leave_out_no_formula(self):
        named = {function for _, functions, _ in claims() for function in functions}
        wanted = FORMULAS.union(*(public_functions(importlib.import_module(name)) for name in FORMULA_MODULES))
        assert wanted - named == set()

    def test_that_name_nothing_real_are_found_out(self):
        with pytest.raises(LookupError):
            found_object("fashiondpo.diffusion.ddim.ddim_mean")
        with pytest.raises(LookupError):
            found_object("fashiondpo.nowhere.loss")
        assert "TestGuide::test_is_something_else" not in names_of_tests("unit/diffusion/test_guidance.py")


class TestArchitecture:
    def test_shows_the_layers_of_the_import_contracts(self):
        (diagram,) = [block for block in blocks(page_text("architecture.md"), "") if block.startswith("cli ")]
        shown = [set(re.split(r"\s+", line[:43].strip())) for line in diagram.splitlines()]
        contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        layers = next(contract["layers"] for contract in contracts if contract["name"] == "Arrows point down")
        there = {path.stem for path in (ROOT / "fashiondpo").iterdir()}
        assert shown == [set(re.findall(r"\w+", layer)) & there for layer in layers]

    def test_describes_every_part(self):
        rows = tables(page_text("architecture.md"))["Layers"]
        described = {name for row in rows for name in quoted(row["part"])}
        there = {path.stem for path in (ROOT / "fashiondpo").iterdir() if not path.stem.startswith("_")}
        assert described == there

    def test_lists_the_keys_that_are_used_in_redis(self):
        rows = tables(page_text("architecture.md"))["Keys in Redis"]
        listed = {re.sub(r":?(<\w+>|…)$", "", key) for row in rows for key in quoted(row["key"])}
        listed = {key.replace(":<generation>:", ":") for key in listed}
        assert listed == keys_in_redis() | CELERYS_KEYS

    def test_names_only_what_is_there(self):
        for name in quoted(page_text("architecture.md")):
            if re.fullmatch(r"fashiondpo(\.\w+)+", name):
                found_object(name)
            elif re.fullmatch(r"(fashiondpo|tests|docs)/[\w/.]*", name):
                assert (ROOT / name).exists(), name


class TestShownCommands:
    def test_are_understood_by_the_command_line(self):
        wrong = {}
        for page, words in shown_commands("fashiondpo"):
            try:
                parsed(words)
            except Exception as error:  # noqa: BLE001 - typer's own errors, and whatever else a command may refuse
                if getattr(error, "exit_code", 2) != 0:
                    wrong[f"{page}: {' '.join(words)}"] = str(error)
        assert wrong == {}

    def test_of_make_have_a_target(self):
        targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE.read_text(), re.MULTILINE))
        called = {word for _, words in shown_commands("make") for word in words[1:] if re.fullmatch(r"[a-z-]+", word)}
        assert called - targets == set()

    @pytest.mark.parametrize(
        "words",
        ["roundabout", "round --preset demo", "round --rounds none", "adapters show", "pretrain --out x --preset all"],
    )
    def test_that_cannot_be_are_found_out(self, words):
        with pytest.raises(Exception, match=r"(?i)no such|invalid|missing|value error|input should"):
            parsed(["fashiondpo", *words.split()])

    def test_are_found_in_a_script(self):
        script = "# first\nA=1 make assets && fashiondpo round \\\n  --out 'my runs'  # all of it\nls | wc\n"
        found = [["make", "assets"], ["fashiondpo", "round", "--out", "my runs"], ["ls"], ["wc"]]
        assert list(commands(script)) == found

    def test_may_hold_quotations_of_several_lines(self):
        assert list(commands("curl -d '{\n  \"a\": 1}' x\nls\n")) == [["curl", "-d", '{\n  "a": 1}', "x"], ["ls"]]

    def test_are_told_from_what_they_print(self):
        assert list(commands("$ fashiondpo data show\nfashiondpo's data\n")) == [["fashiondpo", "data", "show"]]


class TestReadme:
    @pytest.mark.skipif(not README.exists(), reason="there is no README.md")
    @pytest.mark.skipif(not MINI_ASSETS.exists(), reason="assets/mini is not there: make assets")
    def test_python_runs_from_top_to_bottom(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FASHIONDPO_ASSETS", str(MINI_ASSETS))
        run_python(README.read_text())

    def test_python_of_the_page_on_judges_runs_too(self):
        run_python(page_text("judges.md"))

    def test_python_goes_on_with_the_names_of_the_block_before(self):
        run_python("```python\na = 1\n```\n\n```python\nassert a == 1\n```\n")

    def test_python_that_fails_is_found_out(self):
        with pytest.raises(ZeroDivisionError):
            run_python("```python\na = 0\n```\n\n```python\n1 / a\n```\n")
