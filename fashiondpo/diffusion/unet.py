"""DiFashion's UNet: latents and history latents side by side on the channels."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fashiondpo.errors import InvalidBundle


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
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=in_channels)


def is_difashion_unet(unet: UNet2DConditionModel) -> bool:
    """Whether the UNet takes the history beside the latents: twice as many channels in as out."""
    return int(unet.conv_in.weight.shape[1]) == 2 * int(unet.config.out_channels)
