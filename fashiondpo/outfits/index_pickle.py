"""Pickled numpy arrays, read without running anything that they ask for.

The pickle is walked first, and refused if it uses an operation or names a global that index files do not need. What
numpy would rebuild is then rebuilt by stand-ins of our own, as plain lists and numbers. So a hostile file can neither
call anything nor reach numpy's own code.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fashiondpo.errors import DataFileError, ForbiddenPickle

TYPE_CODE = re.compile(r"[?biufSUO]\d{0,6}")
"""Types that index files hold, without byte order: numbers, text, objects."""

MAX_TUPLE_DEPTH = 100
"""Python hashes nested tuples by recursion in C: a deeper one as a key could end the process."""

_OPERATIONS = frozenset(
    ("PROTO", "FRAME", "STOP", "MARK", "POP", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "NONE",
     "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES",
     "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE",
     "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE",
     "BUILD", "INT", "LONG", "FLOAT", "STRING", "UNICODE", "LIST", "DICT", "PUT", "GET")
)  # fmt: skip
_CONSTANTS = frozenset(
    operation.name
    for operation in pickletools.opcodes
    if not operation.stack_before and not operation.name.endswith("GET")
    if len(operation.stack_after) == 1 and operation.stack_after[0] is not pickletools.markobject
)
_MALFORMED = (
    pickle.UnpicklingError, ValueError, EOFError, TypeError, AttributeError, IndexError, KeyError, OverflowError,
    MemoryError, RecursionError,
)  # fmt: skip
"""What pickle raises for broken files."""


def unpickle_array(path: Path, body: bytes, shape: tuple[int, ...]) -> list[object]:
    """The values of a pickled object array.

    Args:
        path: the file, for messages.
        body: the pickle.
        shape: what the file's header announces; () or one-dimensional.

    Returns:
        The values, one for shape (). Numpy scalars inside are Python numbers, numpy arrays are lists.

    Raises:
        DataFileError: if it is truncated, malformed, of another shape, or followed by more.
        ForbiddenPickle: if it asks for anything but numpy arrays, numpy scalars and builtin containers.
    """
    try:
        _check_operations(path, body)
        found = _IndexUnpickler(path, body).load()
    except _MALFORMED as error:
        raise DataFileError(path, f"truncated or malformed ({error}); fetch it again") from error
    if not isinstance(found, _Array) or found.shape != shape:
        got = found.shape if isinstance(found, _Array) else type(found).__name__
        raise DataFileError(path, f"the header announces an array of shape {shape}, the content is {got}")
    return list(found)


def _check_operations(path: Path, body: bytes) -> None:
    """Walk the pickle without running it: only known operations, sizes that fit the file, nothing after its end."""
    depths = _TupleDepths()
    for operation, argument, position in pickletools.genops(body):
        if operation.name == "GLOBAL":
            _check_global(path, *str(argument).split(" ", 1))
        elif operation.name not in _OPERATIONS:
            named = f" ({argument})" if isinstance(argument, str) else ""
            raise ForbiddenPickle(path, f"asks for the pickle operation {operation.name}{named}; do not load this file")
        elif operation.name in ("LONG_BINPUT", "PUT") and int(argument or 0) > len(body):
            # pickle would allocate a table of this size
            raise ValueError(f"memo entry {argument} in a file of {len(body)} bytes")
        elif operation.name == "STOP" and (rest := len(body) - 1 - (position or 0)):
            raise DataFileError(path, f"{rest} bytes follow the end of its content; fetch it again")
        depths.follow(operation, argument)


class _TupleDepths:
    """How deeply tuples are nested in whatever lies on the pickle's stack; None stands for a mark."""

    def __init__(self) -> None:
        self._stack: list[int | None] = []
        self._memo: dict[int, int | None] = {}

    def follow(self, operation: pickletools.OpcodeInfo, argument: object) -> None:
        """Do to the depths what an operation does to the objects; raises ValueError beyond MAX_TUPLE_DEPTH."""
        name = operation.name
        if name in _CONSTANTS:  # by far the most
            self._stack.append(0)
        elif name.endswith("PUT") or name == "MEMOIZE":
            self._memo[len(self._memo) if name == "MEMOIZE" else int(str(argument))] = self._stack[-1]
        elif name.endswith("GET"):
            self._stack.append(self._memo[int(str(argument))])
        else:
            taken = self._take(operation.stack_before)
            depth = 1 + max(taken, default=0) if name.startswith("TUPLE") else 0
            if depth > MAX_TUPLE_DEPTH:
                raise ValueError(f"tuples nested more than {MAX_TUPLE_DEPTH} deep")
            self._stack.extend(None if kind is pickletools.markobject else depth for kind in operation.stack_after)

    def _take(self, kinds: list[pickletools.StackObject]) -> list[int]:
        taken: list[int | None] = []
        if pickletools.markobject in kinds:
            while (depth := self._stack.pop()) is not None:
                taken.append(depth)
            kinds = kinds[: kinds.index(pickletools.markobject)]
        taken += [self._stack.pop() for _ in kinds]
        return [depth for depth in taken if depth is not None]


def _check_global(path: Path, module: str, name: str) -> None:
    if (module, name) not in _STAND_INS:
        raise ForbiddenPickle(
            path, f"asks for {module}.{name}; index files need numpy arrays only, so do not load this file"
        )


class _IndexUnpickler(pickle.Unpickler):
    """Knows the names that numpy arrays are pickled under, and gives a stand-in for each."""

    def __init__(self, path: Path, body: bytes) -> None:
        super().__init__(io.BytesIO(body), encoding="latin1")
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> object:
        _check_global(self._path, module_name, global_name)
        return _STAND_INS[module_name, global_name]


class _StandIn:
    """What a pickle gets for a global: callable at most, and without attributes that it could set."""

    __slots__ = ("_call",)
    _call: Callable[..., object] | None

    def __init__(self, call: Callable[..., object] | None = None) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: object) -> object:
        if self._call is None:
            raise TypeError("numpy.ndarray is not called in array pickles")
        return self._call(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class _Type:
    """A numpy type as pickled: its code first, its byte order in the state that follows."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order = "="
        if not isinstance(self.code, str) or not TYPE_CODE.fullmatch(self.code):
            raise ValueError(f"array type {self.code!r}")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {state[1]!r}")
        self.order = str(state[1])

    def values(self, content: object, count: int) -> list[object]:
        """`count` values from what the pickle holds: a list for objects, the bytes for numbers and text."""
        if str(self.code).startswith("O"):
            if not isinstance(content, list) or len(content) != count:
                raise ValueError(f"an array of {count} objects with other content")
            return content
        dtype = np.dtype(f"{self.order}{self.code}")
        raw = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(raw, bytes) or dtype.itemsize == 0 or len(raw) != count * dtype.itemsize:
            raise ValueError(f"an array of {count} x {dtype.itemsize} bytes with other content")
        return list(np.frombuffer(raw, dtype).tolist())


class _Array(list[object]):
    """An array as pickled: made empty, filled by the state that follows."""

    __slots__ = ("shape",)

    def __init__(self, *_: object) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = (0,)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, kind, _, content = state
        if not isinstance(kind, _Type) or not isinstance(shape, tuple) or len(shape) > 1:
            raise ValueError("an array of more than one dimension or without a type")
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"array shape {shape}")
        self[:] = kind.values(content, math.prod(shape))
        self.shape = shape


def _scalar(kind: object, content: object = b"") -> object:
    if not isinstance(kind, _Type) or not isinstance(content, bytes | str):
        raise ValueError("a numpy scalar without type or bytes")
    return kind.values(content, 1)[0]


_STAND_INS = {
    ("numpy", "ndarray"): _StandIn(),
    ("numpy", "dtype"): _StandIn(_Type),
    **{
        (module, name): _StandIn(call)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, call in (("_reconstruct", _Array), ("scalar", _scalar))
    },
}
