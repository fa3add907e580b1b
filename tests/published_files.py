"""Folders and files of weights in the exact layout in which others publish them, with traps beside them."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from fashiondpo.diffusion.model import DiFashion

RANK = 4
PNDM = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.18.2",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_OLD_VAE_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


class Trap:
    """Makes a file if somebody unpickles it."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.sprung), os.O_CREAT | os.O_WRONLY)


def write_traps(folder: Path, sprung: Path) -> tuple[str, ...]:
    """A training's state, as accelerate leaves it; returns the files' names. Whoever unpickles one makes `sprung`."""
    torch.save({"state": Trap(sprung)}, folder / "optimizer.bin")
    torch.save({"state": Trap(sprung)}, folder / "scheduler.bin")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    return "optimizer.bin", "random_states_0.pkl", "scheduler.bin"


_opened: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Inside, every file that Python opens is noted in the list."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As safetensors or as a state dict, by the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(own, path, metadata={"format": "pt"})
    else:
        torch.save(own, path)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_difashion(bundle: DiFashion, folder: Path, *, ending: str = ".bin") -> Path:
    """DiFashion's own two networks, as diffusers 0.18 saves them."""
    write_unet(bundle, folder / "unet", ending=ending)
    mutual = bundle.mutual_encoder
    save_weights(mutual.state_dict(), folder / "fashion_encoder" / f"diffusion_pytorch_model{ending}")
    config = {
        "_class_name": "MutualEncoder",
        "_diffusers_version": "0.18.2",
        "cate_emb_size": mutual.config.category_embedding_dim,
        "cate_num": mutual.config.num_categories,
        "hid_dim": mutual.config.hidden_dim,
        "latent_channels": mutual.config.latent_channels,
        "latent_size": mutual.config.latent_size,
    }
    write_json(folder / "fashion_encoder" / "config.json", config)
    return folder


def write_unet(bundle: DiFashion, folder: Path, *, ending: str = ".bin", channels: int | None = None) -> None:
    """A UNet; `channels` cuts the first convolution down to what Stable Diffusion takes."""
    state = dict(bundle.unet.state_dict())
    if channels is not None:
        state["conv_in.weight"] = state["conv_in.weight"][:, :channels]
    save_weights(state, folder / f"diffusion_pytorch_model{ending}")
    config = {key: value for key, value in bundle.unet.config.items() if not key.startswith("_")}
    # programs that replace the first convolution leave what the configuration says as it was
    write_json(folder / "config.json", {**config, "_class_name": "UNet2DConditionModel", "in_channels": 4})


def write_stable_diffusion(bundle: DiFashion, folder: Path, *, ending: str = ".bin") -> Path:
    """The other parts, as Stable Diffusion 2 has them on its hub: old names in VAE and text encoder, PNDM, vocab files."""
    vae = {_old_vae_key(key): value for key, value in bundle.vae.state_dict().items()}
    save_weights(vae, folder / "vae" / f"diffusion_pytorch_model{ending}")
    config = {key: value for key, value in bundle.vae.config.items() if not key.startswith("_")}
    write_json(folder / "vae" / "config.json", {**config, "_class_name": "AutoencoderKL"})
    text = {f"text_model.{key}": value for key, value in bundle.text_encoder.state_dict().items()}
    positions = torch.arange(bundle.text_encoder.config.max_position_embeddings)[None]
    stem = "model" if ending == ".safetensors" else "pytorch_model"
    save_weights({**text, "text_model.embeddings.position_ids": positions}, folder / "text_encoder" / f"{stem}{ending}")
    write_json(folder / "text_encoder" / "config.json", bundle.text_encoder.config.to_dict())
    write_tokenizer(bundle.tokenizer, folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", PNDM)
    return folder


def write_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Vocabulary and merges in files of their own."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_json(folder / "vocab.json", model["vocab"])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {name: str(getattr(tokenizer, name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length}
    write_json(folder / "tokenizer_config.json", special | settings)


def _old_vae_key(key: str) -> str:
    block, separator, rest = key.partition("mid_block.attentions.0.")
    name, _, kind = rest.rpartition(".")
    return f"{block}{separator}{_OLD_VAE_NAMES.get(name, name)}.{kind}" if separator else key


def tiny_attentions() -> dict[str, tuple[int, int]]:
    """Attention blocks of the tiny UNet: their width, and that of the text."""
    places = (
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    )
    return dict.fromkeys(places, (32, 16))


def sd2_attentions() -> dict[str, tuple[int, int]]:
    """Attention blocks of Stable Diffusion 2's UNet: two per level down, one in the middle, three per level up."""
    widths = (320, 640, 1280)
    places = {f"down_blocks.{level}.attentions.{i}": widths[level] for level in range(3) for i in range(2)}
    places["mid_block.attentions.0"] = 1280
    places |= {f"up_blocks.{level}.attentions.{i}": widths[3 - level] for level in (1, 2, 3) for i in range(3)}
    return {place: (width, 1024) for place, width in places.items()}


def published_adapter(
    attentions: Mapping[str, tuple[int, int]], *, rank: int = RANK, scale: float = 0.05, seed: int = 0
) -> dict[str, Tensor]:
    """Random LoRA weights under the keys of diffusers 0.18's attention processors."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for place, (width, text) in attentions.items():
        for attention, target in ((a, t) for a in (1, 2) for t in ("q", "k", "v", "out")):
            into = text if attention == 2 and target in ("k", "v") else width
            start = f"{place}.transformer_blocks.0.attn{attention}.processor.to_{target}_lora"
            tensors[f"{start}.down.weight"] = scale * torch.randn(rank, into, generator=generator)
            tensors[f"{start}.up.weight"] = scale * torch.randn(width, rank, generator=generator)
    return tensors


def as_peft(tensors: Mapping[str, Tensor], prefix: str = "", name: str = "") -> dict[str, Tensor]:
    """The same weights under PEFT's keys."""
    renamed = {}
    for key, tensor in tensors.items():
        start, _, end = key.partition(".processor.to_")
        target, _, side = end.removesuffix(".weight").partition("_lora.")
        module = f"{start}.to_out.0" if target == "out" else f"{start}.to_{target}"
        renamed[f"{prefix}{module}.lora_{'A' if side == 'down' else 'B'}{name}.weight"] = tensor
    return renamed


@contextmanager
def old_attention_processors(unet: UNet2DConditionModel, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, every projection computes W x + up(down(x)), as diffusers 0.18's attention processors did."""
    handles = []
    for place in {key.partition(".processor.")[0] for key in tensors}:
        attention = unet.get_submodule(place)
        for target, module in (
            ("q", attention.to_q),
            ("k", attention.to_k),
            ("v", attention.to_v),
            ("out", attention.to_out[0]),
        ):
            down, up = (tensors[f"{place}.processor.to_{target}_lora.{side}.weight"] for side in ("down", "up"))
            handles.append(
                module.register_forward_hook(
                    lambda _, inputs, output, down=down, up=up: output + inputs[0] @ down.T @ up.T
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
