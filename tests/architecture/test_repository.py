"""What lies in the repository, and what must not."""

import ast
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.architecture.checkout import ROOT, module_name, module_paths

LARGEST_FILE = 5_000_000  # bytes; assets/ may hold larger ones
PICKLE_SUFFIXES = {".bin", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
# Put together here, so that this file does not name them itself.
MACHINE_FOLDERS = tuple(f"/{name}/" for name in ("work", "opt", "root"))
# The only module that speaks the published data sets' language.
PUBLISHED = ROOT / "fashiondpo/outfits/published.py"


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "assets").rglob("*.md")])


def is_pickle(path: Path) -> bool:
    """By its name, or by how a pickle or torch's archive of pickles begins."""
    if path.suffix in PICKLE_SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return start[:1] == b"\x80" and start[1:] in {b"\x02", b"\x03", b"\x04", b"\x05"}


def text_of(path: Path) -> str:
    """A file's text; nothing for a binary file."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8", errors="replace")


def machine_paths(text: str) -> list[str]:
    """Absolute paths in the text that only one machine has; part of a URL or of a longer path does not count."""
    pattern = rf"(?<![\w.~)}}-])(?:{'|'.join(map(re.escape, MACHINE_FOLDERS))})\w[\w./-]*"
    return re.findall(pattern, text)


def anchors(document: Path) -> set[str]:
    """What the headings of a page can be linked to as."""
    headings = re.findall(r"^#+ +(.+?) *$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    """Links and pictures of a page that lead to no file, or to no heading, of this repository."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = document.parent / name if name else document
        is_missing = not target.exists()
        if is_missing or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


def public_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name a module offers: classes, functions, arguments, fields, constants. Line and name."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        match node:
            case ast.ClassDef(name=name):
                if not name.startswith("_"):
                    yield node.lineno, name
                    pending.extend(node.body)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not name.startswith("_") or name == "__init__":
                    yield node.lineno, name
                    arguments = node.args
                    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                        yield argument.lineno, argument.arg
            case ast.Assign(targets=targets):
                yield from ((node.lineno, target.id) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield node.lineno, name


def words_of(name: str) -> list[str]:
    """The words of a name in either spelling: candidate_set and CandidateSet."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")


def forbidden_words() -> tuple[set[str], set[str]]:
    """From the glossary: words that no name contains, and names that nothing has."""
    lines = (ROOT / "docs/glossary.md").read_text().splitlines()
    as_word, as_name = (
        next(line for line in lines if line.startswith(f"- never a {what}")) for what in ("word", "whole")
    )
    return set(re.findall(r"`(\w+)`", as_word)), set(re.findall(r"`(\w+)`", as_name))


class TestFiles:
    def test_hold_no_pickles(self, repository_files):
        assert [str(path.relative_to(ROOT)) for path in repository_files if is_pickle(path)] == []

    def test_are_small_outside_assets(self, repository_files):
        large = [path.relative_to(ROOT) for path in repository_files if path.stat().st_size > LARGEST_FILE]
        assert [str(path) for path in large if path.parts[0] != "assets"] == []

    def test_name_no_path_of_one_machine(self, repository_files):
        named = {str(path.relative_to(ROOT)): machine_paths(text_of(path)) for path in repository_files}
        assert {name: paths for name, paths in named.items() if paths} == {}

    @pytest.mark.parametrize(
        ("content", "verdict"),
        [(b"\x80\x04\x95\x00", True), (b"\x80\x02}q\x00.", True), (b"\x89PNG\r\n", False), (b"", False)],
    )
    def test_are_known_as_pickles_by_how_they_begin(self, tmp_path, content, verdict):
        path = tmp_path / "innocent.json"
        path.write_bytes(content)
        assert is_pickle(path) is verdict

    def test_are_known_as_pickles_inside_an_archive(self, tmp_path):
        path = tmp_path / "weights.dat"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"")
        assert is_pickle(path)

    def test_are_found_out_when_they_name_a_path_of_one_machine(self):
        folder = MACHINE_FOLDERS[0]
        assert machine_paths(f"see {folder}main/notes.md") == [f"{folder}main/notes.md"]
        assert machine_paths(f"https://example.org{folder}main and frame{folder}shop") == []


class TestDocuments:
    @pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
    def test_have_links_that_lead_somewhere(self, document):
        assert broken_links(document) == []

    def test_with_a_broken_link_are_found_out(self, tmp_path):
        (tmp_path / "other.md").write_text("# A heading\n")
        page = tmp_path / "page.md"
        page.write_text(
            "[a](other.md#a-heading) [b](other.md#none) [c](gone.md) ![d](gone.png) `[e](no.md)` [f](#none)\n"
        )
        assert broken_links(page) == ["other.md#none", "gone.md", "gone.png", "#none"]


class TestModule:
    @pytest.mark.parametrize("path", module_paths(), ids=module_name)
    def test_says_what_it_is_for_or_is_a_package_file_without_code(self, path):
        tree = ast.parse(path.read_text())
        if path.name == "__init__.py":
            assert len(tree.body) == (ast.get_docstring(tree) is not None)
        else:
            assert ast.get_docstring(tree)

    @pytest.mark.parametrize("path", [path for path in module_paths() if path != PUBLISHED], ids=module_name)
    def test_keeps_to_the_words_of_the_glossary(self, path):
        as_word, as_name = forbidden_words()
        names = public_names(ast.parse(path.read_text()))
        assert [(line, name) for line, name in names if name in as_name or as_word & set(words_of(name))] == []


class TestGlossary:
    def test_lists_the_words_that_no_name_may_contain(self):
        as_word, as_name = forbidden_words()
        assert {"expert", "uid", "utils"} <= as_word
        assert "eta" in as_name

    def test_words_are_found_in_every_kind_of_name(self):
        source = (
            "EXPERT_WEIGHTS = 1\n"
            "class RewardModel:\n    uid: int\n    def __init__(self, cfg): ...\n    def of(self, *, eta): ...\n"
            "def _private(uid): ...\n"
        )
        as_word, as_name = forbidden_words()
        found = {
            name for _, name in public_names(ast.parse(source)) if name in as_name or as_word & set(words_of(name))
        }
        assert found == {"EXPERT_WEIGHTS", "RewardModel", "uid", "cfg", "eta"}
