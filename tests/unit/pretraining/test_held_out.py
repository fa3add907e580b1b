import numpy as np
import pytest
import torch

from fashiondpo.judges.held_out import HeldOutJudge
from fashiondpo.outfits.mini import MiniCatalogue
from fashiondpo.pretraining.garments import sample_garments
from fashiondpo.pretraining.held_out import (
    CriticSettings,
    HeldOutSettings,
    held_out_accuracy,
    train_critic,
    train_held_out,
)
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


class TestTrainCritic:
    SHORT = CriticSettings(width=8, steps=60, batch_size=32)

    def pictures(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Garments, and other garments with stripes, as a generator's mistake."""
        rng = np.random.default_rng(seed)
        garments, painted = (sample_garments(shapes(seed), 120, rng).images for _ in range(2))
        painted[:, ::2] //= 3
        return garments, painted

    def test_tells_unseen_garments_from_painted_ones(self):
        losses: list[float] = []
        critic = train_critic(
            *self.pictures(0), self.SHORT, progress=lambda done, total, figures: losses.append(figures["loss"])
        )
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
        catalogue = MiniCatalogue(world())
        judge = HeldOutJudge(train_held_out(shapes(0), HeldOutSettings(8, 1, 8)), catalogue, critic=critic)
        garments, painted = (judge.realism(list(images)) for images in self.pictures(1))
        assert (garments > 0).float().mean() > 0.8
        assert (painted > 0).float().mean() < 0.2
        assert not critic.training

    def test_the_seed_decides_everything(self):
        settings = CriticSettings(width=8, steps=2, batch_size=8)
        weights = (train_critic(*self.pictures(0), settings, seed=seed).head[0].weight for seed in (1, 1, 2))
        first, again, other = weights
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_needs_both_kinds_of_pictures(self):
        garments, painted = self.pictures(0)
        for both in ((garments[:0], painted), (garments, painted[:0])):
            with pytest.raises(ValueError, match="needs both"):
                train_critic(*both, self.SHORT)
