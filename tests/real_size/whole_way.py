"""From published files to an exported adapter at the size of Stable Diffusion 2, in one process that measures itself.

    python -m tests.real_size.whole_way PUBLISHED WORK

Prints figures as one JSON object: seconds and peak memory (bytes) after every stage, sizes, and what came out.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from fashiondpo.contracts import SamplerSettings
from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.diffusion.sampling import SlotTask, sample_trajectories
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.importing.adapters import export_adapter
from fashiondpo.importing.published import import_folder
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.trainer import PreferenceSet, PreferenceTrainer
from tests.tiny_rounds import HISTORY, Squares, blanks

SIDE = 8
TWO_STEPS = SamplerSettings(num_inference_steps=2)
ONE_UPDATE = TrainSettings(
    objective="d3po",
    beta=0.1,
    learning_rate=1e-3,
    rate_decay="none",
    passes=1,
    outfits_per_update=1,
    steps_per_outfit=1,
    visits_per_forward=1,
)

Figures = dict[str, object]


class Stages:
    """Seconds and peak memory of what was done so far."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}
        self._since = time.perf_counter()

    def end(self, name: str) -> None:
        unit = 1 if sys.platform == "darwin" else 1024
        self.peak_bytes[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        now = time.perf_counter()
        self.seconds[name], self._since = round(now - self._since, 1), now


class LargerSquares(Squares):
    """As large as pictures of the small latents are."""

    image_size = 8 * SIDE


def on_small_latents(bundle: DiFashion) -> DiFashion:
    """The same networks over latents that a CPU can denoise; the mutual encoder, whose sizes are fixed, is another."""
    bundle.unet.register_to_config(sample_size=SIDE)
    mutual = MutualEncoder(latent_size=SIDE)
    mutual.initialise(torch.Generator().manual_seed(0))
    return replace(bundle, mutual_encoder=mutual.to(torch.bfloat16))


def painted(bundle: DiFashion, seeds: tuple[int, ...]) -> Trajectory:
    """Candidates of one slot."""
    encoder = ConditionEncoder(bundle, LargerSquares(), bundle.categories)
    (blank,) = blanks(1)
    conditions = encoder.encode(blank.outfit, blank.slot, HISTORY, TWO_STEPS)
    return sample_trajectories(bundle, [SlotTask(conditions, seeds)], TWO_STEPS)[0]


def trained(bundle: DiFashion, trajectory: Trajectory, folder: Path) -> AdapterWeights:
    """One update of the trainer."""
    trainer = PreferenceTrainer(bundle, [PreferenceSet("s0", ((0, 1),), lambda: trajectory)], ONE_UPDATE, folder)
    weights = trainer.run()
    trainer.close()
    if weights is None or len(trainer.plan) != 1:
        raise RuntimeError(f"expected one update, planned were {len(trainer.plan)}")
    return weights


def main(published: Path, work: Path) -> Figures:
    stages, figures = Stages(), Figures()
    stages.end("libraries")
    report = import_folder(published, work / "bundle", categories=CATEGORIES)
    figures["tensors_read"] = len(report.keys_read)
    stages.end("import")
    bundle = load_bundle(work / "bundle", dtype=torch.bfloat16)
    parts = ("unet", "vae", "text_encoder", "mutual_encoder")
    figures["parameters"] = {name: sum(p.numel() for p in getattr(bundle, name).parameters()) for name in parts}
    figures["mutual"] = list(bundle.mutual_encoder(torch.zeros(1, 4, 64, 64)).shape)
    stages.end("load")
    bundle = on_small_latents(bundle)
    candidate = painted(bundle, (1,))
    (picture,) = bundle.decode_latents(candidate.final_latents)
    figures["picture"], figures["is_finite"] = list(picture.shape), bool(candidate.final_latents.isfinite().all())
    stages.end("paint one candidate")
    weights = trained(bundle, painted(bundle, (2, 3)), work / "training")
    figures["adapter"] = [len(weights.tensors), sum(tensor.numel() for tensor in weights.tensors.values())]
    figures["has_learned"] = all(bool(tensor.any()) for tensor in weights.tensors.values())
    stages.end("train one step")
    (work / "adapter.safetensors").write_bytes(weights.to_bytes())
    export_adapter(work / "adapter.safetensors", work / "pytorch_lora_weights.bin")
    import_folder(work / "pytorch_lora_weights.bin", work / "again", base=work / "bundle")
    again = load_file(work / "again" / "adapter.safetensors")
    figures["comes_back"] = again.keys() == weights.tensors.keys() and all(
        torch.equal(again[key], tensor) for key, tensor in weights.tensors.items()
    )
    stages.end("export and import")
    return figures | {"seconds": stages.seconds, "peak_bytes": stages.peak_bytes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))) + "\n")
