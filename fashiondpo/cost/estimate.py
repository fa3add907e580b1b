"""What a family of models costs in memory and on disk: counted from its shapes and from the formats, nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fashiondpo.contracts import AdapterRef, SamplerSettings
from fashiondpo.cost.architecture import Architecture
from fashiondpo.cost.live_bytes import peak_bytes
from fashiondpo.diffusion.conditions import Conditions
from fashiondpo.diffusion.lora import adapter_parameters, add_adapter
from fashiondpo.diffusion.model import PICTURES_PER_DECODE, UNSAVED
from fashiondpo.diffusion.sampling import needed_branches
from fashiondpo.diffusion.trajectory import Trajectory, stored_dtype
from fashiondpo.training.config import TrainSettings

_OPTIMIZER_COPIES = 4
"""Of every trained number in float32: itself, its gradient, and AdamW's two averages."""
_CHECKPOINT_COPIES = 3
_PNG_LOSS, _PNG_FRAME_BYTES = 256, 128
"""What deflate adds to bytes that it cannot compress: at most one in so many; measured on noise, one in 700."""


@dataclass(frozen=True)
class MemoryCost:
    """Bytes of a device, besides what the driver and its libraries take for themselves.

    Attributes:
        weights: of each network, by name.
        sampling: the most alive at once in a forward of the generator.
        decoding: the same when pictures are decoded.
        training: the same in a forward and backward of training.
        checkpointed: the same if little of the forward is kept and computed again.
        trained: adapter, gradient and optimiser.
        trained_numbers: how many numbers the adapter has.
        sampling_rows, training_rows: rows of those forwards.
    """

    weights: dict[str, int]
    sampling: int
    decoding: int
    training: int
    checkpointed: int
    trained: int
    trained_numbers: int
    sampling_rows: int
    training_rows: int

    @property
    def to_sample(self) -> int:
        """All that a generator needs; pictures are decoded when no forward is under way."""
        return sum(self.weights.values()) + max(self.sampling, self.decoding)

    @property
    def to_train(self) -> int:
        """All that a training needs."""
        return sum(self.weights.values()) + self.trained + self.training

    @property
    def to_train_checkpointed(self) -> int:
        """The same with gradient checkpointing."""
        return sum(self.weights.values()) + self.trained + self.checkpointed


@dataclass(frozen=True)
class DiskCost:
    """Bytes of files.

    Attributes:
        bundle: all networks in this type.
        trajectory: of one outfit.
        pictures: of one outfit's candidates, at most: as large as if they could not be compressed.
        adapter: one version.
        checkpoint: of a training under way.
    """

    bundle: int
    trajectory: int
    pictures: int
    adapter: int
    checkpoint: int

    def of_rounds(self, outfits: int, rounds: int) -> int:
        """What rounds leave behind, without the bundle."""
        return rounds * (outfits * (self.trajectory + self.pictures) + self.adapter + self.checkpoint)


def memory_cost(
    architecture: Architecture,
    sampler: SamplerSettings,
    settings: TrainSettings,
    *,
    dtype: torch.dtype,
    rows_per_forward: int,
    candidates: int,
) -> MemoryCost:
    """Count what a device holds.

    Args:
        architecture: on the meta device; its UNet carries an adapter afterwards.
        sampler: its guidance decides how many branches are computed.
        settings: of training.
        dtype: of weights and activations.
        rows_per_forward: candidates that a generator denoises together.
        candidates: of an outfit; training sees all of them.
    """
    for network in architecture.networks().values():
        nn.Module.to(network, dtype=dtype)
        network.requires_grad_(False)
    branches = len(needed_branches(sampler.guidance))
    weights = {name: number_count(network) * dtype.itemsize for name, network in architecture.networks().items()}
    sampling_rows = branches * rows_per_forward
    with torch.no_grad():
        sampling = peak_bytes(lambda: _forward(architecture, sampling_rows, dtype))
        decoding = peak_bytes(lambda: _decoded(architecture, min(rows_per_forward, PICTURES_PER_DECODE), dtype))
    add_adapter(architecture.unet, rank=settings.rank)
    trained = sum(parameter.numel() for parameter in adapter_parameters(architecture.unet))
    training_rows = training_rows_of(settings, candidates=candidates, branches=branches)
    training = peak_bytes(lambda: torch.autograd.backward(_forward(architecture, training_rows, dtype).sum()))
    architecture.unet.enable_gradient_checkpointing()
    architecture.unet.train()
    architecture.unet.zero_grad()
    checkpointed = peak_bytes(lambda: torch.autograd.backward(_forward(architecture, training_rows, dtype).sum()))
    return MemoryCost(
        weights=weights,
        sampling=sampling,
        decoding=decoding,
        training=training,
        checkpointed=checkpointed,
        trained=trained * torch.float32.itemsize * _OPTIMIZER_COPIES,
        trained_numbers=trained,
        sampling_rows=sampling_rows,
        training_rows=training_rows,
    )


def training_rows_of(settings: TrainSettings, *, candidates: int, branches: int) -> int:
    """Rows of a forward in training: all candidates of its visits, and with recorded steps every guidance branch."""
    return settings.visits_per_forward * candidates * (branches if settings.objective == "d3po" else 1)


def disk_cost(
    architecture: Architecture, sampler: SamplerSettings, *, dtype: torch.dtype, candidates: int, adapter_numbers: int
) -> DiskCost:
    """Count what is written.

    Args:
        architecture: of the bundle.
        sampler: its steps and storage type decide how long a trajectory is.
        dtype: of the stored bundle.
        candidates: of an outfit.
        adapter_numbers: how many numbers an adapter has.
    """
    numbers = sum(number_count(network) for network in architecture.networks().values())
    single = torch.float32.itemsize
    return DiskCost(
        bundle=numbers * dtype.itemsize,
        trajectory=len(blank_trajectory(architecture, sampler, candidates=candidates).to_bytes()),
        pictures=candidates * largest_png(architecture.image_size),
        adapter=adapter_numbers * single,
        checkpoint=adapter_numbers * single * _CHECKPOINT_COPIES,
    )


def blank_trajectory(architecture: Architecture, sampler: SamplerSettings, *, candidates: int) -> Trajectory:
    """A trajectory of one outfit, of zeros: as long in its file as a real one, to the digits of its seeds."""
    shape, steps = architecture.latent_shape, sampler.num_inference_steps
    return Trajectory(
        latents=torch.zeros(candidates, steps + 1, *shape, dtype=stored_dtype(sampler)),
        timesteps=torch.zeros(steps, dtype=torch.int64),
        log_probs=torch.zeros(candidates, steps),
        conditions=Conditions(
            *(torch.zeros(architecture.prompt_shape) for _ in range(2)), *(torch.zeros(shape) for _ in range(3))
        ),
        seeds=(2**63 - 1,) * candidates,
        settings=sampler,
        base_digest=UNSAVED,
        adapter=AdapterRef(version=1, digest=UNSAVED),
    )


def largest_png(side: int) -> int:
    """Bytes of a picture of this side that cannot be compressed: three a pixel, one a line, and what PNG puts around."""
    raw = side * (3 * side + 1)
    return raw + raw // _PNG_LOSS + _PNG_FRAME_BYTES


def number_count(network: nn.Module) -> int:
    """Parameters and buffers that are stored."""
    return sum(tensor.numel() for tensor in network.state_dict().values())


def _forward(architecture: Architecture, rows: int, dtype: torch.dtype) -> Tensor:
    channels, height, width = architecture.latent_shape
    output: Tensor = architecture.unet(
        torch.empty(rows, 2 * channels, height, width, device="meta", dtype=dtype),
        torch.zeros(rows, dtype=torch.long, device="meta"),
        torch.empty(rows, *architecture.prompt_shape, device="meta", dtype=dtype),
    ).sample
    return output


def _decoded(architecture: Architecture, pictures: int, dtype: torch.dtype) -> Tensor:
    latents = torch.empty(pictures, *architecture.latent_shape, device="meta", dtype=dtype)
    decoded: Tensor = architecture.vae.decode(latents).sample
    return decoded
