"""The lines of an index of one's own items: what each kind of line may say, and how JSONL and CSV spell it.

One JSON object a line, or one CSV row, in any order:

    {"type": "item", "item_id": 7, "category": "sneakers", "image": "shoes/7.jpg"}
    {"type": "outfit", "outfit_id": 1, "user_id": 3, "split": "train", "items": [7, 12, 31]}
    {"type": "history", "user_id": 3, "items": [12, 19]}

    type,item_id,category,image,outfit_id,user_id,split,items
    item,7,sneakers,shoes/7.jpg,,,,
    outfit,,,,1,3,train,7 12 31
    history,,,,,3,,12 19

Three more kinds of lines fix what is otherwise derived: `data_set`, `category`, `blank`. docs/data.md
describes every field.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fashiondpo.contracts import Frozen
from fashiondpo.errors import DataFileError, InvalidIndex
from fashiondpo.outfits.model import Split

MAX_PROBLEMS = 50
"""As many are listed; the rest is counted."""

Id = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(min_length=1)]


class DataSetLine(Frozen):
    """Facts about the whole; at most one."""

    type: Literal["data_set"] = "data_set"
    format: Literal[1] = 1
    name: Text | None = None
    image_size: int | None = Field(None, ge=1, le=4096)
    shared_users: bool = Field(False, description="Users may have outfits in several splits.")


class CategoryLine(Frozen):
    """Fixes a category's id, or whether its garments come in pairs."""

    type: Literal["category"] = "category"
    category: Text
    category_id: Id | None = None
    is_paired: bool | None = None


class ItemLine(Frozen):
    """One garment and its picture, a path relative to the image folder."""

    type: Literal["item"] = "item"
    item_id: Id
    category: Text
    image: Text


class OutfitLine(Frozen):
    """One complete outfit, items in slot order."""

    type: Literal["outfit"] = "outfit"
    outfit_id: Id
    user_id: Id
    split: Split
    items: tuple[Id, ...] = Field(min_length=2, max_length=8)


class HistoryLine(Frozen):
    """What a user wore or bought before, oldest first; without a split, for every split without a line of its own."""

    type: Literal["history"] = "history"
    user_id: Id
    items: tuple[Id, ...]
    split: Split | None = None


class BlankLine(Frozen):
    """Fixes a fill-in-the-blank task: which slot of an outfit is emptied, and the wrong answers."""

    type: Literal["blank"] = "blank"
    outfit_id: Id
    slot: int = Field(ge=0, le=7)
    negatives: tuple[Id, ...] = ()


Line = DataSetLine | CategoryLine | ItemLine | OutfitLine | HistoryLine | BlankLine
Numbered = list[tuple[int, Line]]

_LINES: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="type")])
_COLUMNS = frozenset(field for kind in Line.__args__ for field in kind.model_fields)
_LIST_COLUMNS = ("items", "negatives")


class Problems:
    """Collects what is wrong with an index, so that its author learns of everything at once."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self._listed: list[tuple[int, str]] = []

    def add(self, line: int, problem: str) -> None:
        """Note one problem; what to do belongs into its text."""
        self.count += 1
        if len(self._listed) < MAX_PROBLEMS:
            self._listed.append((line, problem))

    def raise_any(self) -> None:
        """Raise InvalidIndex with all of them, by line, if there are any."""
        if self.count:
            raise InvalidIndex(self.path, sorted(self._listed), count=self.count)


def read_lines(path: Path, problems: Problems) -> Numbered:
    """The well-formed lines of an index with their numbers; what is wrong with the others goes to `problems`.

    Args:
        path: a file named `.jsonl` or `.csv`, in UTF-8.
        problems: collects faulty lines.

    Raises:
        DataFileError: if it cannot be read at all, or is neither.
    """
    readers: dict[str, Callable[[Path, Problems], Iterable[tuple[int, Line]]]] = {".jsonl": _jsonl, ".csv": _csv}
    if path.suffix.lower() not in readers:
        raise DataFileError(path, f"an index ends in .jsonl or .csv, got {path.suffix or 'no suffix'}")
    try:
        return list(readers[path.suffix.lower()](path, problems))
    except OSError as error:
        raise DataFileError(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataFileError(
            path, f"is not in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def line_to_json(line: Line) -> str:
    """A line as it stands in an index, without what has no value."""
    return json.dumps(line.model_dump(exclude_none=True), ensure_ascii=False)


def _jsonl(path: Path, problems: Problems) -> Iterator[tuple[int, Line]]:
    with path.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                yield number, _LINES.validate_json(text, strict=True)
            except ValidationError as error:
                _add_all(problems, number, error)


def _csv(path: Path, problems: Problems) -> Iterator[tuple[int, Line]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream, strict=True)
        try:
            columns = rows.fieldnames or ()
            if "type" not in columns or (unknown := set(columns) - _COLUMNS):
                wrong = f"unknown: {', '.join(sorted(unknown))}" if "type" in columns else "there is no column 'type'"
                raise DataFileError(path, f"the first row names the columns; {wrong}", line=1)
            for row in rows:
                if None in row:
                    problems.add(rows.line_num, "more cells than columns; quote cells that contain commas")
                    continue
                try:
                    yield rows.line_num, _LINES.validate_python(_row_to_fields(row))
                except ValidationError as error:
                    _add_all(problems, rows.line_num, error)
        except csv.Error as error:
            raise DataFileError(path, f"is malformed CSV: {error}", line=rows.line_num) from error


def _row_to_fields(row: dict[str, str | None]) -> dict[str, str | list[str]]:
    filled = {name: cell.strip() for name, cell in row.items() if cell is not None and cell.strip()}
    fields: dict[str, str | list[str]] = {
        name: cell.split() if name in _LIST_COLUMNS else cell for name, cell in filled.items()
    }
    if filled.get("type") == "history":
        fields.setdefault("items", [])
    return fields


def _add_all(problems: Problems, number: int, error: ValidationError) -> None:
    details = error.errors(include_url=False, include_context=False)
    nested = {detail["loc"][:-1] for detail in details}
    for detail in details:
        if detail["type"] == "too_short" and detail["loc"] in nested:
            continue  # the list is short only because some of its elements are faulty, which is reported
        # the first place is the kind of line, which the reader sees
        place = ".".join(str(part) for part in detail["loc"][1:])
        got = "" if detail["type"] in ("missing", "json_invalid") else f", got {str(detail['input'])[:80]!r}"
        problems.add(number, f"{place + ': ' if place else ''}{detail['msg']}{got}")
