"""Pixels for published models against open_clip's own transform."""

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image as Pillow
from torch import Tensor
from torch.testing import assert_close

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.preprocessing import Preprocessing
from fashiondpo.outfits.model import Image

OPENAI = {
    "size": (224, 224),
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
HALVES = {"size": 96, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear"}


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def by_open_clip(configuration: dict, image: Image) -> Tensor:
    transform = image_transform_v2(PreprocessCfg(**configuration), is_train=False)
    return transform(Pillow.fromarray(image))


def on_white_square(image: Image) -> Image:
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


class TestPixels:
    @pytest.mark.parametrize("configuration", [OPENAI, HALVES, {**OPENAI, "size": 378}])
    @pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
    @pytest.mark.parametrize("side", [512, 224, 97, 3])
    def test_of_a_square_picture_are_open_clip_s_own_to_the_last_bit(self, configuration, mode: str, side: int):
        image = noise(side, side)
        expected = by_open_clip({**configuration, "resize_mode": mode}, image)
        assert_close(Preprocessing.of(configuration).pixels([image])[0], expected, rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(300, 200), (101, 256), (1, 9), (51, 50)])
    def test_of_another_picture_are_those_of_its_white_square(self, shape):
        image = noise(*shape)
        expected = by_open_clip(OPENAI, on_white_square(image))
        assert_close(Preprocessing.of(OPENAI).pixels([image])[0], expected, rtol=0, atol=0)

    def test_of_many_pictures_are_those_of_each_in_order(self):
        images = [noise(20 + n, 20) for n in range(40)]  # more than are resized one after the other
        together = Preprocessing.of(HALVES).pixels(images)
        alone = torch.cat([Preprocessing.of(HALVES).pixels([image]) for image in images])
        assert_close(together, alone, rtol=0, atol=0)


class TestConfiguration:
    def test_one_mean_for_all_channels_is_meant_three_times(self):
        assert Preprocessing.of({**OPENAI, "mean": 0.5}).mean == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize(
        "change",
        [
            {"size": (224, 336)},
            {"size": 0},
            {"interpolation": "nearest"},
            {"std": (0.1, 0.0, 0.1)},
            {"mean": (1.0, 2.0)},
            {"mean": (float("nan"), 0.0, 0.0)},
        ],
    )
    def test_that_is_not_known_here_is_refused(self, change):
        with pytest.raises(InvalidBundle):
            Preprocessing.of({**OPENAI, **change})

    def test_everything_that_changes_pixels_changes_the_digest(self):
        changes = ({}, {"size": 225}, {"mean": (0.4, 0.4, 0.4)}, {"std": (1.0, 1, 1)}, {"interpolation": "bilinear"})
        assert len({Preprocessing.of({**OPENAI, **change}).digest for change in changes}) == len(changes)
