"""Faulty lines of an index: each is found, all are reported, each with its number."""

import pytest

from fashiondpo.errors import DataFileError, InvalidIndex
from fashiondpo.outfits.folder import import_folder
from fashiondpo.outfits.index_lines import MAX_PROBLEMS
from tests.unit.outfits.small_files import ITEM_LINES, OUTFIT_LINES, save_picture


def problems_of(images, index, **options):
    with pytest.raises(InvalidIndex) as caught:
        import_folder(images, index, **options)
    assert caught.value.path == index
    return list(caught.value.problems)


class TestAFaultyLine:
    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("{", "Invalid JSON"),
            ("[1, 2]", "Input should be an object"),
            ({"item_id": 5}, "Unable to extract tag"),
            ({"type": "garment"}, "'garment' found using 'type' does not match any of the expected tags"),
            ({**ITEM_LINES[0], "item_id": "5"}, "item_id: Input should be a valid integer, got '5'"),
            ({**ITEM_LINES[0], "item_id": -5}, "item_id: Input should be greater than or equal to 0, got '-5'"),
            ({**ITEM_LINES[0], "item_id": 2**63}, "item_id: Input should be less than 9223372036854775808"),
            ({**ITEM_LINES[0], "item_id": 5, "category": ""}, "category: String should have at least 1 character"),
            ({**ITEM_LINES[0], "item_id": 5, "colour": "red"}, "colour: Extra inputs are not permitted, got 'red'"),
            ({"type": "item", "item_id": 5, "category": "bag"}, "image: Field required"),
            ({**ITEM_LINES[0], "item_id": 5, "image": "absent.png"}, "image absent.png is not in"),
            ({**ITEM_LINES[0], "item_id": 5, "image": "../own/4.png"}, "must be a path below the image folder"),
            ({**ITEM_LINES[0], "item_id": 5, "image": "/etc/hostname"}, "must be a path below the image folder"),
            ({**ITEM_LINES[0], "item_id": 5, "image": "a\\1.png"}, "written with '/'"),
            ({**ITEM_LINES[0], "item_id": 5, "image": "a"}, "image a is not in"),
            (ITEM_LINES[1], "item 2 is already on line 2"),
            ({**OUTFIT_LINES[0], "outfit_id": 2}, "outfit 2 is already on line 6"),
            ({**OUTFIT_LINES[0], "outfit_id": 3, "split": "dev"}, "split: Input should be 'train', 'valid' or 'test'"),
            ({**OUTFIT_LINES[0], "outfit_id": 3, "items": [1, 98, 99]}, "no line describes item 98, 99"),
            ({**OUTFIT_LINES[0], "outfit_id": 3, "items": [1]}, "items: Tuple should have at least 2 items"),
            ({**OUTFIT_LINES[0], "outfit_id": 3, "items": [1] * 9}, "items: Tuple should have at most 8 items"),
            ({**OUTFIT_LINES[0], "outfit_id": 3, "items": [1, 1]}, "outfit 3 lists an item twice"),
            ({**OUTFIT_LINES[0], "outfit_id": 3, "items": [1, None]}, "items.1: Input should be a valid integer"),
            ({"type": "history", "user_id": 7, "items": [99]}, "no line describes item 99"),
            ({"type": "blank", "outfit_id": 99, "slot": 0}, "no line describes outfit 99"),
            ({"type": "blank", "outfit_id": 1, "slot": 3}, "outfit 1 has 3 slots, numbered from 0; got slot 3"),
            ({"type": "blank", "outfit_id": 1, "slot": 0, "negatives": [2, 1]}, "item 1 is the right answer"),
            ({"type": "blank", "outfit_id": 1, "slot": 0, "negatives": [99]}, "no line describes item 99"),
            ({"type": "data_set", "format": 2}, "format: Input should be 1, got '2'"),
        ],
    )
    def test_is_reported_with_its_number(self, own_images, write_jsonl, line, problem):
        ((number, found),) = problems_of(own_images, write_jsonl(*ITEM_LINES, *OUTFIT_LINES, line))
        assert number == 7
        assert problem in found

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ({"type": "history", "user_id": 7, "items": []}, "the history of user 7 is already on line 7"),
            (
                {"type": "history", "user_id": 7, "items": [], "split": "test"},
                "the history of user 7 in test is already",
            ),
            ({"type": "data_set"}, "facts about the data set is already on line 7"),
            ({"type": "category", "category": "bag"}, "category bag is already on line 7"),
            ({"type": "blank", "outfit_id": 1, "slot": 0}, "a blank in slot 0 of outfit 1 is already on line 7"),
        ],
    )
    def test_may_not_say_again_what_an_earlier_one_said(self, own_images, write_jsonl, line, problem):
        ((number, found),) = problems_of(own_images, write_jsonl(*ITEM_LINES, *OUTFIT_LINES, line, line))
        assert number == 8
        assert problem in found

    def test_may_not_give_two_categories_one_id(self, own_images, write_jsonl):
        lines = [{"type": "category", "category": name, "category_id": 4} for name in ("bag", "dress")]
        assert problems_of(own_images, write_jsonl(*ITEM_LINES, *lines)) == [(6, "category id 4 is already on line 5")]

    def test_may_not_name_a_link_that_leads_out(self, own_images, write_jsonl, tmp_path):
        (own_images / "5.png").symlink_to(save_picture(tmp_path / "outside.png", 5))
        ((_, found),) = problems_of(own_images, write_jsonl({**ITEM_LINES[0], "image": "5.png"}))
        assert "a link that leads out" in found


class TestAllProblems:
    def test_are_reported_at_once_in_the_order_of_lines(self, own_images, write_jsonl):
        lines = [OUTFIT_LINES[0], "{", *ITEM_LINES[:2], {"type": "history", "user_id": 1, "items": [88]}]
        assert [number for number, _ in problems_of(own_images, write_jsonl(*lines))] == [1, 2, 5]

    def test_are_counted_beyond_those_that_are_listed(self, own_images, write_jsonl):
        with pytest.raises(InvalidIndex, match=f"70 problems, the first {MAX_PROBLEMS} are") as caught:
            import_folder(own_images, write_jsonl(*["{"] * 70))
        assert (len(caught.value.problems), caught.value.count) == (MAX_PROBLEMS, 70)


class TestAnIndex:
    def test_may_have_empty_lines_and_a_byte_order_mark(self, own_images, tmp_path, write_jsonl):
        index = write_jsonl("", *ITEM_LINES, "   ")
        index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
        assert import_folder(own_images, index).catalogue.item_ids() == (1, 2, 3, 4)

    def test_is_jsonl_or_csv(self, own_images, tmp_path):
        with pytest.raises(DataFileError, match=r"ends in \.jsonl or \.csv, got \.xlsx"):
            import_folder(own_images, tmp_path / "shop.xlsx")

    def test_that_is_missing_is_named(self, own_images, tmp_path):
        with pytest.raises(DataFileError, match=r"absent\.jsonl: cannot be read"):
            import_folder(own_images, tmp_path / "absent.jsonl")

    @pytest.mark.parametrize("name", ["shop.jsonl", "shop.csv"])
    def test_in_another_encoding_says_so(self, own_images, tmp_path, name):
        (tmp_path / name).write_bytes("type,category\nitem,Röcke\n".encode("latin-1"))
        with pytest.raises(DataFileError, match="not in UTF-8"):
            import_folder(own_images, tmp_path / name)


class TestACsvIndex:
    HEADER = "type,item_id,category,image,outfit_id,user_id,split,items"

    def write(self, folder, *rows):
        (folder / "shop.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        return folder / "shop.csv"

    def test_may_leave_out_columns_and_quote_commas(self, own_images, tmp_path):
        index = self.write(tmp_path, "image,category,item_id,type", '4.png,"bag, small",4,item')
        assert import_folder(own_images, index).categories[0].name == "bag, small"

    def test_reports_faulty_rows_with_their_line(self, own_images, tmp_path):
        rows = [
            self.HEADER,
            "item,x,bag,4.png,,,,",
            "item,4,bag,4.png,,,,",
            "outfit,,,,1,2,train,4 y",
            "item,1,,a/1.png,,,,",
        ]
        found = problems_of(own_images, self.write(tmp_path, *rows))
        assert [number for number, _ in found] == [2, 4, 5]
        assert "items.1: Input should be a valid integer" in found[1][1]
        assert "category: Field required" in found[2][1]

    def test_reports_rows_with_too_many_cells(self, own_images, tmp_path):
        index = self.write(tmp_path, "type,item_id,category,image", "item,4,bag, small,4.png")
        assert problems_of(own_images, index) == [(2, "more cells than columns; quote cells that contain commas")]

    @pytest.mark.parametrize(
        ("header", "problem"),
        [("item_id,image", "no column 'type'"), ("type,colour", "unknown: colour"), ("", "no column")],
    )
    def test_names_columns_that_are_missing_or_unknown(self, own_images, tmp_path, header, problem):
        with pytest.raises(DataFileError, match=f"line 1: .*{problem}"):
            import_folder(own_images, self.write(tmp_path, header))

    def test_with_an_open_quote_is_refused(self, own_images, tmp_path):
        with pytest.raises(DataFileError, match="malformed CSV"):
            import_folder(own_images, self.write(tmp_path, self.HEADER, 'item,4,"bag,4.png'))
