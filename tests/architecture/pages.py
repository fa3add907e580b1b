"""How the documentation's pages are read: headings, tables, fenced blocks, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.checkout import ROOT

Row = dict[str, str]


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
    for line in prompted or lines:
        words = shlex.shlex(line.removeprefix("$ ").strip(), posix=True, punctuation_chars=";&|")
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if word and set(word) <= set(";&|"):
                if command:
                    yield command
                command = []
            elif command or not re.fullmatch(r"\w+=.*", word):
                command.append(word)


def shell_pages() -> list[Path]:
    """Pages that may tell people what to type."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "assets").glob("*/*.md")])
