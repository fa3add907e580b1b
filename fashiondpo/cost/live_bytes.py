"""Memory of a computation, counted tensor by tensor on torch's meta device, where nothing is computed or held."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every storage that an operation makes is counted while it lives.

    Attributes:
        now: bytes alive.
        peak: the most that was alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it made."""
        given = {id(x.untyped_storage()) for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in given:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Inside, attention keeps no matrix of scores, as kernels of GPUs and CPUs have it; the meta device has none itself.

    It is put in the place of torch's own: a mode would not reach what a backward computes again.
    """
    own = F.scaled_dot_product_attention

    def fused(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **more: Any
    ) -> Any:
        if attn_mask is not None or rest or not query.is_meta:
            return own(query, key, value, attn_mask, *rest, **more)
        causal = bool(more.get("is_causal", False))
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal)[0]

    F.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def peak_bytes(computation: Callable[[], object]) -> int:
    """The most that a computation on the meta device has alive at once, besides what was there before it.

    What libraries take for themselves while they compute (workspaces, caches, fragments) is not seen.
    """
    with _fused_attention(), LiveBytes() as counted:
        result = computation()
    del result
    return int(counted.peak)
