"""Recorded denoising runs: states, densities and conditions of the K candidates for one slot, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fashiondpo.contracts import AdapterRef, SamplerSettings
from fashiondpo.diffusion.conditions import Conditions
from fashiondpo.errors import InvalidInput

_FORMAT = "fashiondpo-trajectory/1"


@dataclass(frozen=True)
class Trajectory:
    """All states of K runs that share outfit and slot; step k goes from `latents[:, k]` to `latents[:, k + 1]`.

    Attributes:
        latents: (k, t + 1, c, h, w) in the storage type; what the sampler really continued from.
        timesteps: (t,) int64, noisiest first.
        log_probs: log-density of each step under the policy that sampled, (k, t) float32, nats per latent element.
        conditions: shared by the candidates.
        seeds: one per candidate.
        settings, base_digest, adapter: what made it, besides seeds and conditions.
    """

    latents: Tensor
    timesteps: Tensor
    log_probs: Tensor
    conditions: Conditions
    seeds: tuple[int, ...]
    settings: SamplerSettings
    base_digest: str
    adapter: AdapterRef

    def __post_init__(self) -> None:
        if self.latents.ndim != 5:
            raise ValueError(f"latents must be of shape (k, t + 1, c, h, w), got {tuple(self.latents.shape)}")
        candidates, states = self.latents.shape[:2]
        if self.log_probs.shape != (candidates, states - 1) or self.timesteps.shape != (states - 1,):
            raise ValueError(
                f"{candidates} candidates with {states} states need log_probs ({candidates}, {states - 1}) and "
                f"timesteps ({states - 1},), got {tuple(self.log_probs.shape)} and {tuple(self.timesteps.shape)}"
            )
        if len(self.seeds) != candidates:
            raise ValueError(f"{candidates} candidates need as many seeds, got {len(self.seeds)}")
        mutual = self.conditions.mutual_latents.shape
        if self.conditions.null_latents.shape != self.latents.shape[2:]:
            raise ValueError(
                f"latents are {tuple(self.latents.shape[2:])}, conditions {tuple(self.conditions.null_latents.shape)}"
            )
        if len(mutual) == 5 and mutual[:2] != (candidates, states - 1):
            raise ValueError(f"mutual latents must begin with ({candidates}, {states - 1}), got {tuple(mutual)}")

    @property
    def num_candidates(self) -> int:
        """K."""
        return int(self.latents.shape[0])

    @property
    def num_steps(self) -> int:
        """T."""
        return int(self.timesteps.shape[0])

    @property
    def final_latents(self) -> Tensor:
        """The finished latents, (k, c, h, w), float32."""
        return self.latents[:, -1].float()

    def to_bytes(self) -> bytes:
        """One safetensors file; the same trajectory gives the same bytes."""
        dtype = self.latents.dtype
        tensors = {"latents": self.latents, "timesteps": self.timesteps, "log_probs": self.log_probs}
        tensors |= {f"conditions.{name}": value.to(dtype) for name, value in vars(self.conditions).items()}
        metadata = {
            "format": _FORMAT,
            "seeds": json.dumps(self.seeds),
            "settings": self.settings.model_dump_json(),
            "base_digest": self.base_digest,
            "adapter": self.adapter.model_dump_json(),
        }
        return safetensors_bytes(tensors, metadata)

    @classmethod
    def from_bytes(cls, content: bytes) -> Trajectory:
        """Read what `to_bytes` wrote.

        Raises:
            InvalidInput: if it is another kind of file, truncated, or lacks a part.
        """
        metadata = safetensors_metadata(content)
        if metadata.get("format") != _FORMAT:
            raise InvalidInput(f"not a trajectory: format {metadata.get('format')!r}, expected {_FORMAT!r}")
        prefix = "conditions."
        try:
            tensors = load(content)
            parts = {name.removeprefix(prefix): v.float() for name, v in tensors.items() if name.startswith(prefix)}
            return cls(
                latents=tensors["latents"],
                timesteps=tensors["timesteps"],
                log_probs=tensors["log_probs"],
                conditions=Conditions(**parts),
                seeds=tuple(json.loads(metadata["seeds"])),
                settings=SamplerSettings.model_validate_json(metadata["settings"]),
                base_digest=metadata["base_digest"],
                adapter=AdapterRef.model_validate_json(metadata["adapter"]),
            )
        except KeyError as error:
            raise InvalidInput(f"the trajectory file is damaged: it has no {error}") from error
        except (SafetensorError, ValueError, TypeError) as error:
            raise InvalidInput(f"the trajectory file is damaged: {error}") from error


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file in memory; the same content gives the same bytes.

    The library writes metadata in an order that changes from call to call; here it is sorted.
    """
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, dict(metadata))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    ordered = json.dumps(header, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)  # the format wants tensors to begin at a multiple of eight
    return b"".join([len(ordered).to_bytes(8, "little"), ordered, memoryview(content)[8 + length :]])


def safetensors_metadata(content: bytes) -> dict[str, str]:
    """The string metadata of a safetensors file held in memory.

    Raises:
        InvalidInput: if the content is no safetensors file.
    """
    length = int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or length > len(content) - 8:
            raise ValueError("the header is longer than the file")
        header = json.loads(content[8 : 8 + length])
        metadata: dict[str, str] = dict(header.get("__metadata__", {}))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidInput(f"not a safetensors file: {error}") from error
    return metadata


def stored_dtype(settings: SamplerSettings) -> torch.dtype:
    """The type in which states are stored."""
    dtype: torch.dtype = getattr(torch, settings.state_dtype)
    return dtype
