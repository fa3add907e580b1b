import numpy as np

from fashiondpo.outfits.colour import COLOURS, measured_colour
from fashiondpo.pretraining.garments import sample_garments
from tests.unit.judges.small_world import shapes


class TestSampleGarments:
    def test_names_the_category_and_colour_of_every_picture(self):
        garments = sample_garments(shapes(), 60, np.random.default_rng(0))
        assert garments.images.shape == (60, 32, 32, 3) and garments.images.dtype == np.uint8
        measured = [measured_colour(image) for image in garments.images]
        assert np.mean([a == b for a, b in zip(measured, garments.colours, strict=True)]) > 0.9

    def test_takes_every_colour_and_category_about_equally_often(self):
        garments = sample_garments(shapes(), 4000, np.random.default_rng(0))
        for values, count in ((garments.colours, len(COLOURS)), (garments.categories, 10)):
            shares = np.bincount(values, minlength=count) / 4000
            assert np.abs(shares - 1 / count).max() < 4 * np.sqrt(1 / count / 4000)

    def test_the_generator_decides_everything(self):
        first, again, other = (sample_garments(shapes(), 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first.images, again.images)
        assert not np.array_equal(first.images, other.images)
