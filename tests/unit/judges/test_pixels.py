import numpy as np
import torch
from PIL import Image as Pillow
from torch.testing import assert_close

from fashiondpo.judges.pixels import square_batch


class TestSquareBatch:
    def test_pixels_of_the_right_size_are_only_scaled(self):
        image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        assert_close(square_batch([image], 32)[0], torch.from_numpy(image).permute(2, 0, 1) / 255)

    def test_pads_with_white_around_the_middle(self):
        (batch,) = square_batch([np.zeros((10, 20, 3), np.uint8)], 20)
        assert_close(batch.mean((0, 2)), torch.tensor([1.0] * 5 + [0.0] * 10 + [1.0] * 5))

    def test_resizes_as_pillow_does(self):
        smooth = np.add.outer(np.arange(96), np.arange(96))[..., None].repeat(3, 2).astype(np.uint8)
        expected = np.asarray(Pillow.fromarray(smooth).resize((32, 32), Pillow.Resampling.BICUBIC)) / 255
        actual = square_batch([smooth], 32)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(actual, expected, atol=1 / 255)  # Pillow rounds to 8 bits

    def test_stays_within_range_where_bicubic_overshoots(self):
        edge = np.zeros((8, 8, 3), np.uint8)
        edge[:, 4:] = 255
        batch = square_batch([edge], 32)
        assert batch.min() >= 0
        assert batch.max() <= 1

    def test_pictures_of_mixed_sizes_keep_their_places(self):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((32, 32), (16, 24), (32, 32), (64, 40))]
        alone = torch.cat([square_batch([image], 32) for image in images])
        assert_close(square_batch(images, 32), alone)

    def test_no_picture_gives_an_empty_batch(self):
        assert square_batch([], 32).shape == (0, 3, 32, 32)
