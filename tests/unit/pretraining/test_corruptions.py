import pytest
import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from fashiondpo.pretraining.corruptions import CORRUPTIONS, blur, corrupt, damage_latents, lower_resolution, mix, shift

ALL = pytest.mark.parametrize("name", CORRUPTIONS)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int = 4) -> Tensor:
    """Bright shapes with sharp edges on white, in -1…1."""
    pictures = torch.ones(count, 3, 32, 32)
    for row, picture in enumerate(pictures):
        picture[:, 6 : 20 + row, 8 : 24 - row] = torch.rand(3, 1, 1, generator=generator(row)) * 1.5 - 1
    return pictures


class TestEveryCorruption:
    @ALL
    def test_of_strength_zero_changes_nothing(self, name: str):
        assert_close(CORRUPTIONS[name](images(), torch.zeros(4), generator()), images(), rtol=0, atol=1e-6)

    @ALL
    def test_changes_more_the_stronger_it_is(self, name: str):
        pictures = images(64)

        def change(strength: float) -> float:
            corrupted = CORRUPTIONS[name](pictures, torch.full((64,), strength), generator())
            return float((corrupted - pictures).abs().mean())

        changes = [change(strength) for strength in (0.0, 0.2, 0.5, 1.0)]
        assert changes == sorted(changes)
        assert changes[-1] > 0.05

    @ALL
    def test_stays_within_range_and_keeps_the_shape(self, name: str):
        corrupted = CORRUPTIONS[name](images(), torch.ones(4), generator())
        assert corrupted.shape == images().shape
        assert corrupted.abs().max() <= 1 + 1e-6

    @ALL
    def test_leaves_its_input_alone_and_follows_the_seed(self, name: str):
        pictures = images()
        first = CORRUPTIONS[name](pictures, torch.ones(4), generator())
        assert_close(pictures, images())
        assert_close(CORRUPTIONS[name](pictures, torch.ones(4), generator()), first)

    @ALL
    def test_takes_a_strength_for_each_image(self, name: str):
        corrupted = CORRUPTIONS[name](images(), torch.tensor([0.0, 1.0, 0.0, 1.0]), generator(1))
        changed = (corrupted - images()).abs().amax((1, 2, 3)) > 1e-3
        assert changed[::2].tolist() == [False, False]
        assert changed[1::2].any()  # an image may be mixed with itself


class TestBlur:
    def test_is_a_gaussian_of_that_deviation(self):
        point = torch.zeros(1, 3, 33, 33)
        point[:, :, 16, 16] = 1
        (blurred,) = blur(point, torch.tensor([0.6]), generator())
        offsets = torch.arange(-16.0, 17)
        variance = float((blurred[0].sum(0) * offsets**2).sum())
        assert variance == pytest.approx((0.6 * 2.5) ** 2, rel=1e-3)
        assert blurred[0].sum().item() == pytest.approx(1, rel=1e-5)


class TestLowerResolution:
    def test_at_full_strength_leaves_blocks_of_eight_by_eight_means(self):
        (corrupted,) = lower_resolution(images(1), torch.ones(1), generator())
        means = images(1)[0].reshape(3, 4, 8, 4, 8).mean((2, 4))
        assert_close(corrupted, means.repeat_interleave(8, 1).repeat_interleave(8, 2))


class TestShift:
    def test_moves_every_pixel_by_the_same_way_around_the_edges(self):
        (moved,) = shift(images(1), torch.tensor([0.5]), generator())
        ways = [torch.roll(images(1)[0], (8 * a, 8 * b), (1, 2)) for a in (1, -1) for b in (1, -1)]
        assert any(torch.equal(moved, way) for way in ways)


class TestMix:
    def test_at_full_strength_is_the_mean_of_two_images(self):
        pictures = images(3)
        mixed = mix(pictures, torch.ones(3), generator())
        means = (pictures[:, None] + pictures[None]) / 2
        for row in range(3):
            assert min((mixed[row] - mean).abs().max() for mean in means[row]) < 1e-6


class TestCorrupt:
    def test_uses_every_kind(self):
        pictures = images(1).repeat(400, 1, 1, 1)
        corrupted = corrupt(pictures, torch.ones(400), generator())
        assert len({round(float(image.mean()), 2) for image in corrupted}) > len(CORRUPTIONS)

    @pytest.mark.parametrize("strength", [torch.zeros(3), torch.full((4,), 1.1), torch.full((4,), -0.1)])
    def test_refuses_strengths_that_do_not_fit(self, strength: Tensor):
        with pytest.raises(ValueError, match="expected 4 strengths"):
            corrupt(images(), strength, generator())


class TestDamageLatents:
    def test_of_strength_zero_changes_nothing(self):
        latents = torch.randn(8, 4, 8, 8, generator=generator())
        assert_close(damage_latents(latents, torch.zeros(8), generator()), latents)

    def test_changes_more_the_stronger_it_is(self):
        latents = torch.randn(256, 4, 8, 8, generator=generator())
        changes = [
            float((damage_latents(latents, torch.full((256,), s), generator()) - latents).abs().mean())
            for s in (0.1, 0.4, 0.7, 1.0)
        ]
        assert changes == sorted(changes)
