"""Server-sent events, read from bytes as they come; no input or output here."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field

from fashiondpo.errors import Unavailable

LONGEST_LINE = 128 * 2**20
"""Characters; a line beyond it is no event of ours, and must not fill the memory."""


@dataclass(frozen=True)
class ServerEvent:
    """One event: its name, its text, and the id behind which the stream can be taken up again."""

    name: str
    text: str
    event_id: str = ""


@dataclass
class EventParser:
    """Turns pieces of a body into events; a piece may end anywhere, within a character too.

    The stream's grammar is that of the HTML standard, section 9.2.6.
    """

    last_event_id: str = ""
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")())
    _rest: list[str] = field(default_factory=list)
    _rest_length: int = 0
    _ends_with_return: bool = False
    _name: str = ""
    _lines_of_text: list[str] = field(default_factory=list)

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Events that this piece completes.

        Raises:
            Unavailable: if the bytes are no text, or one line never ends.
        """
        try:
            text = self._decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise Unavailable(f"the event stream is no text: {error}") from error
        for line in self._lines(text):
            if (event := self._take(line)) is not None:
                yield event

    def _lines(self, text: str) -> Iterator[str]:
        if self._ends_with_return and text.startswith("\n"):
            text = text[1:]  # the second half of a line end that was cut in two
        if text:
            self._ends_with_return = text.endswith("\r")
        *ended, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in ended:
            yield "".join(self._rest) + line
            self._rest, self._rest_length = [], 0
        if rest:
            self._rest.append(rest)
            self._rest_length += len(rest)
        if self._rest_length > LONGEST_LINE:
            raise Unavailable(f"a line of the event stream has more than {LONGEST_LINE} characters")

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            event = ServerEvent(self._name or "message", "\n".join(self._lines_of_text), self.last_event_id)
            is_there, self._name, self._lines_of_text = bool(self._lines_of_text), "", []
            return event if is_there else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._lines_of_text.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self.last_event_id = value
        return None
