import pytest
import torch

from fashiondpo.diffusion.model import load_bundle, save_bundle
from fashiondpo.outfits.images import white_image
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, build_autoencoder
from fashiondpo.pretraining.bundle import (
    MINI_SAMPLER,
    build_mini_bundle,
    mini_tokenizer,
    sd2_unet_without_weights,
    stable_diffusion_scheduler,
)


def mini(seed: int = 0):
    torch.manual_seed(7)
    return build_mini_bundle(
        build_autoencoder(AutoencoderSettings()), mini_tokenizer(CATEGORIES), CATEGORIES, seed=seed
    )


class TestBuildMiniBundle:
    def test_fits_the_pictures_of_the_mini_world(self):
        bundle = mini()
        assert (bundle.image_size, bundle.latent_shape) == (32, (4, 8, 8))
        assert bundle.encode_images([white_image(32)]).shape == (1, 4, 8, 8)
        assert sum(p.numel() for p in bundle.unet.parameters()) == pytest.approx(3.9e6, rel=0.02)
        assert bundle.sampler == MINI_SAMPLER and bundle.categories == CATEGORIES

    def test_the_seed_decides_the_weights(self):
        first, again, other = (mini(seed).unet.conv_in.weight for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_is_a_bundle_that_can_be_saved_and_loaded(self, tmp_path):
        saved = save_bundle(mini(), tmp_path, dtype=torch.float16)
        assert load_bundle(tmp_path).digest == saved.digest


class TestStableDiffusionScheduler:
    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    def test_has_the_published_schedule(self, prediction_type):
        config = stable_diffusion_scheduler(prediction_type=prediction_type).config
        assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
        assert config.prediction_type == prediction_type
        assert not config.clip_sample and not config.set_alpha_to_one and config.steps_offset == 1


class TestSd2Unet:
    def test_has_the_parameters_of_stable_diffusion_2_with_eight_input_channels(self):
        unet = sd2_unet_without_weights()
        # the published UNet has 865,910,724; four more input channels take 320 * 4 * 9
        assert sum(p.numel() for p in unet.parameters()) == 865_910_724 + 11_520
        assert unet.conv_in.weight.shape == (320, 8, 3, 3)
