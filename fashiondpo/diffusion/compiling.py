"""A UNet compiled before the first request: no request waits for a compiler, and swapping adapters compiles nothing.

What is compiled is one forward per place for an adapter (and the base model) and number of rows. Weights and scales of
adapters are read from tensors that are filled in place; timesteps, guidance and latents are inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fashiondpo.diffusion.guidance import BRANCHES

Backend = str | Callable[..., Any]
"""Of torch's compiler: a name, or a function that makes something callable of a graph."""

INDUCTOR = "inductor"
"""Needs a C++ compiler; for a GPU, a C compiler for what starts its kernels."""


class CompiledUNet:
    """Calls a UNet, compiled at the first call of each kind. The UNet itself stays as it is, and shares everything."""

    def __init__(self, unet: UNet2DConditionModel, *, places: int, backend: Backend = INDUCTOR) -> None:
        """Compiles nothing yet.

        Args:
            unet: with whatever places for adapters it will ever have.
            places: how many, the base model counted too.
            backend: that compiles.
        """
        self.unet = unet
        # torch's own overloads lack the two last options
        self._compiled: Callable[..., Any] = torch.compile(  # type: ignore[call-overload]
            unet,
            backend=backend,
            fullgraph=True,
            dynamic=False,  # forwards have few shapes, and code for one shape is faster
            isolate_recompiles=True,
            recompile_limit=places * BRANCHES + 1,
        )

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the UNet."""
        found: Iterator[nn.Parameter] = self.unet.parameters()
        return found

    def __call__(self, latents: Tensor, timesteps: Tensor, prompts: Tensor) -> Any:
        """As the UNet; latents of any layout in memory, since code is made for one."""
        return self._compiled(latents.contiguous(memory_format=torch.channels_last), timesteps, prompts)


@contextmanager
def compiling() -> Iterator[None]:
    """Inside, what was not compiled before is, whatever another engine of this process has asked for."""
    with torch.compiler.set_stance("default"):
        yield


@contextmanager
def nothing_compiled_anew() -> Iterator[None]:
    """Inside, a forward of a kind that was not compiled before runs uncompiled. Holds for the whole process."""
    with torch.compiler.set_stance("eager_on_recompile"):
        yield
