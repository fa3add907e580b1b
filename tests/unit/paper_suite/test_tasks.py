"""Which outfits are completed, and from which wrong items the true one is to be told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.mini import world_data_set
from fashiondpo.outfits.model import Blank, DataSet
from fashiondpo.paper_suite.tasks import WRONG_ITEMS, has_own_wrong_items, paper_tasks, reference_item_ids
from tests.unit.judges.small_world import world


@pytest.fixture(scope="module")
def data() -> DataSet:
    return world_data_set(world())


class TestPFITB:
    def test_empties_one_slot_and_knows_what_was_there(self, data: DataSet):
        outfits = {(o.user_id, o.outfit_id): o for o in data.split("valid")}
        for task in paper_tasks(data, "valid", "pfitb", 20, seed=0):
            assert task.outfit.empty_slots == task.slots
            assert len(task.slots) == 1
            assert task.complete == outfits[task.outfit.user_id, task.outfit.outfit_id]

    def test_are_the_blanks_of_the_split(self, data: DataSet):
        tasks = paper_tasks(data, "valid", "pfitb", 20, seed=3)
        assert [task.outfit for task in tasks] == [blank.outfit for blank in data.blanks_of("valid", 20, seed=3)]

    def test_takes_the_wrong_items_that_the_data_set_names(self, data: DataSet):
        outfit = data.split("valid")[0]
        true_item = outfit.given_item_ids[2]
        named = replace(data, blanks={"valid": [Blank(outfit.without(2), 2, true_item, (7, 8, 9, 10))]})
        assert paper_tasks(named, "valid", "pfitb", 1, seed=0)[0].wrong_item_ids == {2: (7, 8, 9, 10)}
        assert has_own_wrong_items(named, "valid")
        assert not has_own_wrong_items(data, "valid")


class TestGOR:
    def test_empties_every_slot_of_the_same_outfits(self, data: DataSet):
        single, whole = (paper_tasks(data, "valid", task, 20, seed=0) for task in ("pfitb", "gor"))
        for one, all_slots in zip(single, whole, strict=True):
            assert all_slots.complete == one.complete
            assert all_slots.outfit.given_items == ()
            assert all_slots.slots == (0, 1, 2, 3)


class TestWrongItems:
    @pytest.mark.parametrize("kind", ["pfitb", "gor"])
    def test_are_four_others_of_the_same_category_in_the_split(self, data: DataSet, kind):
        worn = {item for outfit in data.split("valid") for item in outfit.given_item_ids}
        tasks = paper_tasks(data, "valid", kind, 20, seed=0)
        drawn = [(task, slot, wrong) for task in tasks for slot, wrong in task.wrong_item_ids.items() if wrong]
        assert len(drawn) > 10
        for task, slot, wrong in drawn:
            assert len(set(wrong)) == WRONG_ITEMS
            assert task.true_item_ids[slot] not in wrong
            assert set(wrong) <= worn
            assert {data.catalogue.item(item).category_id for item in wrong} == {task.outfit.category_ids[slot]}

    def test_are_none_where_the_category_has_too_few(self, data: DataSet):
        few = replace(data, outfits={"valid": data.split("valid")[:2]})
        assert all(
            wrong == () for t in paper_tasks(few, "valid", "gor", 2, seed=0) for wrong in t.wrong_item_ids.values()
        )

    def test_follow_from_the_seed(self, data: DataSet):
        one, again, other = (paper_tasks(data, "valid", "gor", 36, seed=seed) for seed in (1, 1, 2))
        assert one == again
        by_outfit = {task.outfit.outfit_id: task.wrong_item_ids for task in other}
        assert any(task.wrong_item_ids != by_outfit[task.outfit.outfit_id] for task in one)


class TestPolyvoreU:
    def test_brings_its_own_wrong_items_for_pfitb_and_none_for_gor(self, polyvore_u: DataSet):
        own = {(b.outfit.outfit_id, b.slot): b.negative_item_ids for b in polyvore_u.blanks["test"]}
        for task in paper_tasks(polyvore_u, "test", "pfitb", 200, seed=0):
            ((slot, wrong),) = task.wrong_item_ids.items()
            assert wrong == own[task.outfit.outfit_id, slot]
        for task in paper_tasks(polyvore_u, "test", "gor", 50, seed=0):
            for slot, wrong in task.wrong_item_ids.items():
                categories = {polyvore_u.catalogue.item(item).category_id for item in wrong}
                assert categories <= {task.outfit.category_ids[slot]}


class TestReference:
    def test_is_every_item_of_the_split_once(self, data: DataSet):
        found = reference_item_ids(data, "valid", seed=0)
        assert found == sorted({item for outfit in data.split("valid") for item in outfit.given_item_ids})

    def test_is_a_seeded_selection_of_more(self, data: DataSet):
        one, again, other = (reference_item_ids(data, "valid", seed=seed, most=9) for seed in (0, 0, 1))
        assert one == again != other
        assert len(set(one)) == 9


class TestPaperTasks:
    def test_refuse_more_outfits_than_there_are(self, data: DataSet):
        with pytest.raises(InvalidInput, match="999 outfits were asked for"):
            paper_tasks(data, "valid", "gor", 999, seed=0)
