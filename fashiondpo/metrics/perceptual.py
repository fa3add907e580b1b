"""LPIPS: how different two pictures look, by the layers of a network that was trained to recognise things.

The network is torchmetrics' copy of the published one. Weights come from a file: of a whole LPIPS network (`net.slice1…` and
`lin0…`, as the lpips package saves it), or of torchvision's AlexNet, VGG16 or SqueezeNet 1.1 (`features.0.weight`), which is
then joined by the published linear layers that torchmetrics carries. Which of the three it is, the content says.

Source: arXiv:1801.03924.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

# Not the public class: it downloads the network as soon as it is made.
from torchmetrics.functional.image.lpips import _LPIPS

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.pixels import square_batch
from fashiondpo.metrics.weight_files import file_id, read_weights
from fashiondpo.outfits.model import Image

Kind = Literal["alex", "vgg", "squeeze"]

SMALLEST_PX = 64
"""Side of the patches on which LPIPS was calibrated; smaller pictures are enlarged to it."""

_BATCH = 64
_LINEAR = re.compile(r"lin\d+\.model\.\d+\.weight")
_LAYER = re.compile(r"(?:features|net\.slice\d+|net\.slices\.\d+)\.(\d+\..+)")


class PerceptualDistance:
    """Compares pictures pair by pair; 0 for equal ones."""

    def __init__(self, network: nn.Module, name: str, device: torch.device | str = "cpu") -> None:
        """Take over a network that compares batches of pixels in -1…1."""
        self._network = network.to(device).eval().requires_grad_(False)
        self._name, self._device = name, device

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Load weights from a file of one of the published formats.

        Raises:
            InvalidBundle: if it is unreadable, or holds something else.
        """
        state = read_weights(path)
        layers = _under_layers(state)
        kind = _kind(layers, path)
        linear = {name: value for name, value in state.items() if _LINEAR.fullmatch(name)}
        network = _LPIPS(pretrained=False, net=kind, pnet_rand=True)
        wanted = [name for name in network.state_dict() if not name.startswith("lins.")]  # the same tensors as lin0…
        given = linear or _published_linear_layers(kind)
        given |= {name: layers[found[1]] for name in wanted if (found := _LAYER.fullmatch(name)) and found[1] in layers}
        if missing := [name for name in wanted if name not in given]:
            raise InvalidBundle(f"{path} lacks layers of LPIPS ({kind}): {', '.join(missing[:4])}")
        try:
            network.load_state_dict({name: given[name] for name in wanted}, strict=False)
        except RuntimeError as error:
            raise InvalidBundle(f"{path} does not fit LPIPS ({kind}): {error}") from error
        return cls(network, f"lpips-{kind}-{file_id(path)}", device)

    @property
    def name(self) -> str:
        """Which network, and the hash of its file."""
        return self._name

    @torch.inference_mode()
    def between(self, one: Sequence[Image], other: Sequence[Image]) -> Tensor:
        """Distances of pairs: shape (n,), float32 on the CPU.

        Args:
            one, other: as many pictures; each pair is brought to the larger of their sides, and 64 pixels at least.

        Raises:
            ValueError: if there are not as many on both sides.
        """
        if len(one) != len(other):
            raise ValueError(f"expected pairs, got {len(one)} and {len(other)} pictures")
        side = max([SMALLEST_PX, *(max(image.shape[:2]) for image in (*one, *other))])
        distances = []
        for start in range(0, len(one), _BATCH):
            rows = slice(start, start + _BATCH)
            pixels = (square_batch(images[rows], side, self._device) * 2 - 1 for images in (one, other))
            distances.append(self._network(*pixels).flatten().float().cpu())
        return torch.cat(distances) if distances else torch.empty(0)


def _under_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network below the linear layers, by position in torchvision's `features`, whichever slice a layer is in."""
    return {found[1]: value for name, value in state.items() if (found := _LAYER.fullmatch(name))}


def _kind(layers: Mapping[str, Tensor], path: Path) -> Kind:
    if "0.weight" not in layers:
        raise InvalidBundle(
            f"{path} is neither a whole LPIPS network nor torchvision's AlexNet, VGG16 or SqueezeNet 1.1; files with the "
            "linear layers alone are not enough"
        )
    if layers["0.weight"].shape[-1] == 11:
        return "alex"
    return "squeeze" if any(".squeeze." in name for name in layers) else "vgg"


def _published_linear_layers(kind: Kind) -> dict[str, Tensor]:
    with as_file(files("torchmetrics.functional.image") / "lpips_models" / f"{kind}.pth") as path:
        return read_weights(path)
