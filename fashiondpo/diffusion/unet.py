"""DiFashion's UNet: latents and history latents side by side on the channels."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fashiondpo.errors import InvalidBundle


def weights_dtype(network: nn.Module) -> torch.dtype:
    """Type of a network's weights, for inputs at every step.

    diffusers' own `dtype` walks through all modules to find it: 0.5 ms for the mini UNet and, once it has places for
    adapters and with them twice the modules, 1.2 ms, where a whole step takes 25 ms.
    """
    return next(network.parameters()).dtype


def widen_conv_in(unet: UNet2DConditionModel, in_channels: int) -> None:
    """Give a pretrained UNet more input channels, in place; what it computes stays the same.

    The first channels keep their weights, new ones start at zero, the bias is kept.

    Args:
        unet: as loaded.
        in_channels: wanted; twice the latent channels for DiFashion.

    Raises:
        InvalidBundle: if the UNet already has more channels than wanted.
    """
    old: nn.Conv2d = unet.conv_in
    if old.in_channels == in_channels:
        return
    if old.in_channels > in_channels:
        raise InvalidBundle(f"the UNet takes {old.in_channels} channels, cannot narrow it to {in_channels}")
    new = nn.Conv2d(
        in_channels, old.out_channels, kernel_size=3, padding=1, device=old.weight.device, dtype=old.weight.dtype
    )
    with torch.no_grad():
        new.weight.copy_(widened_weight(old.weight, in_channels))
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=in_channels)


def widened_weight(weight: Tensor, in_channels: int) -> Tensor:
    """A convolution's weight (out, in, h, w) with more input channels; the new ones are zero, so they change nothing."""
    wide = weight.new_zeros((weight.shape[0], in_channels, *weight.shape[2:]))
    wide[:, : weight.shape[1]] = weight
    return wide


def is_difashion_unet(unet: UNet2DConditionModel) -> bool:
    """Whether the UNet takes the history beside the latents: twice as many channels in as out."""
    return int(unet.conv_in.weight.shape[1]) == 2 * int(unet.config.out_channels)
