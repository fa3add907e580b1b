"""The policy in training on its UNet: put on beside the reference that its objective needs, and taken off again."""

from __future__ import annotations

from torch import nn

from fashiondpo.diffusion.lora import (
    POLICY,
    AdapterWeights,
    adapter_parameters,
    add_adapter,
    load_adapter,
    remove_adapter,
)
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.objectives import REFERENCE


def put_policy(bundle: DiFashion, parent: AdapterWeights | None, settings: TrainSettings) -> list[nn.Parameter]:
    """The parameters of a policy that starts from the parent, or from the base model.

    Args:
        bundle: its UNet carries no adapter.
        parent: also the reference policy; None for the base model.
        settings: rank, seed and objective.

    Raises:
        InvalidAdapter: if the parent does not fit the bundle.
    """
    unet, digest = bundle.unet, bundle.digest
    if parent is None:
        return add_adapter(unet, rank=settings.rank, seed=settings.seed)
    parameters = load_adapter(unet, parent, digest)
    if settings.objective != "d3po":  # which alone has the reference's figures on record
        load_adapter(unet, parent, digest, name=REFERENCE)
        unet.set_adapter(POLICY)
        parameters = adapter_parameters(unet)
    return parameters


def take_off_policy(bundle: DiFashion) -> None:
    """The UNet is the base model again."""
    remove_adapter(bundle.unet, name=REFERENCE)
    remove_adapter(bundle.unet)
    bundle.unet.requires_grad_(False)
