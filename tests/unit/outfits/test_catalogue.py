"""A catalogue of picture files."""

import pytest

from fashiondpo.errors import InvalidInput, UnknownItem
from fashiondpo.outfits.catalogue import FolderCatalogue, names_a_file_inside
from fashiondpo.outfits.model import Catalogue, Item
from tests.unit.outfits.small_files import colour_of, save_picture


@pytest.fixture
def catalogue(tmp_path):
    save_picture(tmp_path / "in" / "5.png", 5, (8, 4))
    return FolderCatalogue("shop", {9: 1, 5: 2}, {5: "5.png", 9: "9.png"}, tmp_path / "in", image_size=16)


class TestFolderCatalogue:
    def test_is_a_catalogue(self, catalogue):
        assert isinstance(catalogue, Catalogue)

    def test_lists_items_ascending(self, catalogue):
        assert catalogue.item_ids() == (5, 9)

    def test_gives_an_item_its_category(self, catalogue):
        assert catalogue.item(9) == Item(9, 1)

    def test_fits_pictures_into_its_square_on_white(self, catalogue):
        image = catalogue.image(5)
        assert image.shape == (16, 16, 3)
        assert tuple(image[8, 8]) == colour_of(5)
        assert tuple(image[0, 0]) == (255, 255, 255)

    @pytest.mark.parametrize("ask", ["item", "image"])
    def test_does_not_know_other_items(self, catalogue, ask):
        with pytest.raises(UnknownItem, match="item 7 is not in the catalogue 'shop'") as caught:
            getattr(catalogue, ask)(7)
        assert caught.value.item_id == 7

    def test_checking_pictures_of_an_unknown_item_says_so(self, catalogue):
        with pytest.raises(UnknownItem):
            catalogue.check_images([7])

    def test_names_a_picture_that_cannot_be_read(self, catalogue, tmp_path):
        (tmp_path / "in" / "9.png").write_text("not a picture")
        catalogue.check_images()
        with pytest.raises(InvalidInput, match=r"9\.png is not a readable picture"):
            catalogue.image(9)

    def test_does_not_follow_a_link_out_of_its_folder(self, catalogue, tmp_path):
        (tmp_path / "in" / "9.png").symlink_to(save_picture(tmp_path / "out.png", 1))
        with pytest.raises(InvalidInput, match="outside"):
            catalogue.image(9)

    def test_its_folder_itself_may_be_a_link(self, catalogue, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "in")
        linked = FolderCatalogue("shop", {5: 2}, {5: "5.png"}, tmp_path / "link", image_size=16)
        assert (linked.image(5) == catalogue.image(5)).all()

    def test_refuses_paths_outside_its_folder(self, tmp_path):
        with pytest.raises(InvalidInput, match=r"'\.\./x\.png' of item 5"):
            FolderCatalogue("shop", {5: 2}, {5: "../x.png"}, tmp_path)

    def test_refuses_a_size_that_is_not_positive(self, tmp_path):
        with pytest.raises(InvalidInput, match="must be positive, got 0"):
            FolderCatalogue("shop", {}, {}, tmp_path, image_size=0)


class TestNamesAFileInside:
    @pytest.mark.parametrize("name", ["a.png", "a/b.png", "./a.png", "a b/ü.png", "..a/b..png"])
    def test_is_true_of_relative_paths(self, name):
        assert names_a_file_inside(name)

    @pytest.mark.parametrize(
        "name", ["", ".", "/a.png", "../a.png", "a/../../b.png", "a\\b.png", "C:/a.png", "a\0.png"]
    )
    def test_is_false_of_everything_else(self, name):
        assert not names_a_file_inside(name)
