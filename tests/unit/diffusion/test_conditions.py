from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fashiondpo.contracts import GuidanceScales, Outfit, SamplerSettings
from fashiondpo.diffusion import conditions as conditions_module
from fashiondpo.diffusion.conditions import (
    ConditionEncoder,
    category_prompt,
    condition_rows,
    mixed_latents,
    reduced_latents,
)
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.errors import InvalidInput, UnknownItem
from fashiondpo.outfits.images import white_image
from fashiondpo.outfits.model import Category, DataSet, History, Image, Item
from tests.tiny_models import TINY_SAMPLER, random_conditions

LEGACY = TINY_SAMPLER.model_copy(update={"legacy_null_history": True})
SUMMED = TINY_SAMPLER.model_copy(update={"mutual_reduction": "sum"})
HALF = TINY_SAMPLER.model_copy(update={"state_dtype": "float16"})
REF = f"{'a' * 64}.png"


class CountingCatalogue:
    """A catalogue that remembers which pictures it was asked for."""

    def __init__(self, outfits: DataSet) -> None:
        self.inner, self.asked = outfits.catalogue, list[int]()
        self.name, self.image_size = self.inner.name, self.inner.image_size

    def item(self, item_id: int) -> Item:
        return self.inner.item(item_id)

    def image(self, item_id: int) -> Image:
        self.asked.append(item_id)
        return self.inner.image(item_id)

    def item_ids(self) -> list[int]:
        return list(self.inner.item_ids())


@pytest.fixture
def blank(outfits: DataSet) -> Outfit:
    """An outfit whose third slot, the shoes, is empty."""
    return outfits.split("train")[0].without(2)


@pytest.fixture
def history(outfits: DataSet) -> History:
    return outfits.history("train")


def encoded_alone(bundle: DiFashion, outfits: DataSet, item_ids: tuple[int, ...]) -> torch.Tensor:
    return torch.cat([bundle.encode_images([outfits.catalogue.image(item_id)]) for item_id in item_ids])


class TestCategoryPrompt:
    def test_is_the_published_sentence(self):
        expected = "A photo of a handbag, on white background, high quality"
        assert category_prompt(Category(3, "handbag")) == expected

    def test_speaks_of_a_pair_of_what_is_worn_in_pairs(self):
        expected = "A photo of a pair of sandals, on white background, high quality"
        assert category_prompt(Category(3, "sandals", is_paired=True)) == expected


class TestMixedLatents:
    def test_shares_are_given_row_by_row(self):
        latents, mutual = torch.full((3, 4, 2, 2), 2.0), torch.full((3, 4, 2, 2), 10.0)
        mixed = mixed_latents(latents, mutual, torch.tensor([0.0, 0.1, 0.5]))
        assert_close(mixed[:, 0, 0, 0], torch.tensor([2.0, 0.9 * 2 + 0.1 * 10, 6.0]))

    def test_at_weight_zero_leaves_the_latents_exactly_alone(self):
        latents = torch.randn(2, 4, 2, 2)
        assert torch.equal(mixed_latents(latents, torch.randn(2, 4, 2, 2), torch.zeros(2)), latents)

    def test_keeps_the_type_of_the_latents(self):
        latents = torch.zeros(2, 4, 2, 2, dtype=torch.float64)
        assert mixed_latents(latents, latents, torch.tensor([0.1, 0.2])).dtype == torch.float64


class TestReducedLatents:
    def test_is_the_mean_or_the_sum_over_items(self):
        items = torch.stack([torch.full((4, 2, 2), 1.0), torch.full((4, 2, 2), 5.0)])
        assert_close(reduced_latents(items, "mean"), torch.full((4, 2, 2), 3.0))
        assert_close(reduced_latents(items, "sum"), torch.full((4, 2, 2), 6.0))


class TestConditions:
    def test_rounding_twice_is_rounding_once(self):
        once = random_conditions().rounded(torch.float16)
        twice = once.rounded(torch.float16)
        assert all(torch.equal(value, vars(twice)[name]) for name, value in vars(once).items())

    def test_rounded_survive_being_stored_in_that_type(self):
        rounded = random_conditions().rounded(torch.float16)
        assert all(torch.equal(value.half().float(), value) for value in vars(rounded).values())
        assert not torch.equal(rounded.history_latents, random_conditions().history_latents)

    def test_rounding_to_their_own_type_changes_nothing(self):
        rounded = random_conditions().rounded(torch.float32)
        assert all(torch.equal(value, vars(rounded)[name]) for name, value in vars(random_conditions()).items())

    @pytest.mark.parametrize("name", ["mutual_latents", "history_latents", "null_latents"])
    def test_refuse_latents_of_different_shapes(self, name):
        with pytest.raises(ValueError, match="latents of conditions differ in shape"):
            replace(random_conditions(), **{name: torch.zeros(4, 2, 2)})

    @pytest.mark.parametrize("shape", [(24, 15), (23, 16), (16,)])
    def test_refuse_prompts_of_different_shapes(self, shape):
        with pytest.raises(ValueError, match=r"two of one shape \(l, d\)"):
            replace(random_conditions(), prompt_embeds=torch.zeros(shape))


class TestConditionRows:
    def test_put_every_part_in_its_place(self):
        first, second = random_conditions(1), random_conditions(2)
        settings = SamplerSettings(guidance=GuidanceScales(category=3, mutual=2, history=1), mutual_weight=0.25)
        rows = condition_rows([first, second], settings, torch.device("cpu"))
        assert torch.equal(rows.prompt_embeds[0, 1], second.null_prompt_embeds)
        assert torch.equal(rows.prompt_embeds[1, 0], first.prompt_embeds)
        for name in ("mutual_latents", "history_latents", "null_latents"):
            assert torch.equal(getattr(rows, name), torch.stack([getattr(first, name), getattr(second, name)]))
        assert rows.scales.tolist() == [[3, 2, 1]] * 2
        assert rows.mutual_weight.tolist() == [0.25] * 2

    def test_with_other_mutual_latents_keep_the_rest(self):
        rows = condition_rows([random_conditions()], TINY_SAMPLER, torch.device("cpu"))
        other = rows.with_mutual(torch.zeros_like(rows.mutual_latents))
        assert (other.mutual_latents == 0).all()
        assert other.history_latents is rows.history_latents


class TestConditionEncoder:
    def test_null_latents_are_those_of_the_white_picture(self, bundle, encoder):
        assert torch.equal(encoder.null_latents, bundle.encode_images([white_image(32)])[0])

    def test_history_is_the_mean_over_the_users_items_of_the_category(self, bundle, encoder, outfits, history, blank):
        items = history.of(blank.user_id, blank.category_ids[2])
        assert len(items) > 1
        made = encoder.encode(blank, 2, history, TINY_SAMPLER).history_latents
        assert_close(made, encoded_alone(bundle, outfits, items).mean(0), rtol=1e-4, atol=1e-5)

    def test_history_may_be_given_as_items(self, encoder, history, blank):
        items = history.of(blank.user_id, blank.category_ids[2])
        by_items = encoder.encode(blank, 2, items, TINY_SAMPLER)
        by_history = encoder.encode(blank, 2, history, TINY_SAMPLER)
        assert torch.equal(by_items.history_latents, by_history.history_latents)

    def test_without_history_the_condition_is_the_null_latents(self, encoder, blank):
        assert torch.equal(encoder.encode(blank, 2, History({}), TINY_SAMPLER).history_latents, encoder.null_latents)

    def test_as_the_released_weights_were_trained_the_history_is_ignored(self, encoder, history, blank):
        assert torch.equal(encoder.encode(blank, 2, history, LEGACY).history_latents, encoder.null_latents)

    @pytest.mark.parametrize(("settings", "reduction"), [(TINY_SAMPLER, torch.mean), (SUMMED, torch.sum)])
    def test_mutual_is_the_encoding_of_the_other_items(
        self, bundle, encoder, outfits, history, blank, settings, reduction
    ):
        others = encoded_alone(bundle, outfits, blank.given_item_ids)
        assert len(others) == 3
        with torch.no_grad():
            expected = bundle.mutual_encoder(reduction(others, 0)[None])[0]
        assert_close(encoder.encode(blank, 2, history, settings).mutual_latents, expected, rtol=1e-4, atol=1e-5)

    def test_without_other_items_mutual_is_the_null_latents(self, encoder, blank):
        made = encoder.encode(blank.without(0, 1, 3), 2, (), TINY_SAMPLER)
        assert torch.equal(made.mutual_latents, encoder.null_latents)

    def test_prompt_is_the_category_of_the_empty_slot(self, bundle, encoder, blank):
        made = encoder.encode(blank, 2, (), TINY_SAMPLER)
        sentence = category_prompt(bundle.categories[blank.category_ids[2]])
        assert_close((made.prompt_embeds, made.null_prompt_embeds), tuple(bundle.encode_prompts([sentence, ""])))

    def test_given_pictures_stand_in_their_slots_among_the_catalogues_items(self, bundle, encoder, outfits, blank):
        picture, outfit = white_image(32) // 3, blank.without(1).model_copy(update={"item_images": {1: REF}})
        given = encoder.given_latents(outfit, {REF: picture})
        assert_close(given[[0, 2]], encoded_alone(bundle, outfits, outfit.given_item_ids), rtol=1e-4, atol=1e-5)
        assert torch.equal(given[1], bundle.encode_images([picture])[0])

    def test_history_may_hold_pictures(self, bundle, encoder, outfits, blank):
        picture = white_image(32) // 3
        made = encoder.encode(blank, 2, (5, REF), TINY_SAMPLER, pictures={REF: picture}).history_latents
        both = torch.cat([encoded_alone(bundle, outfits, (5,)), bundle.encode_images([picture])])
        assert_close(made, both.mean(0), rtol=1e-4, atol=1e-5)

    def test_names_a_picture_that_was_not_given(self, encoder, blank):
        with pytest.raises(InvalidInput, match=f"the picture {REF} of a garment was not given"):
            encoder.encode(blank, 2, (REF,), TINY_SAMPLER)

    def test_refuses_a_catalogue_of_another_size_and_says_what_to_do(self, bundle, outfits):
        larger = CountingCatalogue(outfits)
        larger.image_size = 64
        with pytest.raises(InvalidInput, match=r"are 64 px wide, but this bundle is for 32 px: .* --size-px 32"):
            ConditionEncoder(bundle, larger, outfits.categories)

    def test_refuses_a_picture_of_another_size(self, encoder, blank):
        with pytest.raises(InvalidInput, match=r"must have shape \(32, 32, 3\), got \(31, 31, 3\)"):
            encoder.encode(blank, 2, (REF,), TINY_SAMPLER, pictures={REF: white_image(31)})

    def test_an_items_latents_do_not_depend_on_what_is_encoded_with_it(self, bundle, outfits):
        alone, together = (ConditionEncoder(bundle, outfits.catalogue, outfits.categories) for _ in range(2))
        together.item_latents(range(1, 9))
        assert all(torch.equal(alone.item_latents([item]), together.item_latents([item])) for item in range(1, 9))

    def test_rounds_conditions_to_the_type_in_which_they_are_stored(self, encoder, history, blank):
        made = encoder.encode(blank, 2, history, HALF)
        assert all(torch.equal(value.half().float(), value) for value in vars(made).values())

    def test_refuses_a_slot_that_is_not_empty(self, encoder, blank):
        with pytest.raises(InvalidInput, match=rf"slot 1 of outfit {blank.outfit_id} is not empty; empty: \(2,\)"):
            encoder.encode(blank, 1, (), TINY_SAMPLER)

    def test_refuses_an_unknown_category_and_names_the_known(self, encoder, blank):
        stranger = blank.model_copy(update={"category_ids": (0, 1, 99, 8)})
        with pytest.raises(InvalidInput, match=r"category 99 is unknown; known are \[0, 1, 2"):
            encoder.encode(stranger, 2, (), TINY_SAMPLER)

    def test_names_an_item_that_is_not_in_the_catalogue(self, encoder, blank):
        with pytest.raises(UnknownItem, match="item 999999"):
            encoder.encode(blank, 2, (999_999,), TINY_SAMPLER)

    def test_looks_at_a_picture_once(self, bundle, outfits):
        catalogue = CountingCatalogue(outfits)
        encoder = ConditionEncoder(bundle, catalogue, outfits.categories)
        first = encoder.item_latents([1, 2, 1])
        assert torch.equal(encoder.item_latents([1, 2]), first[:2])
        assert torch.equal(first[0], first[2])
        assert catalogue.asked == [1, 2]

    def test_forgets_the_oldest_items_before_it_grows_too_large(self, bundle, outfits, monkeypatch):
        monkeypatch.setattr(conditions_module, "_CACHED_LATENTS", 8)
        catalogue = CountingCatalogue(outfits)
        encoder = ConditionEncoder(bundle, catalogue, outfits.categories)
        item_ids = list(range(1, 21))
        first, again = encoder.item_latents(item_ids), encoder.item_latents(item_ids)
        assert catalogue.asked == [*item_ids, *range(1, 13)]
        assert_close(first, again, rtol=1e-4, atol=1e-5)
        encoder.item_latents(range(13, 21))
        assert len(catalogue.asked) == 40  # the twelve looked at last pushed the others out
