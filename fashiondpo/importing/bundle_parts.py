"""The parts of a bundle as others publish them: configurations, names of tensors, tokenizer, noise schedule."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.importing.report import Account, named
from fashiondpo.importing.streaming import Planned, write_safetensors
from fashiondpo.importing.weight_files import Weights, check_finite, name_in, note_source, open_weights

WEIGHT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""How files of weights are called, before their ending."""

_ENDINGS = (".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".bin", ".bin.index.json", ".fp16.bin")
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION_KEY = re.compile(r"(.+\.mid_block\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_POSITIONS = "embeddings.position_ids"


@dataclass(frozen=True)
class Network:
    """One network of a source: shapes to fill, and where its tensors come from.

    Attributes:
        module: on torch's meta device: shapes alone.
        folder: where its configuration and weights lie.
        file: the file of weights, or their index.
        changes: what is done to a tensor on its way, by its key here.
    """

    module: Any
    folder: Path
    file: Path
    changes: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)


def find_weights(folder: Path) -> list[Path]:
    """Every known file of weights in the folder of a network, the one to take first; empty if there is none."""
    names = [stem + ending for ending in _ENDINGS for stem in WEIGHT_STEMS]
    return [folder / name for name in names if (folder / name).is_file()]


def chosen_weights(folder: Path, source: Path, account: Account) -> Path:
    """The file of weights to take; the others of the folder are left out.

    Raises:
        InvalidBundle: if there is none.
    """
    found = find_weights(folder)
    if not found:
        raise InvalidBundle(f"{folder} has no weights: expected one of {', '.join(f'{s}.*' for s in WEIGHT_STEMS)}")
    for other in found[1:]:
        account.leave_out(name_in(other, source), f"another form of the same weights; {found[0].name} was taken")
    return found[0]


def unet_without_weights(
    folder: Path, account: Account | None = None, *, in_channels: int | None = None
) -> UNet2DConditionModel:
    """The UNet as shapes alone.

    Args:
        folder: with its `config.json`.
        account: told about settings that are left out.
        in_channels: in the place of what the configuration says, which older programs do not keep up to date.

    Raises:
        InvalidBundle: if the configuration cannot be read or describes no UNet.
    """
    changes = {} if in_channels is None else {"in_channels": in_channels}
    return _from_config(UNet2DConditionModel, folder, changes, account)


def vae_without_weights(folder: Path, account: Account) -> AutoencoderKL:
    """The VAE as shapes alone; raises InvalidBundle."""
    return _from_config(AutoencoderKL, folder, {}, account)


def text_encoder_without_weights(folder: Path) -> CLIPTextModel:
    """The text encoder as shapes alone; raises InvalidBundle."""
    config = read_json(folder / "config.json")
    for name in ("_name_or_path", "auto_map"):
        config.pop(name, None)
    try:
        with torch.device("meta"):
            return CLIPTextModel(CLIPTextConfig.from_dict(config))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidBundle(f"{folder / 'config.json'} describes no CLIP text encoder: {error}") from error


def mutual_encoder_without_weights(weights: Weights, folder: Path, latent_channels: int, side: int) -> MutualEncoder:
    """The mutual encoder as shapes alone; sizes come from the tensors, since its configuration calls them otherwise.

    Raises:
        InvalidBundle: if tensors are missing, or it is for latents of another size.
    """
    shapes = weights.shapes
    try:
        (categories, embedding), (hidden, elements) = shapes["category_embedding.weight"], shapes["mlp.0.weight"]
    except (KeyError, ValueError) as error:
        raise InvalidBundle(f"{folder} holds no mutual encoder: it has {named(sorted(shapes))}") from error
    if elements != latent_channels * side**2:
        raise InvalidBundle(
            f"{folder} is for latents of {elements} elements, the UNet has {latent_channels}x{side}x{side}"
        )
    with torch.device("meta"):
        encoder: MutualEncoder = MutualEncoder(categories, embedding, latent_channels, side, hidden)
    return encoder


def copy_network(network: Network, target: Path, file_name: str, source: Path, account: Account) -> None:
    """Write a network's weights under the names that this repository's libraries use, one tensor at a time.

    Raises:
        InvalidBundle: missing or unknown tensors, wrong shapes, non-finite values; names them.
    """
    weights = open_weights(network.file)
    origin = name_in(network.folder, source)
    keys: dict[str, str] = {}
    for theirs in sorted(weights.shapes):
        ours = _modern_key(theirs)
        if ours.endswith(_POSITIONS):
            account.leave_out(f"{origin}:{theirs}", "the positions 0, 1, 2, …, which are not stored any more")
        elif ours in keys:
            raise InvalidBundle(f"{network.folder} holds {ours!r} twice, as {keys[ours]!r} and {theirs!r}")
        else:
            keys[ours] = theirs
    expected = {key: tuple(value.shape) for key, value in network.module.state_dict().items()}
    _check_keys(network, keys, weights, expected)

    def tensor_of(ours: str) -> Tensor:
        tensor = weights.tensor(keys[ours])
        try:
            check_finite(keys[ours], tensor)
        except InvalidInput as error:
            raise InvalidBundle(f"{network.folder}: {error}") from error
        return network.changes[ours](tensor) if ours in network.changes else tensor

    planned = {key: Planned(expected[key], weights.dtypes[theirs]) for key, theirs in keys.items()}
    target.mkdir()
    write_safetensors(target / file_name, planned, tensor_of)
    account.keys_read += [f"{origin}:{theirs}" for theirs in keys.values()]
    note_source(weights, source, account)


def _check_keys(
    network: Network, keys: Mapping[str, str], weights: Weights, expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing, unknown = sorted(expected.keys() - keys.keys()), sorted(keys[key] for key in keys.keys() - expected.keys())
    if missing or unknown:
        raise InvalidBundle(
            f"{network.folder} does not fit its configuration: {len(missing)} tensors missing ({named(missing)}), "
            f"{len(unknown)} unknown ({named(unknown)})"
        )
    for ours, theirs in keys.items():
        if ours not in network.changes and weights.shapes[theirs] != expected[ours]:
            raise InvalidBundle(
                f"{network.folder}: {theirs!r} has shape {weights.shapes[theirs]}, its configuration needs {expected[ours]}"
            )


def _modern_key(key: str) -> str:
    """What a tensor is called today: without the text encoder's old prefix, and the VAE's attention by its new names."""
    key = key.removeprefix("text_model.")
    if found := _OLD_ATTENTION_KEY.fullmatch(key):
        return f"{found[1]}.{_OLD_ATTENTION[found[2]]}.{found[3]}"
    return key


def copy_tokenizer(folder: Path, target: Path) -> CLIPTokenizer:
    """Read a CLIP tokenizer and write it anew; raises InvalidBundle."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidBundle(f"{folder} holds no readable CLIP tokenizer: {error}") from error
    tokenizer.save_pretrained(target)
    return tokenizer


_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "set_alpha_to_one",
    "steps_offset",
    "timestep_spacing",
    "rescale_betas_zero_snr",
)


def ddim_scheduler(folder: Path) -> DDIMScheduler:
    """DDIM over the noise levels of a published scheduler, whichever that is.

    Stable Diffusion comes with PNDM; what both share, the noise levels and where a run ends, is taken over.

    Raises:
        InvalidBundle: if there is none, or it clips denoised latents.
    """
    path = folder / "scheduler_config.json"
    config = read_json(path)
    if config.get("clip_sample") or config.get("thresholding"):
        raise InvalidBundle(f"{path} clips denoised latents, which a model of latents was not trained for")
    known = {name: config[name] for name in _SCHEDULE if name in config}
    if config.get("_class_name") == "PNDMScheduler":
        known.setdefault("set_alpha_to_one", False)  # the two classes differ in this default alone
    try:
        return DDIMScheduler(clip_sample=False, **known)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InvalidBundle(f"{path} describes no noise schedule: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises InvalidBundle."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidBundle(f"{path} is no readable configuration: {error}") from error
    if not isinstance(content, dict):
        raise InvalidBundle(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _from_config(kind: type[Any], folder: Path, changes: Mapping[str, object], account: Account | None) -> Any:
    path = folder / "config.json"
    config = read_json(path)
    known = set(inspect.signature(kind.__init__).parameters) - {"self"}
    given = {name: value for name, value in config.items() if name in known} | dict(changes)
    if account is not None:
        for name in sorted(config.keys() - known):
            if not name.startswith("_"):
                account.leave_out(f"{folder.name}/config.json:{name}", f"{kind.__name__} has no such setting")
    try:
        with torch.device("meta"):
            return kind(**given)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise InvalidBundle(f"{path} describes no {kind.__name__}: {error}") from error
