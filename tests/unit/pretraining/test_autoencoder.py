import numpy as np
import pytest
import torch

from fashiondpo.pretraining.autoencoder import (
    AutoencoderSettings,
    build_autoencoder,
    reconstruction_psnr,
    to_pixels,
    train_autoencoder,
)
from fashiondpo.pretraining.garments import sample_garments
from tests.unit.judges.small_world import shapes

SHORT = AutoencoderSettings(channels=(8, 8, 16), steps=40, batch_size=16)


class TestToPixels:
    def test_maps_black_to_minus_one_and_white_to_one(self):
        images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, 3)
        assert to_pixels(images).flatten().tolist() == [-1] * 3 + [1] * 3

    def test_puts_channels_first(self):
        assert to_pixels(np.zeros((5, 8, 6, 3), np.uint8)).shape == (5, 3, 8, 6)


class TestBuildAutoencoder:
    def test_halves_the_side_at_every_level_after_the_first(self):
        vae = build_autoencoder(SHORT)
        with torch.no_grad():
            latents = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mode()
            assert latents.shape == (1, 4, 8, 8)
            assert vae.decode(latents).sample.shape == (1, 3, 32, 32)


class TestTrainAutoencoder:
    def test_learns_and_gives_latents_of_variance_one(self):
        losses: list[float] = []
        vae = train_autoencoder(shapes(), SHORT, progress=lambda _done, _total, figures: losses.append(figures["loss"]))
        assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
        garments = sample_garments(shapes(1), 200, np.random.default_rng(5))
        with torch.no_grad():
            latents = vae.encode(to_pixels(garments.images)).latent_dist.mode() * vae.config.scaling_factor
        assert float(latents.std()) == pytest.approx(1, abs=0.1)
        assert not vae.training and not any(p.requires_grad for p in vae.parameters())

    def test_the_seed_decides_everything(self):
        settings = AutoencoderSettings(channels=(8, 8), steps=2, batch_size=4)
        first, again, other = (train_autoencoder(shapes(), settings, seed=s).decoder.conv_out.weight for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestReconstructionPsnr:
    def test_is_ten_times_the_logarithm_of_the_mean_squared_error(self):
        vae = build_autoencoder(AutoencoderSettings(channels=(8, 8)))
        images = sample_garments(shapes(), 4, np.random.default_rng(0)).images
        with torch.no_grad():
            painted = vae.decode(vae.encode(to_pixels(images)).latent_dist.mode()).sample
        fractions = (painted.clamp(-1, 1).permute(0, 2, 3, 1).double().numpy() + 1) / 2
        errors = ((fractions - images / 255.0) ** 2).mean((1, 2, 3))
        assert reconstruction_psnr(vae, images) == pytest.approx(float(np.mean(-10 * np.log10(errors))), rel=1e-4)
