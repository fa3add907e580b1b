"""Places for adapters in one UNet: while one paints, another is filled. Never merged into the base.

The places are PEFT adapters of one rank on all projections that may be changed. Weights are swapped into them in place
(`peft.utils.hotswap`), so that neither memory nor modules grow with the number of swaps. Weights of a smaller rank are
padded with zeros there, and projections that they leave alone become zero.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.hotswap import hotswap_adapter_from_state_dict, prepare_model_for_compiled_hotswap
from torch import Tensor

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.lora import AdapterWeights, add_adapter
from fashiondpo.errors import InvalidAdapter

SLOT_NAMES = ("slot_a", "slot_b")
"""PEFT's names of the places: one to paint with, one to fill."""


class AdapterSlots:
    """The places of one UNet; nobody else may put adapters on it meanwhile."""

    def __init__(
        self, unet: UNet2DConditionModel, base_digest: str, *, rank: int, will_be_compiled: bool = False
    ) -> None:
        """Put the places on the UNet; it computes the same as before.

        Args:
            unet: without an adapter.
            base_digest: of its bundle.
            rank: largest rank that fits.
            will_be_compiled: keep the scales of adapters in tensors, so that code compiled for one adapter fits the next.
        """
        self.unet, self.base_digest, self.rank = unet, base_digest, rank
        self.refs: list[AdapterRef | None] = [None] * len(SLOT_NAMES)
        self._selected: int | None = None
        for name in SLOT_NAMES:
            add_adapter(unet, rank=rank, name=name)
        unet.requires_grad_(False)
        if will_be_compiled:
            prepare_model_for_compiled_hotswap(unet)
        self._layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
        fresh = get_peft_model_state_dict(unet, adapter_name=SLOT_NAMES[0])
        self._shapes = {key: tuple(value.shape) for key, value in fresh.items()}
        for layer in self._layers:
            layer.enable_adapters(False)

    def verify(self, weights: AdapterWeights) -> None:
        """Raise InvalidAdapter unless the weights can be loaded; changes nothing, may be called on any thread."""
        weights.check()
        weights.check_base(self.base_digest)
        if weights.rank > self.rank:
            raise InvalidAdapter(f"the adapter has rank {weights.rank}, there is room for rank {self.rank}")
        expected = {key for key in self._shapes if _target(key) in weights.targets}
        missing, unknown = sorted(expected - weights.tensors.keys()), sorted(weights.tensors.keys() - expected)
        if missing or unknown:
            raise InvalidAdapter(
                f"the adapter does not fit the UNet: {len(missing)} tensors missing {missing[:3]}, "
                f"{len(unknown)} unknown {unknown[:3]}"
            )
        for key, tensor in weights.tensors.items():
            if (shape := self._shape(key, weights.rank)) != tuple(tensor.shape):
                raise InvalidAdapter(f"{key!r} has shape {tuple(tensor.shape)}, the UNet needs {shape}")

    def _shape(self, key: str, rank: int) -> tuple[int, ...]:
        rows, columns = self._shapes[key]
        return (rank, columns) if ".lora_A." in key else (rows, rank)

    def load(self, slot: int, ref: AdapterRef, weights: AdapterWeights) -> None:
        """Swap verified weights into a place, whatever it held.

        Args:
            slot: position in SLOT_NAMES.
            ref: what they are known as.
            weights: verified.
        """
        name = SLOT_NAMES[slot]
        self.refs[slot] = None  # until all of it is there
        config = LoraConfig(r=weights.rank, lora_alpha=weights.alpha, target_modules=list(weights.targets))
        hotswap_adapter_from_state_dict(self.unet, _named(weights.tensors, name), name, config)
        self.refs[slot] = ref

    def select(self, ref: AdapterRef) -> None:
        """Let the UNet compute with a loaded version from now on; with version 0, as the base model.

        Raises:
            ValueError: if the version is not loaded.
        """
        self.select_slot(None if ref.version == 0 else self.refs.index(ref))

    def select_slot(self, slot: int | None) -> None:
        """Let the UNet compute with whatever is in a place; None: as the base model."""
        if slot == self._selected:
            return
        for layer in self._layers:
            if slot is None:
                layer.enable_adapters(False)
            else:
                layer.enable_adapters(True)
                layer.set_adapter(SLOT_NAMES[slot], inference_mode=True)
        self._selected = slot

    def close(self) -> None:
        """Take the places off: the UNet is the base model again."""
        self.unet.unload_lora()
        self.unet.requires_grad_(False)


def _target(key: str) -> str:
    """The projection that a tensor belongs to: `….attn1.to_out.0.lora_A.weight` to `to_out.0`."""
    path = key.partition(".lora_")[0]
    return path[path.rindex(".to_") + 1 :]


def _named(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {f"{key.removesuffix('.weight')}.{name}.weight": tensor for key, tensor in tensors.items()}
