from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.judges.base import JudgeInput
from fashiondpo.judges.held_out import CRITIC_CLASSES, HeldOutConfig, HeldOutJudge, HeldOutNet
from fashiondpo.judges.weights import save_module
from fashiondpo.outfits.colour import is_harmonious
from fashiondpo.outfits.images import white_image
from fashiondpo.outfits.mini import MiniCatalogue
from fashiondpo.outfits.model import DataSet
from tests.unit.judges.small_world import garment


class Says(HeldOutNet):
    """Names the same category for every picture."""

    def __init__(self, category: int) -> None:
        super().__init__(HeldOutConfig(width=8))
        torch.nn.init.zeros_(self.head[-1].weight)
        self.head[-1].bias.data = torch.nn.functional.one_hot(torch.tensor(category), 10).float()


@pytest.fixture
def catalogue(data: DataSet) -> MiniCatalogue:
    assert isinstance(data.catalogue, MiniCatalogue)
    return data.catalogue


def true_inputs(data: DataSet, count: int = 40) -> tuple[list[JudgeInput], list[int]]:
    """Blanks of the mini world filled with the very items that were there."""
    blanks = data.blanks_of("train", count)
    inputs = [JudgeInput("c", blank.outfit, blank.slot, data.catalogue.image(blank.true_item_id)) for blank in blanks]
    return inputs, [blank.true_item_id for blank in blanks]


class TestHeldOutJudge:
    def test_finds_true_items_in_harmony_palette_and_colour(self, data: DataSet, catalogue: MiniCatalogue):
        inputs, true_ids = true_inputs(data)
        facts = HeldOutJudge(Says(0), catalogue).measure(inputs, true_ids)
        for name in ("harmony", "colour_match"):
            assert np.mean([fact[name] for fact in facts]) > 0.9

    def test_garments_of_the_catalogue_lie_among_real_ones_and_noise_does_not(
        self, data: DataSet, catalogue: MiniCatalogue
    ):
        inputs, _ = true_inputs(data)
        noise = np.random.default_rng(0).integers(0, 200, (32, 32, 3), dtype=np.uint8)
        judge = HeldOutJudge(HeldOutNet(HeldOutConfig(width=8)), catalogue)
        assert all(fact["precision"] == 1 for fact in judge.measure(inputs))
        assert [fact["precision"] for fact in judge.measure([replace(x, image=noise) for x in inputs])] == [0] * 40

    def test_realism_is_what_the_critic_says_and_absent_without_one(self, data: DataSet, catalogue: MiniCatalogue):
        inputs, _ = true_inputs(data, 6)
        for says, expected in ((0, 0.0), (1, 1.0)):
            critic = HeldOutNet(HeldOutConfig(width=8, categories=CRITIC_CLASSES))
            torch.nn.init.zeros_(critic.head[-1].weight)
            critic.head[-1].bias.data = torch.nn.functional.one_hot(torch.tensor(says), CRITIC_CLASSES).float()
            judge = HeldOutJudge(Says(0), catalogue, critic=critic)
            assert [fact["realism"] for fact in judge.measure(inputs)] == [expected] * 6
            assert judge.realism([x.image for x in inputs]).tolist() == [2 * expected - 1] * 6
        assert "realism" not in HeldOutJudge(Says(0), catalogue).measure(inputs)[0]
        with pytest.raises(ValueError, match="no critic"):
            HeldOutJudge(Says(0), catalogue).realism([inputs[0].image])

    def test_a_critic_is_saved_and_loaded_with_the_judge(self, data: DataSet, catalogue: MiniCatalogue, tmp_path: Path):
        torch.manual_seed(0)
        judge = HeldOutJudge(Says(0), catalogue, critic=HeldOutNet(HeldOutConfig(width=8, categories=CRITIC_CLASSES)))
        judge.save(tmp_path)
        images = [x.image for x in true_inputs(data, 6)[0]]
        assert torch.equal(HeldOutJudge.load(tmp_path, catalogue).realism(images), judge.realism(images))

    def test_category_counts_when_it_is_the_slots(self, data: DataSet, catalogue: MiniCatalogue):
        inputs, _ = true_inputs(data)
        facts = HeldOutJudge(Says(8), catalogue).measure(inputs)
        assert [fact["category_accuracy"] for fact in facts] == [
            float(x.outfit.category_ids[x.slot] == 8) for x in inputs
        ]

    def test_harmony_is_the_rule_with_the_other_items_true_colours(self, data: DataSet, catalogue: MiniCatalogue):
        red = garment((200, 30, 30))
        inputs = [JudgeInput("c", x.outfit, x.slot, red) for x in true_inputs(data)[0]]
        expected = [float(is_harmonious(0, [catalogue.colour(i) for i in x.outfit.given_item_ids])) for x in inputs]
        assert [f["harmony"] for f in HeldOutJudge(Says(0), catalogue).measure(inputs)] == expected
        assert 0 < sum(expected) < len(expected)

    def test_palette_is_the_users(self, data: DataSet, catalogue: MiniCatalogue):
        red = garment((200, 30, 30))
        inputs = [JudgeInput("c", x.outfit, x.slot, red) for x in true_inputs(data)[0]]
        expected = [float(0 in catalogue.palette(x.outfit.user_id)) for x in inputs]
        assert [f["palette"] for f in HeldOutJudge(Says(0), catalogue).measure(inputs)] == expected

    def test_a_garment_that_cannot_be_made_out_counts_nowhere(self, data: DataSet, catalogue: MiniCatalogue):
        inputs, true_ids = true_inputs(data, 1)
        blank = JudgeInput("c", inputs[0].outfit, inputs[0].slot, white_image(32))
        category = blank.outfit.category_ids[blank.slot]
        (facts,) = HeldOutJudge(Says(category), catalogue).measure([blank], true_ids)
        assert facts == {"precision": 0, "category_accuracy": 0, "harmony": 0, "palette": 0, "colour_match": 0}

    def test_without_other_items_there_is_no_harmony_to_speak_of(self, data: DataSet, catalogue: MiniCatalogue):
        task = data.gor_tasks("train", 1)[0]
        (facts,) = HeldOutJudge(Says(0), catalogue).measure([JudgeInput("c", task, 0, garment((200, 30, 30)))])
        assert set(facts) == {"precision", "category_accuracy", "palette"}

    def test_refuses_an_input_that_is_no_picture(self, data: DataSet, catalogue: MiniCatalogue):
        outfit = true_inputs(data, 1)[0][0].outfit
        with pytest.raises(InvalidInput, match="expected an image"):
            HeldOutJudge(Says(0), catalogue).measure([JudgeInput("c", outfit, 0, np.zeros((4, 4), np.uint8))])

    def test_a_saved_judge_names_the_same_categories(self, catalogue: MiniCatalogue, tmp_path: Path):
        torch.manual_seed(0)
        judge = HeldOutJudge(HeldOutNet(HeldOutConfig(width=8)), catalogue)
        judge.save(tmp_path)
        images = [catalogue.image(item_id) for item_id in range(1, 20)]
        assert HeldOutJudge.load(tmp_path, catalogue).categories(images) == judge.categories(images)

    @pytest.mark.parametrize("config", [{"width": 16}, {"depth": 3}, {"width": 9}])
    def test_refuses_a_configuration_that_does_not_fit(self, catalogue, tmp_path: Path, config: dict[str, object]):
        save_module(tmp_path, Says(0), config)
        with pytest.raises(InvalidBundle):
            HeldOutJudge.load(tmp_path, catalogue)


class TestPicturesBeside:
    """Garments of an outfit that are pictures, as when all slots are painted together."""

    RED, GREEN, WHITE = (200, 30, 30), (30, 160, 30), (255, 255, 255)

    def beside(self, data: DataSet, rgb: tuple[int, int, int]) -> JudgeInput:
        """A red garment in the first slot, and a picture of this colour in the second."""
        task, ref = data.gor_tasks("train", 1)[0], f"{0:064x}.png"
        worn = task.model_copy(update={"item_images": {1: ref}})
        return JudgeInput("c", worn, 0, garment(self.RED), pictures={ref: garment(rgb)})

    @pytest.mark.parametrize(("rgb", "expected"), [(RED, 1), (GREEN, 0), (WHITE, 0)])
    def test_count_with_the_colour_that_can_be_made_out(self, data: DataSet, catalogue, rgb, expected):
        (facts,) = HeldOutJudge(Says(0), catalogue).measure([self.beside(data, rgb)])
        assert facts["harmony"] == expected

    def test_that_were_not_sent_along_are_refused(self, data: DataSet, catalogue):
        unsent = replace(self.beside(data, self.RED), pictures={})
        with pytest.raises(InvalidInput, match="was not sent along"):
            HeldOutJudge(Says(0), catalogue).measure([unsent])
