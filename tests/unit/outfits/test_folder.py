"""Outfits of one's own: importing a folder, and the form they are kept in."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiondpo.contracts import Outfit
from fashiondpo.errors import Conflict, DataFileError, InvalidIndex, InvalidInput, MissingImages
from fashiondpo.outfits.folder import import_folder, read_folder, write_data_set
from fashiondpo.outfits.model import Category, DataSet, History
from fashiondpo.outfits.published import read_published
from tests.unit.outfits.small_files import HISTORY_LINES, ITEM_LINES, OUTFIT_LINES, colour_of, save_picture

ALL_LINES = [*ITEM_LINES, *OUTFIT_LINES, *HISTORY_LINES]


def as_text(data_set):
    """Everything of a data set but its pictures."""
    histories = {
        split: {user: {c: history.of(user, c) for c in history.categories_of(user)} for user in history.user_ids}
        for split, history in data_set.histories.items()
    }
    items = [data_set.catalogue.item(item_id) for item_id in data_set.catalogue.item_ids()]
    return data_set.name, items, data_set.categories, data_set.outfits, histories, data_set.blanks


def grouped(catalogue, item_ids):
    """Item ids by category, categories in order of first appearance."""
    categories = dict.fromkeys(catalogue.item(item_id).category_id for item_id in item_ids)
    return {key: [i for i in item_ids if catalogue.item(i).category_id == key] for key in categories}


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestImportFolder:
    def test_reads_outfits_with_the_categories_of_their_items(self, own_images, write_jsonl):
        data_set = import_folder(own_images, write_jsonl(*ALL_LINES))
        (outfit,) = data_set.split("train")
        assert (outfit.outfit_id, outfit.user_id, outfit.item_ids) == (1, 7, (1, 2, 3))
        assert [data_set.categories[key].name for key in outfit.category_ids] == ["dress", "sneakers", "bag"]
        assert data_set.split("valid") == ()

    def test_reads_the_same_from_csv(self, own_images, write_jsonl, tmp_path):
        rows = [
            "type,item_id,category,image,outfit_id,user_id,split,items",
            "item,1,dress,a/1.png,,,,",
            "item,2,sneakers,a/2.jpg,,,,",
            "item,3,bag,b c/3.png,,,,",
            "item,4,bag,4.png,,,,",
            "outfit,,,,1,7,train,1 2 3",
            "outfit,,,,2,8,test,1 4",
            "history,,,,,7,,4 2 3",
            "history,,,,,8,test,1",
        ]
        (tmp_path / "shop.csv").write_text("\r\n".join(rows), encoding="utf-8")
        from_csv = import_folder(own_images, tmp_path / "shop.csv")
        assert as_text(from_csv) == as_text(import_folder(own_images, write_jsonl(*ALL_LINES)))

    def test_the_order_of_lines_between_kinds_is_free(self, own_images, write_jsonl):
        turned = import_folder(own_images, write_jsonl(*OUTFIT_LINES, *HISTORY_LINES, *ITEM_LINES))
        assert as_text(turned) == as_text(import_folder(own_images, write_jsonl(*ALL_LINES)))

    def test_pictures_come_fitted_and_512_pixels_wide_unless_told_otherwise(self, own_images, write_jsonl):
        index = write_jsonl(*ALL_LINES)
        assert import_folder(own_images, index).catalogue.image_size == 512
        image = import_folder(own_images, index, image_size=16).catalogue.image(1)
        assert image.shape == (16, 16, 3)
        assert tuple(image[8, 8]) == colour_of(1)

    def test_a_history_counts_for_every_split_unless_it_names_one(self, own_images, write_jsonl):
        special = {"type": "history", "user_id": 7, "items": [1], "split": "valid"}
        data_set = import_folder(own_images, write_jsonl(*ALL_LINES, special))
        assert {split: data_set.history(split).all_of(7) for split in ("train", "valid", "test")} == {
            "train": (4, 3, 2),
            "valid": (1,),
            "test": (4, 3, 2),
        }
        assert (data_set.history("train").all_of(8), data_set.history("test").all_of(8)) == ((), (1,))

    def test_plural_categories_of_what_is_worn_in_pairs_are_paired(self, own_images, write_jsonl):
        categories = import_folder(own_images, write_jsonl(*ALL_LINES)).categories
        assert {category.name: category.is_paired for category in categories.values()} == {
            "dress": False,
            "sneakers": True,
            "bag": False,
        }

    def test_a_category_line_fixes_id_and_pairing_and_the_others_make_room(self, own_images, write_jsonl):
        line = {"type": "category", "category": "bag", "category_id": 0, "is_paired": True}
        categories = import_folder(own_images, write_jsonl(*ALL_LINES, line)).categories
        assert categories == {0: Category(0, "bag", True), 1: Category(1, "dress"), 2: Category(2, "sneakers", True)}

    def test_a_blank_line_fixes_a_task(self, own_images, write_jsonl):
        line = {"type": "blank", "outfit_id": 2, "slot": 1, "negatives": [2, 3]}
        data_set = import_folder(own_images, write_jsonl(*ALL_LINES, line))
        (blank,) = data_set.blanks_of("test")
        assert (blank.outfit.item_ids, blank.true_item_id, blank.negative_item_ids) == ((1, None), 4, (2, 3))
        assert len(data_set.blanks_of("train")) == 1

    def test_takes_its_name_from_the_call_the_index_or_the_file(self, own_images, write_jsonl):
        index = write_jsonl(*ALL_LINES, name="autumn.jsonl")
        assert import_folder(own_images, index).name == "autumn"
        index = write_jsonl({"type": "data_set", "name": "winter", "image_size": 8}, *ALL_LINES)
        assert import_folder(own_images, index).name == "winter"
        assert import_folder(own_images, index).catalogue.image_size == 8
        assert import_folder(own_images, index, name="spring", image_size=9).name == "spring"

    def test_an_image_folder_that_is_not_there_is_named(self, tmp_path, write_jsonl):
        with pytest.raises(DataFileError, match="absent: there is no such image folder"):
            import_folder(tmp_path / "absent", write_jsonl(*ALL_LINES))

    def test_an_index_without_items_is_refused(self, own_images, write_jsonl):
        with pytest.raises(DataFileError, match="describes no items"):
            import_folder(own_images, write_jsonl(""))


class TestUsersOfSeveralSplits:
    LINES = (
        *ITEM_LINES,
        *OUTFIT_LINES,
        {"type": "outfit", "outfit_id": 3, "user_id": 7, "split": "test", "items": [1, 4]},
    )

    def test_are_refused_because_they_would_be_tested_on_what_they_taught(self, own_images, write_jsonl):
        with pytest.raises(InvalidIndex, match=r"line 7: user 7 has outfits in train \(line 5\) and in test"):
            import_folder(own_images, write_jsonl(*self.LINES))

    def test_are_taken_when_the_caller_or_the_index_says_so(self, own_images, write_jsonl):
        assert len(import_folder(own_images, write_jsonl(*self.LINES), shared_users=True).split("test")) == 2
        index = write_jsonl({"type": "data_set", "shared_users": True}, *self.LINES)
        assert len(import_folder(own_images, index).split("test")) == 2


class TestWriteDataSet:
    @pytest.fixture
    def data_set(self, own_images, write_jsonl):
        blank = {"type": "blank", "outfit_id": 2, "slot": 1, "negatives": [2, 3]}
        return import_folder(own_images, write_jsonl(*ALL_LINES, blank), image_size=12)

    def test_reading_gives_the_same_data_set_back(self, data_set, tmp_path):
        write_data_set(tmp_path / "imported", data_set)
        found = read_folder(tmp_path / "imported")
        assert as_text(found) == as_text(data_set)
        for item_id in data_set.catalogue.item_ids():
            assert (found.catalogue.image(item_id) == data_set.catalogue.image(item_id)).all()

    def test_needs_the_source_no_more(self, data_set, tmp_path, own_images):
        write_data_set(tmp_path / "imported", data_set)
        own_images.rename(tmp_path / "gone")
        (tmp_path / "imported").rename(tmp_path / "moved")
        assert read_folder(tmp_path / "moved").catalogue.image(1).shape == (12, 12, 3)

    def test_importing_the_imported_form_changes_no_byte(self, data_set, tmp_path):
        write_data_set(tmp_path / "once", data_set)
        write_data_set(tmp_path / "twice", read_folder(tmp_path / "once"))
        assert content_of(tmp_path / "twice") == content_of(tmp_path / "once")

    def test_doing_it_again_changes_nothing(self, data_set, tmp_path):
        write_data_set(tmp_path / "imported", data_set)
        before = (tmp_path / "imported").stat().st_ino
        write_data_set(tmp_path / "imported", data_set)
        assert (tmp_path / "imported").stat().st_ino == before
        write_data_set(tmp_path / "imported", read_folder(tmp_path / "imported"))

    def test_another_data_set_is_replaced_only_on_request(self, data_set, own_images, write_jsonl, tmp_path):
        other = import_folder(own_images, write_jsonl(*ITEM_LINES, name="shop.jsonl"), image_size=12)
        write_data_set(tmp_path / "imported", data_set)
        before = content_of(tmp_path / "imported")
        with pytest.raises(Conflict, match="already holds a different data set"):
            write_data_set(tmp_path / "imported", other)
        assert content_of(tmp_path / "imported") == before
        write_data_set(tmp_path / "imported", other, replace=True)
        assert read_folder(tmp_path / "imported").split("train") == ()

    def test_a_changed_picture_makes_another_data_set(self, data_set, own_images, tmp_path):
        write_data_set(tmp_path / "imported", data_set)
        save_picture(own_images / "4.png", 9)
        with pytest.raises(Conflict):
            write_data_set(tmp_path / "imported", data_set)

    def test_a_folder_with_other_things_in_it_is_left_alone(self, data_set, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").write_text("dear")
        with pytest.raises(InvalidInput, match="holds something else"):
            write_data_set(tmp_path / "mine", data_set, replace=True)
        assert content_of(tmp_path / "mine").keys() == {
            (tmp_path / "mine" / "letter.txt").relative_to(tmp_path / "mine")
        }

    def test_an_empty_folder_and_absent_parents_are_fine(self, data_set, tmp_path):
        (tmp_path / "empty").mkdir()
        write_data_set(tmp_path / "empty", data_set)
        write_data_set(tmp_path / "a" / "b" / "c", data_set)
        assert content_of(tmp_path / "empty") == content_of(tmp_path / "a" / "b" / "c")

    def test_others_may_read_it(self, data_set, tmp_path):
        write_data_set(tmp_path / "imported", data_set)
        umask = os.umask(0)
        os.umask(umask)
        assert (tmp_path / "imported").stat().st_mode & 0o777 == 0o777 & ~umask

    def test_work_that_is_cut_off_leaves_nothing_under_the_name(self, data_set, tmp_path):
        def stop(done, total):
            assert total == 4
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_data_set(tmp_path / "imported", data_set, on_progress=stop)
        assert not [path for path in tmp_path.iterdir() if "imported" in path.name]

    def test_reports_progress(self, data_set, tmp_path):
        seen = []
        write_data_set(tmp_path / "imported", data_set, on_progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_names_every_picture_that_cannot_be_read(self, data_set, own_images, tmp_path):
        for name in ("a/1.png", "4.png"):
            (own_images / name).write_text("not a picture")
        with pytest.raises(InvalidInput, match=r"(?s)2 pictures of 'shop' cannot be imported:.*1\.png.*4\.png"):
            write_data_set(tmp_path / "imported", data_set)
        assert not (tmp_path / "imported").exists()

    def test_a_published_data_set_can_be_written_too(self, published, pictures, tmp_path):
        data_set = read_published(published[0], images=pictures, image_size=8)
        write_data_set(tmp_path / "imported", data_set)
        found = read_folder(tmp_path / "imported")
        assert as_text(found)[:4] == as_text(data_set)[:4]
        assert as_text(found)[5] == as_text(data_set)[5]
        assert found.history("test").of(0, 0) == (2, 1)

    def test_outfits_that_the_source_repeats_are_written_once(self, data_set, tmp_path):
        twice = {**data_set.outfits, "train": data_set.split("train") * 2}
        write_data_set(tmp_path / "a", DataSet("a", data_set.catalogue, data_set.categories, twice, {}))
        assert len(read_folder(tmp_path / "a").split("train")) == 1

    @pytest.mark.parametrize(
        ("items", "categories", "problem"),
        [
            ((1, None), (0, 1), "incomplete"),
            ((1, 2), (1, 0), "other categories"),
            ((1, 2), (0, 1), "different outfits"),
        ],
    )
    def test_refuses_what_the_format_cannot_say(self, data_set, tmp_path, items, categories, problem):
        outfit = Outfit(outfit_id=1, user_id=7, category_ids=categories, item_ids=items)
        odd = {**data_set.outfits, "valid": (outfit,)}
        with pytest.raises(InvalidInput, match=problem):
            write_data_set(tmp_path / "a", DataSet("a", data_set.catalogue, data_set.categories, odd, {}))

    def test_refuses_two_categories_of_one_name(self, data_set, tmp_path):
        categories = {**data_set.categories, 9: Category(9, "bag")}
        with pytest.raises(InvalidInput, match="two categories of one name"):
            write_data_set(tmp_path / "a", DataSet("a", data_set.catalogue, categories, data_set.outfits, {}))

    @given(
        histories=st.fixed_dictionaries(
            {
                split: st.dictionaries(st.integers(0, 3), st.lists(st.integers(1, 4), max_size=4, unique=True))
                for split in ("train", "valid", "test")
            }
        )
    )
    def test_histories_survive_whatever_the_splits_know(self, tmp_path_factory, histories):
        folder = tmp_path_factory.mktemp("histories")
        for line in ITEM_LINES:
            save_picture(folder / "own" / line["image"], line["item_id"])
        (folder / "own.jsonl").write_text("\n".join(json.dumps(line) for line in ITEM_LINES))
        source = import_folder(folder / "own", folder / "own.jsonl", image_size=2)
        by_category = {
            split: History({user: grouped(source.catalogue, items) for user, items in users.items()})
            for split, users in histories.items()
        }
        data_set = DataSet("own", source.catalogue, source.categories, {}, by_category)
        write_data_set(folder / "imported", data_set)
        found = read_folder(folder / "imported")
        for split, users in histories.items():
            assert set(found.history(split).user_ids) == set(users)
            for user in users:
                assert found.history(split).all_of(user) == by_category[split].all_of(user)


class TestReadFolder:
    def test_a_folder_without_an_index_is_no_data_set(self, tmp_path):
        with pytest.raises(DataFileError, match=r"it has no data_set\.jsonl"):
            read_folder(tmp_path)

    def test_a_picture_that_is_gone_is_named_with_its_line(self, published, pictures, tmp_path):
        write_data_set(tmp_path / "imported", read_published(published[0], images=pictures, image_size=8))
        (tmp_path / "imported" / "images" / "3.png").unlink()
        with pytest.raises(InvalidIndex, match=r"line 8: image 3\.png is not in"):
            read_folder(tmp_path / "imported")

    def test_missing_pictures_of_the_source_stop_the_import(self, published, tmp_path):
        with pytest.raises(InvalidInput, match="9 pictures of 'small-u' cannot be imported") as caught:
            write_data_set(tmp_path / "imported", read_published(published[0]))
        assert not isinstance(caught.value, MissingImages)
