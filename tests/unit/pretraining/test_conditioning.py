import pytest

from fashiondpo.contracts import Outfit
from fashiondpo.outfits.mini import CATEGORIES, MiniCatalogue, world_data_set
from fashiondpo.outfits.model import DataSet
from fashiondpo.pretraining.conditioning import _harmony_share, _palette_share, measure_conditioning
from tests.tiny_models import build_tiny_bundle
from tests.unit.judges.small_world import world


@pytest.fixture(scope="module")
def outfits() -> DataSet:
    return world_data_set(world())


class TestMeasureConditioning:
    def test_gives_a_share_for_every_question(self, outfits):
        told: list[tuple[int, int]] = []
        figures = measure_conditioning(
            build_tiny_bundle(),
            outfits,
            outfits=3,
            candidates=2,
            progress=lambda done, total, _: told.append((done, total)),
        )
        assert set(figures) == {
            "palette",
            "palette_with_other_history",
            "harmony",
            "harmony_with_other_outfit",
            "colour",
            "unreadable",
        }
        assert all(0 <= share <= 1 for share in figures.values())
        assert told == [(1, 3), (2, 3), (3, 3)]

    def test_repeats_itself(self, outfits):
        first, again = (measure_conditioning(build_tiny_bundle(), outfits, outfits=2, candidates=1) for _ in range(2))
        assert first == again

    def test_needs_a_world_whose_colours_are_known(self, outfits):
        class Photographs:
            name, image_size = "photographs", 32

        stranger = DataSet("photographs", Photographs(), CATEGORIES, outfits.outfits, outfits.histories)
        with pytest.raises(TypeError, match="mini world"):
            measure_conditioning(build_tiny_bundle(), stranger, outfits=1)


class TestShares:
    def test_count_the_colours_that_people_really_wear_as_theirs(self, outfits):
        catalogue = outfits.catalogue
        assert isinstance(catalogue, MiniCatalogue)
        blanks = outfits.blanks_of("valid", 20)
        true = [[catalogue.colour(blank.true_item_id)] for blank in blanks]
        assert _harmony_share(true, blanks, catalogue) == 1
        assert _palette_share(true, blanks, catalogue) > 0.3

    def test_count_a_picture_without_a_readable_colour_as_a_miss(self, outfits):
        blanks = outfits.blanks_of("valid", 2)
        assert isinstance(blanks[0].outfit, Outfit)
        assert _harmony_share([[None], [None]], blanks, outfits.catalogue) == 0
        assert _palette_share([[None], [None]], blanks, outfits.catalogue) == 0
