"""The released compatibility evaluator to a folder that the compatibility judge loads."""

from __future__ import annotations

from pathlib import Path

from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.importing.report import Account
from fashiondpo.importing.weight_files import Weights, check_finite, name_in, note_source, open_weights
from fashiondpo.judges.vbpr import VBPR, published_layers
from fashiondpo.judges.weights import weights_digest

_NOT_REPRODUCIBLE = (
    "the features that these weights were trained on pass through random weights that were not saved: their scores on "
    "other features say little, and are marked so"
)


def is_vbpr(weights: Weights) -> bool:
    """Whether a file holds the layers that VBPR scores with."""
    return {"i_map1.weight", "i_map2.weight", "visual_bias.weight"} <= published_layers(weights.shapes).keys()


def write_vbpr(file: Path, folder: Path, source: Path, account: Account) -> str:
    """Write the folder; returns the digest of its weights.

    Raises:
        InvalidBundle: if layers do not fit together or hold non-finite values.
        DataFileError: if the file cannot be read.
    """
    weights = open_weights(file)
    layers = published_layers(weights.shapes)
    for key in sorted(weights.shapes.keys() - set(layers.values())):
        account.leave_out(f"{name_in(file, source)}:{key}", "scoring does not use it")
    state = {}
    for layer, key in layers.items():
        state[layer] = weights.tensor(key).float().clone()
        try:
            check_finite(key, state[layer])
        except InvalidInput as error:
            raise InvalidBundle(f"{file}: {error}") from error
    network = VBPR.from_published(state, str(file))
    network.save(folder)
    account.keys_read += [f"{name_in(file, source)}:{key}" for key in layers.values()]
    account.warnings.append(_NOT_REPRODUCIBLE)
    note_source(weights, source, account)
    return weights_digest(network.state_dict())
