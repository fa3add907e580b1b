"""A compiled UNet: its forward against the uncompiled one, and what a swap of adapters costs it.

Both compute the same rows with the same adapter, through the same places for adapters. Compiling is timed apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from measuring.mini import open_mini, shared_options
from measuring.timing import alternate, print_figures
from torch import Tensor
from torch._dynamo.utils import counters

from benchmarks.swap import versions
from fashiondpo.contracts import NUM_CANDIDATES
from fashiondpo.diffusion.adapter_slots import SLOT_NAMES, AdapterSlots
from fashiondpo.diffusion.compiling import INDUCTOR, CompiledUNet, nothing_compiled_anew
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import needed_branches


def forward(unet: object, inputs: Sequence[Tensor]) -> Tensor:
    """One forward without gradients."""
    with torch.no_grad():
        output: Tensor = unet(*inputs).sample  # type: ignore[operator]
    return output


def inputs_of(bundle: DiFashion) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and prompts of seven candidates with the guidance branches of the bundle."""
    rows = NUM_CANDIDATES * len(needed_branches(bundle.sampler.guidance))
    channels, height, width = bundle.latent_shape
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, 2 * channels, height, width, generator=generator)
    prompts = bundle.encode_prompts([""]).expand(rows, -1, -1).contiguous()
    return latents.contiguous(memory_format=torch.channels_last), torch.full((rows,), 500), prompts


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, compare, swap, end with one line of JSON."""
    parser = shared_options("A compiled UNet, its forward against the uncompiled one, through swaps of adapters.")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is timed (default: 20)")
    parser.add_argument("--swaps", type=int, default=20, help="adapters swapped in (default: 20)")
    options = parser.parse_args(arguments)
    rounds, swaps = (2, 2) if options.quick else (options.rounds, options.swaps)
    backend = "aot_eager" if options.quick else INDUCTOR
    torch.set_num_threads(options.threads)
    bundle = open_mini(options.bundle)
    adapters, inputs = versions(bundle, swaps), inputs_of(bundle)
    slots = AdapterSlots(bundle.unet, bundle.digest, rank=4, will_be_compiled=True)
    compiled = CompiledUNet(bundle.unet, places=len(SLOT_NAMES) + 1, backend=backend)
    seconds = []
    for slot in (None, *range(len(SLOT_NAMES))):
        slots.select_slot(slot)
        started = time.perf_counter()
        forward(compiled, inputs)
        seconds.append(time.perf_counter() - started)
    before = counters["stats"]["unique_graphs"]
    timings = alternate(
        {
            "uncompiled": lambda _: forward(bundle.unet, inputs),
            "compiled": lambda _: forward(compiled, inputs),
        },
        rounds=rounds,
    )
    first_forwards = []
    for number, (ref, weights) in enumerate(adapters):
        slots.load(number % 2, ref, weights)
        slots.select(ref)
        started = time.perf_counter()
        given = forward(compiled, inputs)
        first_forwards.append(time.perf_counter() - started)
    with nothing_compiled_anew():
        difference = (given - forward(bundle.unet, inputs)).abs().max().item()
    recompilations = counters["stats"]["unique_graphs"] - before
    print(f"Compiled with {backend}: {', '.join(f'{s:.1f}' for s in seconds)} s for the base model and the two places.")
    for name, timing in timings.items():
        print(f"A forward of {len(inputs[0])} rows, {name}: {timing}.")
    print(
        f"The first forward after a swap: median {median(first_forwards) * 1e3:.1f} ms; compiled anew: {recompilations}."
    )
    slots.close()
    print_figures(
        {
            "ratio": timings["uncompiled"].median_s / timings["compiled"].median_s,
            "compile_s": sum(seconds),
            "recompilations": recompilations,
            "first_forward_over_usual": median(first_forwards) / timings["compiled"].median_s,
            "largest_difference": difference,
            "swaps": swaps,
            "rounds": rounds,
            "threads": options.threads,
            "backend": backend,
        }
    )


if __name__ == "__main__":
    main()
