import numpy as np
import torch

from fashiondpo.judges.held_out import HeldOutJudge
from fashiondpo.outfits.mini import MiniCatalogue
from fashiondpo.pretraining.garments import sample_garments
from fashiondpo.pretraining.held_out import HeldOutSettings, held_out_accuracy, train_held_out
from tests.unit.judges.small_world import shapes, world

SHORT = HeldOutSettings(width=8, steps=60, batch_size=64)


class TestTrainHeldOut:
    def test_learns_to_name_unseen_garments(self):
        losses: list[float] = []
        network = train_held_out(shapes(0), SHORT, progress=lambda done, total, figures: losses.append(figures["loss"]))
        assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
        judge = HeldOutJudge(network, MiniCatalogue(world()))
        assert held_out_accuracy(judge, sample_garments(shapes(1), 300, np.random.default_rng(1))) > 0.5
        assert not network.training

    def test_the_seed_decides_everything(self):
        settings = HeldOutSettings(width=8, steps=2, batch_size=8)
        first, again, other = (train_held_out(shapes(), settings, seed=seed).head[0].weight for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
