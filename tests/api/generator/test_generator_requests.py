"""What a body of POST /generate says, spelt out."""

import base64

import numpy as np
import pytest

from fashiondpo.contracts import GuidanceScales, SamplerSettings, candidate_seed
from fashiondpo.errors import InvalidInput, NotFound, TooLarge, UnknownItem
from fashiondpo.messages import GenerateRequest, GuidanceChoice, SamplerChoice
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.storage.artifacts import MemoryArtifacts
from services.generator.picture_reader import StoredPictureReader
from services.generator.request_reading import RequestReader, chosen_settings
from tests.tiny_rounds import SLOTS, Squares

OWN = SamplerSettings(num_inference_steps=16, guidance=GuidanceScales(category=3, mutual=2, history=1))


def picture(side: int = 40) -> bytes:
    image = np.full((side, side, 3), 200, np.uint8)
    image[: side // 2] = (10, 20, 30)
    return encode_png(image)


def asked(*slots: dict, **more) -> GenerateRequest:
    request = {k: more.pop(k) for k in list(more) if k in GenerateRequest.model_fields}
    return GenerateRequest.model_validate({**request, "outfits": [{"user_id": 1, "slots": slots, **more}]})


@pytest.fixture
def artifacts():
    return MemoryArtifacts()


@pytest.fixture
def reader(artifacts):
    return RequestReader(Squares(), CATEGORIES, StoredPictureReader(artifacts, size_px=32, max_px=10_000))


class TestOutfitsOfARequest:
    def test_items_bring_their_category(self, reader):
        (plan,) = reader.outfits(asked({"item_id": 6}, {"category_id": 8}), prefix="g")
        assert plan.outfit.item_ids == (6, None)
        assert plan.outfit.category_ids == (SLOTS[6 % 4], 8)

    def test_seeds_are_those_of_a_round_with_number_zero(self, reader):
        request = asked({"item_id": 6}, {"category_id": 8}, seed=5, num_candidates=3, outfit_id=40)
        (plan,) = reader.outfits(request, prefix="g")
        assert plan.seeds == (tuple(candidate_seed(5, 0, 40, 1, k) for k in range(3)),)

    def test_outfits_without_a_number_take_their_position(self, reader):
        outfit = {"user_id": 1, "slots": [{"item_id": 6}, {"category_id": 8}]}
        plans = reader.outfits(GenerateRequest.model_validate({"outfits": [outfit, outfit]}), prefix="g")
        assert [plan.outfit.outfit_id for plan in plans] == [0, 1]
        assert plans[0].seeds != plans[1].seeds

    def test_given_seeds_are_taken_as_they_are(self, reader):
        (plan,) = reader.outfits(asked({"item_id": 6}, {"category_id": 8}, seeds=[[1, 2**62]]), prefix="g")
        assert plan.seeds == ((1, 2**62),)

    def test_a_set_is_named_after_generation_and_position_unless_the_request_names_it(self, reader):
        slots = {"item_id": 6}, {"category_id": 8}
        assert reader.outfits(asked(*slots), prefix="g")[0].set_ids == ("g-0",)
        assert reader.outfits(asked(*slots, set_id="mine"), prefix="g")[0].set_ids == ("mine",)

    def test_slots_painted_together_get_a_set_each_with_the_slot_in_its_name(self, reader):
        (plan,) = reader.outfits(asked({"category_id": 1}, {"item_id": 6}, {"category_id": 8}, set_id="o"), prefix="g")
        assert plan.set_ids == ("o-0", "o-2")
        assert len(plan.seeds) == 2

    def test_names_used_twice_are_refused(self, reader):
        outfit = {"user_id": 1, "slots": [{"item_id": 6}, {"category_id": 8}], "set_id": "same"}
        with pytest.raises(InvalidInput, match=r"used twice.*same"):
            reader.outfits(GenerateRequest.model_validate({"outfits": [outfit, outfit]}), prefix="g")

    def test_a_name_that_grows_too_long_is_refused(self, reader):
        request = asked({"category_id": 1}, {"category_id": 8}, set_id="x" * 128)
        with pytest.raises(InvalidInput, match="too long"):
            reader.outfits(request, prefix="g")

    def test_an_unknown_item_is_named(self, reader):
        with pytest.raises(UnknownItem, match="item 99"):
            reader.outfits(asked({"item_id": 99}, {"category_id": 8}), prefix="g")

    def test_an_unknown_category_is_named_with_its_place(self, reader):
        with pytest.raises(InvalidInput, match=r"outfits\[0\]\.slots\[1\].*category 77"):
            reader.outfits(asked({"item_id": 6}, {"category_id": 77}), prefix="g")

    def test_a_category_that_contradicts_the_item_is_refused(self, reader):
        with pytest.raises(InvalidInput, match="item 6 is of category 5, not of 1"):
            reader.outfits(asked({"item_id": 6, "category_id": 1}, {"category_id": 8}), prefix="g")

    def test_without_a_history_the_catalogue_is_asked(self, reader):
        (plan,) = reader.outfits(asked({"item_id": 6}, {"category_id": 8}), prefix="g")
        assert plan.history is None

    def test_a_history_may_mix_items_and_pictures(self, reader, artifacts):
        ref = artifacts.put(picture(), "png")
        request = asked({"item_id": 6}, {"category_id": 8}, history={"8": [{"item_id": 3}, {"artifact": ref}]})
        (plan,) = reader.outfits(request, prefix="g")
        assert plan.history == {8: (3, ref)}
        assert plan.pictures[ref].shape == (32, 32, 3)

    def test_a_history_without_end_is_refused(self, reader):
        request = asked({"item_id": 6}, {"category_id": 8}, history={"8": [{"item_id": 3}] * 2000})
        with pytest.raises(TooLarge, match="history"):
            reader.outfits(request, prefix="g")


class TestPicturesOfARequest:
    def test_are_fitted_for_the_generator_and_stored_as_they_came(self, reader, artifacts):
        sent = {"category_id": 1, "image": base64.b64encode(picture(40)).decode()}
        (plan,) = reader.outfits(asked(sent, {"category_id": 8}), prefix="g")
        (ref,) = plan.outfit.item_images.values()
        assert plan.pictures[ref].shape == (32, 32, 3)
        assert artifacts.get(ref) == picture(40)

    def test_that_are_stored_already_are_found_by_reference(self, reader, artifacts):
        ref = artifacts.put(picture(), "png")
        (plan,) = reader.outfits(asked({"category_id": 1, "artifact": ref}, {"category_id": 8}), prefix="g")
        assert plan.outfit.item_images == {0: ref}

    def test_that_nobody_stored_are_not_found_and_the_store_stays_unnamed(self, reader):
        with pytest.raises(NotFound, match=r"^there is no artifact 0+\.png$"):
            reader.outfits(asked({"category_id": 1, "artifact": f"{'0' * 64}.png"}, {"category_id": 8}), prefix="g")

    def test_that_are_none_are_refused_with_their_place(self, reader):
        sent = {"category_id": 1, "image": base64.b64encode(b"no picture").decode()}
        with pytest.raises(InvalidInput, match=r"outfits\[0\]\.slots\[0\]"):
            reader.outfits(asked(sent, {"category_id": 8}), prefix="g")

    def test_with_too_many_pixels_are_refused(self, reader):
        sent = {"category_id": 1, "image": base64.b64encode(picture(101)).decode()}
        with pytest.raises(TooLarge):
            reader.outfits(asked(sent, {"category_id": 8}), prefix="g")


class TestARequestSpeltOut:
    def test_says_the_same_again_and_carries_no_picture(self, reader):
        sent = {"category_id": 1, "image": base64.b64encode(picture()).decode()}
        request = asked(sent, {"category_id": 8}, {"category_id": 5}, seed=3, history={"8": [{"item_id": 3}]})
        plans = reader.outfits(request, prefix="g")
        again = request.model_copy(update={"outfits": tuple(plan.asked_again() for plan in plans)})
        assert "image" not in again.model_dump_json(exclude_none=True)
        found = reader.outfits(GenerateRequest.model_validate_json(again.model_dump_json()), prefix="other")
        assert [(p.outfit, p.set_ids, p.seeds, p.history) for p in found] == [
            (p.outfit, p.set_ids, p.seeds, p.history) for p in plans
        ]


class TestChosenSettings:
    def test_are_the_generators_own_where_nothing_is_chosen(self):
        assert chosen_settings(OWN, SamplerChoice()) == OWN

    def test_differ_only_in_what_was_chosen(self):
        choice = SamplerChoice(num_inference_steps=4, guidance=GuidanceChoice(mutual=0.5), state_dtype="float32")
        assert chosen_settings(OWN, choice) == OWN.model_copy(
            update={
                "num_inference_steps": 4,
                "guidance": GuidanceScales(category=3, mutual=0.5, history=1),
                "state_dtype": "float32",
            }
        )

    def test_refuse_a_generator_whose_own_steps_have_no_density(self):
        still = OWN.model_copy(update={"ddim_eta": 0.0})
        with pytest.raises(InvalidInput, match="ddim_eta"):
            chosen_settings(still, SamplerChoice())
        assert chosen_settings(still, SamplerChoice(ddim_eta=0.5)).ddim_eta == 0.5
