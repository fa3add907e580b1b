"""LoRA adapters of the UNet's attention: add, save, read, load. Never merged into the base.

An adapter travels as one safetensors file with PEFT's keys; its metadata names rank, targets and base model.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fashiondpo.diffusion.trajectory import safetensors_bytes, safetensors_metadata
from fashiondpo.errors import InvalidAdapter, InvalidInput

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Attention projections that the published adapters change."""

POLICY = "policy"
"""Name under which PEFT knows the adapter in training."""

_FORMAT = "fashiondpo-adapter/1"


@dataclass(frozen=True)
class AdapterWeights:
    """LoRA weights with what is needed to load them.

    Attributes:
        tensors: PEFT keys without adapter name, `….lora_A.weight` (rank, in) and `….lora_B.weight` (out, rank).
        rank: of every pair.
        alpha: the update is scaled by alpha / rank.
        targets: which projections.
        base_digest: of the bundle they were trained on.
    """

    tensors: dict[str, Tensor]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    base_digest: str

    def to_bytes(self) -> bytes:
        """One safetensors file; the same weights give the same bytes."""
        metadata = {
            "format": _FORMAT,
            "rank": str(self.rank),
            "alpha": str(self.alpha),
            "targets": json.dumps(self.targets),
            "base_digest": self.base_digest,
        }
        return safetensors_bytes(self.tensors, metadata)

    @classmethod
    def from_bytes(cls, content: bytes) -> AdapterWeights:
        """Read and check an adapter file.

        Raises:
            InvalidAdapter: another format, missing or unpaired tensors, mixed ranks or non-finite values; says which.
        """
        try:
            metadata = safetensors_metadata(content)
            tensors = load(content)
        except (InvalidInput, SafetensorError) as error:
            raise InvalidAdapter(f"the adapter is not a safetensors file: {error}") from error
        if metadata.get("format") != _FORMAT:
            raise InvalidAdapter(f"unknown adapter format {metadata.get('format')!r}, expected {_FORMAT!r}")
        try:
            weights = cls(
                tensors,
                int(metadata["rank"]),
                float(metadata["alpha"]),
                _targets(metadata["targets"]),
                metadata["base_digest"],
            )
        except (KeyError, ValueError) as error:
            raise InvalidAdapter(f"the adapter's metadata is incomplete: {error}") from error
        weights.check()
        return weights

    def check(self) -> None:
        """Raise InvalidAdapter unless every tensor has its partner, the stated rank and finite values."""
        if not self.tensors:
            raise InvalidAdapter("the adapter has no tensors")
        if not math.isfinite(self.alpha):
            raise InvalidAdapter(f"the adapter's alpha must be finite, got {self.alpha}")
        for key, tensor in self.tensors.items():
            side, other = ("lora_A", "lora_B") if ".lora_A." in key else ("lora_B", "lora_A")
            if f".{side}." not in key:
                raise InvalidAdapter(f"{key!r} is no LoRA tensor")
            if key.replace(side, other) not in self.tensors:
                raise InvalidAdapter(f"{key!r} has no partner {key.replace(side, other)!r}")
            if tensor.ndim != 2:
                raise InvalidAdapter(f"{key!r} must be a matrix, got shape {tuple(tensor.shape)}")
            rank = tensor.shape[0 if side == "lora_A" else 1]
            if rank != self.rank:
                raise InvalidAdapter(f"{key!r} has rank {rank}, the adapter says {self.rank}")
            if not bool(torch.isfinite(tensor).all()):
                raise InvalidAdapter(f"{key!r} has non-finite values")

    def check_base(self, base_digest: str) -> None:
        """Raise InvalidAdapter unless they were trained on this base and change nothing but TARGETS."""
        if unknown := sorted(set(self.targets) - set(TARGETS)):
            raise InvalidAdapter(f"the adapter changes {unknown}, only {', '.join(TARGETS)} may be changed")
        if self.base_digest != base_digest:
            raise InvalidAdapter(
                f"the adapter was trained on base {self.base_digest[:12]}, this bundle is {base_digest[:12]}"
            )


def _targets(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"targets must be a list of names, got {text}")
    return tuple(names)


def add_adapter(
    unet: UNet2DConditionModel,
    *,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = TARGETS,
    seed: int = 0,
    name: str = POLICY,
) -> list[nn.Parameter]:
    """Put a fresh adapter on the UNet and make it the active one; the UNet computes the same as before.

    Args:
        unet: its own parameters are frozen.
        rank: of the update.
        alpha: scale; rank (so a scale of 1) unless given.
        targets: names of the projections.
        seed: of the random half; the other half is zero.
        name: PEFT's name for it.

    Returns:
        The trainable parameters, in a stable order, float32.
    """
    unet.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha if alpha is not None else rank, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT suspects a mistake in every second adapter; here it is the reference policy, or another place
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        torch.manual_seed(seed)
        unet.add_adapter(config, adapter_name=name)
    unet.set_adapter(name)
    return adapter_parameters(unet)


def adapter_parameters(unet: UNet2DConditionModel) -> list[nn.Parameter]:
    """The parameters that train, as float32, in a stable order."""
    parameters = [parameter for _, parameter in sorted(unet.named_parameters()) if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return parameters


def adapter_weights(unet: UNet2DConditionModel, base_digest: str, *, name: str = POLICY) -> AdapterWeights:
    """A copy of an adapter's weights, float32 on the CPU.

    Raises:
        InvalidAdapter: if the UNet has no adapter of that name.
    """
    if name not in getattr(unet, "peft_config", {}):
        raise InvalidAdapter(f"the UNet has no adapter {name!r}")
    config = unet.peft_config[name]
    state = get_peft_model_state_dict(unet, adapter_name=name)
    return AdapterWeights(
        tensors={key: value.detach().float().cpu().clone() for key, value in sorted(state.items())},
        rank=int(config.r),
        alpha=float(config.lora_alpha),
        targets=tuple(sorted(config.target_modules)),
        base_digest=base_digest,
    )


def load_adapter(
    unet: UNet2DConditionModel, weights: AdapterWeights, base_digest: str, *, name: str = POLICY
) -> list[nn.Parameter]:
    """Put an adapter's weights on the UNet and make it the active one.

    Args:
        unet: without an adapter of that name.
        weights: checked again.
        base_digest: of the UNet's bundle.
        name: PEFT's name for it.

    Returns:
        Its parameters, trainable.

    Raises:
        InvalidAdapter: if it was trained on another base or its tensors do not fit this UNet, name by name.
    """
    weights.check()
    weights.check_base(base_digest)
    parameters = add_adapter(unet, rank=weights.rank, alpha=weights.alpha, targets=weights.targets, name=name)
    try:
        _fill_adapter(unet, weights, name)
    except InvalidAdapter:
        remove_adapter(unet, name=name)
        raise
    return parameters


def _fill_adapter(unet: UNet2DConditionModel, weights: AdapterWeights, name: str) -> None:
    expected = get_peft_model_state_dict(unet, adapter_name=name)
    missing, unknown = (
        sorted(expected.keys() - weights.tensors.keys()),
        sorted(weights.tensors.keys() - expected.keys()),
    )
    if missing or unknown:
        raise InvalidAdapter(
            f"the adapter does not fit the UNet: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    for key, tensor in weights.tensors.items():
        if tensor.shape != expected[key].shape:
            raise InvalidAdapter(
                f"{key!r} has shape {tuple(tensor.shape)}, the UNet needs {tuple(expected[key].shape)}"
            )
    set_peft_model_state_dict(unet, weights.tensors, adapter_name=name)


def remove_adapter(unet: UNet2DConditionModel, *, name: str = POLICY) -> None:
    """Take an adapter off; without any, the UNet is the base model again."""
    if name in getattr(unet, "peft_config", {}):
        unet.delete_adapters(name)
    if not getattr(unet, "peft_config", None):
        unet.unload_lora()  # PEFT's empty wrappers rename the base's parameters, and would be saved with it
