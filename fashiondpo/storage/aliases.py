"""Which adapter serves, which served before, and how it came to that; the same wherever it is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fashiondpo.contracts import Frozen
from fashiondpo.errors import Conflict

AliasName = Literal["champion", "previous"]


class AliasMove(Frozen):
    """One change of the champion."""

    version: int
    kind: Literal["activate", "rollback"]
    is_forced: bool = False
    moved_at: str


class Aliases(Frozen):
    """Which version serves, which served before, and how it came to that."""

    schema_version: Literal[1] = 1
    champion: int | None = None
    previous: int | None = None
    history: tuple[AliasMove, ...] = ()

    def activated(self, version: int, *, is_forced: bool) -> Aliases:
        """After this version was activated."""
        if version == self.champion:
            return self
        serving = self.champion or 0
        previous = serving if serving != version else None
        move = AliasMove(version=version, kind="activate", is_forced=is_forced, moved_at=utc_now())
        return Aliases(champion=version, previous=previous, history=(*self.history, move))

    def rolled_back(self) -> Aliases:
        """After a rollback; raises Conflict if there is no previous version."""
        if self.previous is None:
            raise Conflict("there is no previous adapter to roll back to; activate the version that should serve")
        move = AliasMove(version=self.previous, kind="rollback", moved_at=utc_now())
        return Aliases(champion=self.previous, history=(*self.history, move))


def utc_now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
