"""A folder is known by what it holds."""

import pytest

from fashiondpo.errors import DataFileError, InvalidInput, NotFound
from fashiondpo.outfits.folder import import_folder, write_data_set
from fashiondpo.outfits.sources import load_data_set
from tests.unit.outfits.small_files import ITEM_LINES


class TestLoadDataSet:
    def test_knows_a_published_one(self, published):
        assert len(load_data_set(published[0]).blanks["test"]) == 2

    def test_finds_the_pictures_of_a_published_one(self, published, pictures):
        pictures.rename(published[0] / "images")
        assert load_data_set(str(published[0])).catalogue.image(3).shape == (512, 512, 3)

    def test_knows_an_imported_one(self, own_images, write_jsonl, tmp_path):
        write_data_set(tmp_path / "imported", import_folder(own_images, write_jsonl(*ITEM_LINES), image_size=8))
        assert load_data_set(tmp_path / "imported").name == "shop"

    def test_knows_a_mini_one(self, tmp_path):
        (tmp_path / "world.safetensors").write_bytes(b"")
        with pytest.raises(DataFileError, match=r"world\.safetensors"):
            load_data_set(tmp_path)

    def test_says_what_it_looked_for(self, tmp_path):
        with pytest.raises(InvalidInput, match=r"data_set\.jsonl.*train\.npy.*world\.safetensors.*import"):
            load_data_set(tmp_path)

    def test_says_when_there_is_no_such_folder(self, tmp_path):
        with pytest.raises(NotFound, match="absent"):
            load_data_set(tmp_path / "absent")
