"""The examples of docs/data.md can be imported as they stand."""

import re

import pytest

from fashiondpo.outfits import index_lines
from fashiondpo.outfits.folder import import_folder
from tests.unit.outfits.small_files import save_picture


@pytest.fixture
def page(repository):
    return (repository / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.fixture
def example(page, tmp_path):
    def imported(kind):
        for item_id, name in enumerate(["dresses/1.jpg", "shoes/2.png", "bags/3.png", "shoes/4.png"], start=1):
            save_picture(tmp_path / "images" / name, item_id)
        (text,) = re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL)
        (tmp_path / f"shop.{kind}").write_text(text, encoding="utf-8")
        return import_folder(tmp_path / "images", tmp_path / f"shop.{kind}")

    return imported


class TestTheExamples:
    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_can_be_imported(self, example, kind):
        data_set = example(kind)
        assert [outfit.item_ids for outfit in data_set.split("train")] == [(1, 2, 3)]
        assert data_set.history("test").all_of(7) == (4, 3)

    def test_say_the_same_in_both_formats(self, example):
        first, second = example("jsonl"), example("csv")
        assert first.outfits == second.outfits
        assert first.categories == second.categories


class TestThePage:
    @pytest.mark.parametrize(
        "kind",
        [
            index_lines.DataSetLine,
            index_lines.CategoryLine,
            index_lines.ItemLine,
            index_lines.OutfitLine,
            index_lines.HistoryLine,
            index_lines.BlankLine,
        ],
    )
    def test_describes_every_field(self, page, kind):
        for field in set(kind.model_fields) - {"type"}:
            assert f"`{field}`" in page
        assert f"`{kind.model_fields['type'].default}`" in page
