"""Compilers for tests: one that counts, one that is not there."""

from collections.abc import Callable

import torch
from torch.fx import GraphModule


class CountingBackend:
    """A compiler that counts what it is asked to compile, and leaves it as it is."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: GraphModule, inputs: list[torch.Tensor]) -> Callable:
        self.graphs += 1
        return graph.forward


def no_compiler(graph: GraphModule, inputs: list[torch.Tensor]) -> Callable:
    """A machine without a compiler."""
    raise RuntimeError("no C++ compiler was found")
