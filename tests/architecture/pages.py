"""How the documentation's pages are read: headings, tables, fenced blocks, commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.architecture.checkout import ROOT

Row = dict[str, str]


@cache
def names_of_tests(path: str) -> frozenset[str]:
    """The tests of a file below tests/: Class::name, or name where there is no class."""
    names = set()
    for node in ast.parse((ROOT / "tests" / path).read_text()).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{test.name}" for test in node.body if isinstance(test, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return frozenset(name for name in names if name.split("::")[-1].startswith("test_"))


def page_text(name: str) -> str:
    """A page of docs/, by its name."""
    return (ROOT / "docs" / name).read_text()


def tables(text: str) -> dict[str, list[Row]]:
    """Rows of all tables under each heading, as a column's title to the cell; under no heading, the empty one."""
    found: dict[str, list[Row]] = {}
    heading, titles = "", None
    for line in without_blocks(text).splitlines():
        if line.startswith("#"):
            heading, titles = line.lstrip("#").strip(), None
        elif not line.startswith("|"):
            titles = None
        else:
            cells = [cell.strip() for cell in line.strip()[1:-1].split("|")]
            if titles is None:
                titles = cells
            elif not re.fullmatch(r"[-:| ]+", line):
                found.setdefault(heading, []).append(dict(zip(titles, cells, strict=True)))
    return found


def without_blocks(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced blocks in these languages, in their order."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [content for language, content in found if language in languages]


def quoted(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def commands(script: str) -> Iterator[list[str]]:
    """Every simple command of a piece of shell, as its words; comments and variables before it are left out.

    Where a line begins with a prompt, the lines without one are what was printed.
    """
    lines = re.sub(r"\\\n\s*", " ", script).splitlines()
    prompted = [line for line in lines if line.startswith("$ ")]
    pending = ""
    for line in prompted or lines:
        pending = f"{pending}\n{line}" if pending else line.removeprefix("$ ")
        try:
            words = _words(pending)
        except ValueError:  # a quotation goes on in the next line
            continue
        pending = ""
        command: list[str] = []
        for word in [*words, ";"]:
            if word and set(word) <= set(";&|"):
                if command:
                    yield command
                command = []
            elif command or not re.fullmatch(r"\w+=.*", word):
                command.append(word)


def _words(line: str) -> list[str]:
    """Words of a line of shell; raises ValueError if a quotation is not closed."""
    words = shlex.shlex(line.strip(), posix=True, punctuation_chars=";&|")
    words.whitespace_split = True
    return list(words)


def shell_pages() -> list[Path]:
    """Pages that may tell people what to type."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "assets").glob("*/*.md")])
