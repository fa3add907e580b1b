"""Bytes that one outfit's candidates take at 512 px: one trajectory file, against the tensors that were published.

Both are really serialised, in memory: ours by `Trajectory.to_bytes`, the published tensors by `torch.save`. Values are
noise, since neither format compresses.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence

import torch
from measuring.timing import alternate, print_figures
from torch import Tensor

from fashiondpo.contracts import NUM_CANDIDATES, AdapterRef, SamplerSettings
from fashiondpo.diffusion.conditions import Conditions
from fashiondpo.diffusion.guidance import BRANCHES
from fashiondpo.diffusion.model import UNSAVED
from fashiondpo.diffusion.trajectory import Trajectory, stored_dtype

MIB = 2**20
STEPS = 50
LATENTS = (4, 64, 64)
"""Shape of latents at 512 px."""

PROMPT = (77, 1024)
"""Shape of a prompt's encoding in Stable Diffusion 2."""


def our_trajectory(generator: torch.Generator) -> Trajectory:
    """States once, in the default storage type; conditions once per outfit."""
    settings = SamplerSettings(num_inference_steps=STEPS)
    dtype = stored_dtype(settings)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Trajectory(
        latents=noise(NUM_CANDIDATES, STEPS + 1, *LATENTS).to(dtype),
        timesteps=torch.linspace(981, 1, STEPS).long(),
        log_probs=noise(NUM_CANDIDATES, STEPS),
        conditions=Conditions(noise(*PROMPT), noise(*PROMPT), *noise(3, *LATENTS)).rounded(dtype),
        seeds=tuple(range(NUM_CANDIDATES)),
        settings=settings,
        base_digest=UNSAVED,
        adapter=AdapterRef(),
    )


def published_tensors(generator: torch.Generator) -> dict[str, Tensor]:
    """What the published sampler keeps of one outfit, all of it float32.

    The states before and after each step but the last, as separate copies; what went into the UNet at every step, with
    the conditions on its channels, for each guidance branch of each candidate; the predicted noise; the prompts of the
    branches; the timesteps.
    """

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    channels, *side = LATENTS
    return {
        "latents": noise(NUM_CANDIDATES, STEPS - 1, *LATENTS),
        "next_latents": noise(NUM_CANDIDATES, STEPS - 1, *LATENTS),
        "unet_inputs": noise(BRANCHES, NUM_CANDIDATES, STEPS, 2 * channels, *side),
        "predicted_noise": noise(NUM_CANDIDATES, STEPS, *LATENTS),
        "prompt_embeds": noise(BRANCHES, *PROMPT),
        "timesteps": torch.linspace(981, 1, STEPS).long(),
    }


def torch_saved(tensors: Mapping[str, Tensor]) -> bytes:
    """As `torch.save` writes them."""
    file = io.BytesIO()
    torch.save(dict(tensors), file)
    return file.getvalue()


def torch_loaded(content: bytes) -> dict[str, Tensor]:
    """What `torch_saved` wrote."""
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True)
    return tensors


def main(arguments: Sequence[str] | None = None) -> None:
    """Serialise both, print, end with one line of JSON."""
    parser = argparse.ArgumentParser(description="Bytes of one outfit's recorded candidates at 512 px.")
    parser.add_argument("--quick", action="store_true", help="one round; sizes are the same")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of writing and reading (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    torch.set_num_threads(options.threads)
    print(
        f"Bytes of one outfit at 512 px: {NUM_CANDIDATES} candidates, {STEPS} steps, latents {LATENTS}, prompts {PROMPT}."
    )

    generator = torch.Generator().manual_seed(0)
    ours, published = our_trajectory(generator), published_tensors(generator)
    our_bytes, published_bytes = ours.to_bytes(), torch_saved(published)
    mib, published_mib = len(our_bytes) / MIB, len(published_bytes) / MIB
    print(f"One trajectory file, {ours.settings.state_dtype}: {mib:.2f} MiB.")
    print(f"The published tensors, float32: {published_mib:.1f} MiB, {published_mib / mib:.1f} times as much:")
    for name, tensor in published.items():
        print(f"  {name:<16}{tensor.nbytes / MIB:8.2f} MiB  {tuple(tensor.shape)}")

    timings = alternate(
        {
            "write": lambda _: ours.to_bytes(),
            "published write": lambda _: torch_saved(published),
            "read": lambda _: Trajectory.from_bytes(our_bytes),
            "published read": lambda _: torch_loaded(published_bytes),
        },
        rounds=rounds,
        warm_up=not options.quick,
    )
    for name, timing in timings.items():
        print(f"{name}: {timing}.")
    print_figures(
        {
            "mib_per_outfit": mib,
            "reference_mib_per_outfit": published_mib,
            "ratio": published_mib / mib,
            "write_s": timings["write"].median_s,
            "read_s": timings["read"].median_s,
            "reference_write_s": timings["published write"].median_s,
            "reference_read_s": timings["published read"].median_s,
            "steps": STEPS,
            "rounds": rounds,
        }
    )


if __name__ == "__main__":
    main()
