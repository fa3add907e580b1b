"""The published data sets: small files of the real format, and the real Polyvore-U where it is there."""

import numpy as np
import pytest

from fashiondpo.errors import DataFileError, InvalidInput, MissingImages, UnknownItem
from fashiondpo.outfits.index_files import read_mapping
from fashiondpo.outfits.model import Catalogue
from fashiondpo.outfits.published import PublishedCatalogue, read_published
from tests.unit.outfits.small_files import CATEGORIES, ITEM_CATEGORIES, colour_of


class TestReadPublished:
    def test_reads_outfits_of_every_split_with_their_categories(self, published):
        data_set = read_published(published[0])
        assert [outfit.item_ids for outfit in data_set.split("train")] == [(1, 3, 5, 7), (2, 4, 6, 8)]
        assert data_set.split("valid")[0].category_ids == (0, 3, 12, 35)
        assert [(outfit.outfit_id, outfit.user_id) for outfit in data_set.split("test")] == [(30, 0), (31, 1)]

    def test_a_blank_knows_the_slot_the_true_item_and_the_negatives(self, published):
        blank = read_published(published[0]).blanks["test"][1]
        assert (blank.outfit.item_ids, blank.slot, blank.true_item_id) == ((9, None, 3, 5), 1, 1)
        assert blank.negative_item_ids == (6, 7, 8, 2)

    def test_blanks_follow_their_file_and_not_the_order_of_the_complete_outfits(self, published):
        folder, write_index = published
        rows = {
            "uids": [1, 0],
            "oids": [31, 30],
            "outfits": [[9, 0, 3, 5], [2, 0, 6, 9]],
            "category": [[35, 0, 3, 12]] * 2,
        }
        write_index("fitb_test.npy", rows)
        assert [blank.true_item_id for blank in read_published(folder).blanks["test"]] == [1, 3]

    def test_gives_every_users_history_per_category(self, published):
        history = read_published(published[0]).history("test")
        assert history.of(0, 0) == (2, 1)
        assert history.of(1, 35) == ()

    def test_leaves_the_blank_out_of_histories(self, published):
        folder, write_index = published
        write_index("train_history.npy", {0: {0: [0, 2], 3: [0]}})
        history = read_published(folder).history("train")
        assert history.of(0, 0) == (2,)
        assert history.categories_of(0) == (0,)

    def test_gor_tasks_are_outfits_with_every_slot_empty(self, published):
        (task,) = read_published(published[0]).gor_tasks("valid")
        assert task.empty_slots == (0, 1, 2, 3)

    def test_pants_and_earrings_come_in_pairs_and_boots_do_not(self, published):
        categories = read_published(published[0]).categories
        assert {key for key, category in categories.items() if category.is_paired} == {3, 12}

    def test_is_named_after_its_folder_unless_told_otherwise(self, published):
        assert read_published(published[0]).name == "small-u"
        assert read_published(published[0], name="other").name == "other"

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("map/mapped_iid_cate_dict.npy", ITEM_CATEGORIES),
            ("map/cate_iid_dict.npy", {0: [1, 2], 3: [3, 4], 12: [5, 6], 35: [7, 8, 9]}),
        ],
    )
    def test_accepts_the_other_files_that_say_which_item_is_of_which_category(self, published, name, content):
        folder, write_index = published
        (folder / "map/iid_cate_dict.npy").unlink()
        write_index(name, content)
        assert read_published(folder).catalogue.item(9).category_id == 35

    def test_accepts_the_other_name_of_the_category_file(self, published):
        folder, _ = published
        (folder / "id_cate_dict.npy").rename(folder / "new_id_cate_dict.npy")
        assert read_published(folder).categories[0].name == CATEGORIES[0]


def table(**changes):
    return {"uids": [0], "oids": [1], "outfits": [[1, 3, 5, 7]], "category": [[0, 3, 12, 35]]} | changes


class TestAContradiction:
    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("train.npy", {"uids": [0], "oids": [1]}, "lacks category, outfits"),
            ("train.npy", [1, 2], "expected a dict, got list"),
            ("train.npy", table(outfits=[[1, 3, 5, 99]]), "1 item ids are not in the index of this data set: 99"),
            ("train.npy", table(outfits=[[0, 3, 5, 7]]), "1 item ids are not in the index of this data set: 0"),
            ("train.npy", table(category=[[0, 3, 12, 77]]), "1 category ids are not .* 77"),
            ("train.npy", table(oids=[1, 2]), "do not match in shape"),
            ("train.npy", table(outfits=[[1, 3], [1]]), "the rows of outfits differ in length"),
            ("train.npy", table(outfits=[[1]], category=[[0]]), "2 to 8 items, got 1"),
            ("train.npy", table(uids=["a"]), "uids must be ids"),
            ("fitb_valid.npy", table(oids=[20], outfits=[[1, 4, 5, 8]]), "exactly one blank"),
            ("fitb_valid.npy", table(oids=[20], outfits=[[2, 0, 5, 8]]), "items differ from those in valid_grd_dict"),
            ("fitb_valid.npy", table(oids=[99], outfits=[[1, 0, 5, 8]]), "user 0 has no outfit 99"),
            ("fitb_valid_retrieval_candidates.npy", {0: {}}, "lacks the candidates of user or outfit 20"),
            ("fitb_valid_retrieval_candidates.npy", {0: {20: [1, 4, 5]}}, "first candidate"),
            ("fitb_valid_retrieval_candidates.npy", {0: {20: [4, 99]}}, "1 item ids .* 99"),
            ("valid_history.npy", {0: [1, 2]}, "expected a dict, got list"),
            ("valid_history.npy", {0: {0: 5}}, "expected {user id"),
            ("valid_history.npy", {"a": {0: [5]}}, "user ids must be ids"),
            ("valid_history.npy", {0: {77: [5]}}, "1 category ids .* 77"),
            ("valid_history.npy", {0: {0: [99]}}, "1 item ids .* 99"),
            ("id_cate_dict.npy", {0: 1}, "expected {category id: name}"),
            ("map/iid_cate_dict.npy", {1: 77}, r"categories without a name: \[77\]"),
        ],
    )
    def test_is_refused_by_the_file_that_has_it(self, published, name, content, problem):
        folder, write_index = published
        path = write_index(name, content if isinstance(content, dict) else np.array(content))
        with pytest.raises(DataFileError, match=problem) as caught:
            read_published(folder)
        assert caught.value.path == path

    @pytest.mark.parametrize("name", ["train.npy", "test_history.npy", "fitb_valid_retrieval_candidates.npy"])
    def test_a_missing_file_is_named(self, published, name):
        (published[0] / name).unlink()
        with pytest.raises(DataFileError, match=f"{name}: cannot be read"):
            read_published(published[0])

    def test_a_folder_of_something_else_is_told_what_was_expected(self, tmp_path):
        with pytest.raises(DataFileError, match=r"no published data set.*iid_cate_dict\.npy"):
            read_published(tmp_path)


class TestPublishedCatalogue:
    def test_is_a_catalogue(self, published):
        assert isinstance(read_published(published[0]).catalogue, Catalogue)

    def test_holds_the_items_without_the_blank(self, published):
        catalogue = read_published(published[0]).catalogue
        assert catalogue.item_ids() == tuple(range(1, 10))
        with pytest.raises(UnknownItem, match="item 0 is not in the catalogue 'small-u'"):
            catalogue.item(0)

    def test_reads_pictures_at_the_size_asked_for(self, published, pictures):
        catalogue = read_published(published[0], images=pictures, image_size=24).catalogue
        assert catalogue.image(4).shape == (24, 24, 3)
        assert tuple(catalogue.image(4)[12, 12]) == colour_of(4)

    def test_finds_pictures_beside_the_index(self, published, pictures):
        pictures.rename(published[0] / "images")
        assert tuple(read_published(published[0]).catalogue.image(4)[0, 0]) == colour_of(4)

    def test_is_512_pixels_wide_by_default(self, published):
        assert read_published(published[0]).catalogue.image_size == 512

    @pytest.mark.parametrize("as_dict", [False, True])
    def test_takes_paths_as_objects_or_by_item_id(self, published, pictures, as_dict):
        paths = {item_id: f"{item_id % 2}/{item_id}.png" for item_id in ITEM_CATEGORIES}
        listed = np.array(paths if as_dict else [None, *paths.values()], dtype=object)
        np.save(published[0] / "all_item_image_paths.npy", listed, allow_pickle=True)
        assert read_published(published[0], images=pictures).catalogue.image(9).shape == (512, 512, 3)

    def test_without_pictures_says_so_when_one_is_needed(self, published):
        with pytest.raises(MissingImages, match=r"no image folder was given; .* images, .*item 4"):
            read_published(published[0]).catalogue.image(4)

    def test_counts_and_names_the_pictures_that_are_missing(self, published, pictures):
        for item_id in (2, 5):
            (pictures / f"{item_id % 2}/{item_id}.png").unlink()
        catalogue = PublishedCatalogue.open(published[0], pictures, name="small-u")
        with pytest.raises(
            MissingImages, match=r"2 item images are missing under .*: item 2 \(0/2\.png\), item 5 \(1/5"
        ):
            catalogue.check_images()
        with pytest.raises(MissingImages, match="1 item images"):
            catalogue.image(5)
        catalogue.check_images([1, 3])

    def test_needs_the_list_of_picture_paths(self, published, pictures):
        (pictures / "all_item_image_paths.npy").unlink()
        with pytest.raises(DataFileError, match=r"all_item_image_paths\.npy: cannot be read"):
            read_published(published[0], images=pictures)

    @pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a\\..\\b.png"])
    def test_refuses_picture_paths_that_leave_the_folder(self, published, pictures, path):
        np.save(pictures / "all_item_image_paths.npy", np.array(["empty_image.png", path]))
        with pytest.raises(DataFileError, match="1 pictures would lie outside the image folder"):
            read_published(published[0], images=pictures)

    def test_refuses_a_list_of_anything_but_paths(self, published, pictures):
        np.save(pictures / "all_item_image_paths.npy", np.arange(3))
        with pytest.raises(DataFileError, match="expected a list of picture paths"):
            read_published(published[0], images=pictures)

    def test_refuses_an_image_folder_that_is_not_there(self, published, tmp_path):
        with pytest.raises(InvalidInput, match="no such image folder"):
            read_published(published[0], images=tmp_path / "absent")


class TestPolyvoreU:
    def test_has_the_published_number_of_outfits(self, polyvore_u):
        assert {split: len(polyvore_u.split(split)) for split in polyvore_u.outfits} == {
            "train": 26_921,
            "valid": 3_356,
            "test": 3_631,
        }

    def test_has_the_published_number_of_users_items_and_categories(self, polyvore_u):
        assert len({outfit.user_id for outfit in polyvore_u.split("train")}) == 517
        assert len(polyvore_u.catalogue.item_ids()) == 119_202
        assert len(polyvore_u.categories) == 50

    def test_every_held_out_outfit_has_a_blank_with_four_negatives(self, polyvore_u):
        for split in ("valid", "test"):
            blanks = polyvore_u.blanks[split]
            assert [blank.outfit.outfit_id for blank in blanks] == [o.outfit_id for o in polyvore_u.split(split)]
            assert {len({blank.true_item_id, *blank.negative_item_ids}) for blank in blanks} == {5}

    def test_categories_of_outfits_agree_with_those_of_their_items(self, polyvore_u):
        category_of = {
            item_id: polyvore_u.catalogue.item(item_id).category_id for item_id in polyvore_u.catalogue.item_ids()
        }
        for outfits in polyvore_u.outfits.values():
            assert all(tuple(category_of[i] for i in o.item_ids) == o.category_ids for o in outfits)

    def test_histories_hold_ten_items_of_a_category_at_most(self, polyvore_u):
        history = polyvore_u.history("train")
        lengths = [len(history.of(u, c)) for u in history.user_ids for c in history.categories_of(u)]
        assert (len(history.user_ids), max(lengths), sum(lengths)) == (517, 10, 72_529)

    def test_what_comes_in_pairs(self, polyvore_u):
        names = {category.name for category in polyvore_u.categories.values() if category.is_paired}
        assert names == {"earrings", "women's casual pants", "men's casual pants"}

    def test_the_files_it_leaves_out_say_nothing_new(self, polyvore_u, polyvore_u_folder):
        for split in ("valid", "test"):
            complete = read_mapping(polyvore_u_folder / f"{split}_grd.npy")
            emptied = read_mapping(polyvore_u_folder / f"fitb_{split}_dict.npy")
            for outfit, blank in zip(polyvore_u.split(split), polyvore_u.blanks[split], strict=True):
                assert tuple(complete[outfit.outfit_id]["outfits"]) == outfit.item_ids
                assert emptied[outfit.user_id][outfit.outfit_id] == [i or 0 for i in blank.outfit.item_ids]
