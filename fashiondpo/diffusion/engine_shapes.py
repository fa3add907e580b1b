"""How many rows a forward may have so that every row comes out as in a full one, to the last bit: found out at work."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from fashiondpo.contracts import AdapterRef

CHECKS = 2
"""Forwards in which a shape has to agree with the full one before it stands alone."""

KEPT_KINDS = 64
"""Kinds of forwards that are remembered; what is forgotten is found out again."""


@dataclass(frozen=True)
class ForwardKind:
    """What besides the number of rows decides which matrix products a forward computes.

    Attributes:
        branches: guidance branches, each a pass of every row through the UNet.
        adapter: at work in the UNet.
    """

    branches: int
    adapter: AdapterRef


class ForwardShapes:
    """Remembers which numbers of rows agree with the full number: docs/decisions/0014-forwards-of-proven-shapes.md.

    The last bits of a matrix product depend on its shape, but most shapes agree: libraries choose among few ways to sum.
    Which do is a property of the machine, so it is not assumed: a shape computes beside the full one until it has given
    the same bits CHECKS times, and is never used again once it has not.
    """

    def __init__(self, full: int) -> None:
        """Takes the number of rows of a full forward, with which all others have to agree."""
        self.full = full
        self._agreed: OrderedDict[ForwardKind, dict[int, int]] = OrderedDict()
        self._differing: dict[ForwardKind, set[int]] = {}

    def choose(self, kind: ForwardKind, rows: int) -> int:
        """The smallest number of rows for so many that is not known to differ; the full one at last."""
        differing = self._differing.get(kind, set())
        return next(shape for shape in range(rows, self.full + 1) if shape == self.full or shape not in differing)

    def is_proven(self, kind: ForwardKind, shape: int) -> bool:
        """Whether forwards of this kind and shape need no full one beside them."""
        return shape == self.full or self._agreed.get(kind, {}).get(shape, 0) >= CHECKS

    def note(self, kind: ForwardKind, shape: int, *, agrees: bool) -> None:
        """Remember how a forward of this shape compared with the full one."""
        agreed = self._agreed.setdefault(kind, {})
        self._agreed.move_to_end(kind)
        if agrees:
            agreed[shape] = agreed.get(shape, 0) + 1
        else:
            self._differing.setdefault(kind, set()).add(shape)
        while len(self._agreed) > KEPT_KINDS:
            oldest, _ = self._agreed.popitem(last=False)
            self._differing.pop(oldest, None)
