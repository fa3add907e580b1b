import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fashiondpo.errors import InvalidInput
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.outfits.mini import world_data_set
from fashiondpo.outfits.model import DataSet
from fashiondpo.pretraining.vbpr import (
    OutfitTable,
    VBPRSettings,
    bpr_loss,
    fitb_accuracy,
    outfit_table,
    rank,
    ranking_auc,
    sample_negatives,
    train_vbpr,
)
from tests.reference import judge_formulas
from tests.unit.judges.small_world import outfit, small_features, world

SHORT = VBPRSettings(hidden_dim=32, dim=16, steps=120, batch_size=128, learning_rate=1e-2, evaluate_every=40)
SCORES = st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=1, max_size=5)


class ColourFeatures:
    """Features of the garment's middle: its colour and its outline, enough to learn harmony from."""

    feature_id, dim = "colour-and-outline", 12

    def images(self, images):
        pixels = np.stack(images).astype(np.float32) / 255
        colour = pixels[:, 14:18, 14:18].mean((1, 2))
        outline = pixels.min(3)[:, 16, ::4] < 0.9
        vectors = np.concatenate([colour, outline, np.ones((len(images), 1))], 1)
        return torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=1)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return world_data_set(world())


@pytest.fixture(scope="module")
def items(data: DataSet) -> CatalogueFeatures:
    return CatalogueFeatures(ColourFeatures(), data.catalogue)


@pytest.fixture(scope="module")
def table(items: CatalogueFeatures, data: DataSet) -> OutfitTable:
    return outfit_table(items, data.split("train"))


class TestBprLoss:
    @given(SCORES)
    def test_is_the_formula(self, rows: list[list[float]]):
        scores = torch.tensor(rows, dtype=torch.float64)
        expected = judge_formulas.bpr_loss([row[0] for row in rows], [row[1:] for row in rows])
        assert bpr_loss(scores[:, 0], scores[:, 1:]).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)

    def test_gradient_raises_the_true_item_and_lowers_the_wrong_ones(self):
        positive, negative = torch.zeros(3, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
        bpr_loss(positive, negative).backward()
        assert (positive.grad < 0).all()
        assert (negative.grad > 0).all()


class TestRankingFigures:
    @given(SCORES)
    def test_auc_counts_pairs_in_the_right_order(self, rows: list[list[float]]):
        scores = torch.tensor(rows, dtype=torch.float64)
        expected = np.mean([judge_formulas.pairwise_auc(row[:1], row[1:]) for row in rows])
        assert ranking_auc(scores[:, 0], scores[:, 1:]) == pytest.approx(expected)

    @given(SCORES)
    def test_fitb_counts_blanks_won_against_all(self, rows: list[list[float]]):
        scores = torch.tensor(rows, dtype=torch.float64)
        expected = np.mean([row[0] > max(row[1:]) for row in rows])
        assert fitb_accuracy(scores[:, 0], scores[:, 1:]) == pytest.approx(expected)


class TestOutfitTable:
    def test_looks_up_every_item_of_every_outfit(self, table: OutfitTable, items: CatalogueFeatures, data: DataSet):
        first = data.split("train")[3]
        assert torch.equal(table.features[table.slots[3]], items.of(first.given_item_ids))

    def test_marks_slots_that_an_outfit_lacks(self, items: CatalogueFeatures):
        short = outfit(5, 6, category_ids=(0, 1))
        slots = outfit_table(items, [outfit(1, 2, 3, 4), short, outfit(7, None, 8, None)]).slots
        assert (slots < 0).tolist() == [[False] * 4, [False, False, True, True], [False, True, False, True]]

    def test_refuses_outfits_of_single_items(self, items: CatalogueFeatures):
        with pytest.raises(InvalidInput, match="at least two items"):
            outfit_table(items, [outfit(1, None, None, None)])


class TestSampleNegatives:
    def test_of_the_same_category_are_other_items_of_it(self, table: OutfitTable):
        positive = torch.arange(len(table.categories))
        negative = sample_negatives(table, positive, 6, "same_category", torch.Generator().manual_seed(0))
        assert (table.categories[negative] == table.categories[positive][:, None]).all()
        assert (negative != positive[:, None]).all()

    def test_at_random_are_other_items_of_any_category(self, table: OutfitTable):
        positive = torch.arange(len(table.categories))
        negative = sample_negatives(table, positive, 6, "random", torch.Generator().manual_seed(0))
        assert (negative != positive[:, None]).all()
        assert (table.categories[negative] != table.categories[positive][:, None]).any()

    def test_every_other_item_of_the_category_is_as_likely(self, table: OutfitTable):
        item = torch.zeros(20_000, dtype=torch.long)
        drawn = sample_negatives(table, item, 1, "same_category", torch.Generator().manual_seed(0)).flatten()
        times = torch.bincount(drawn, minlength=len(table.categories))
        others = (table.categories == table.categories[0]) & (torch.arange(len(times)) != 0)
        assert (times > 0).equal(others)
        expected = 20_000 / int(others.sum())
        assert float(((times[others] - expected) ** 2 / expected).mean()) < 2  # chi squared per degree of freedom

    def test_a_category_of_one_item_gives_that_item(self, items: CatalogueFeatures, data: DataSet):
        one_each = outfit_table(items, data.split("train")[:1])
        negative = sample_negatives(one_each, torch.arange(4), 2, "same_category", torch.Generator())
        assert negative.tolist() == [[row, row] for row in range(4)]


class TestRank:
    def test_a_network_that_says_the_same_of_all_is_at_chance(self, table: OutfitTable):
        network = VBPR(VBPRConfig(12))
        for weight in network.parameters():
            torch.nn.init.zeros_(weight)
        report = rank(network, table)
        assert (report.auc_same_category, report.auc_random) == (0.5, 0.5)
        assert (report.fitb_same_category, report.fitb_random) == (0, 0)


class TestTrainVBPR:
    @pytest.mark.parametrize("shared_map", [True, False])
    def test_learns_which_items_go_together(self, items: CatalogueFeatures, data: DataSet, shared_map: bool):
        settings = VBPRSettings(**{**SHORT.__dict__, "shared_map": shared_map})
        losses: list[float] = []
        network, report = train_vbpr(
            items, data, settings, seed=1, progress=lambda done, total, figures: losses.append(figures["loss"])
        )
        assert np.mean(losses[-20:]) < np.mean(losses[:20])
        assert report.auc_same_category > 0.58
        assert report.fitb_same_category > 1 / 5
        assert not network.training

    def test_keeps_the_best_look_at_the_validation_split(self, items: CatalogueFeatures, data: DataSet):
        looks: list[float] = []
        _, report = train_vbpr(
            items, data, SHORT, seed=1, progress=lambda done, total, figures: looks.append(figures.get("auc", 0))
        )
        assert sum(look > 0 for look in looks) == 3
        assert report.auc_same_category == pytest.approx(max(looks), abs=0.01)  # rounded to half precision since

    def test_names_the_features_it_was_trained_on(self, data: DataSet):
        features = small_features()
        settings = VBPRSettings(steps=2, batch_size=8)
        network, _ = train_vbpr(CatalogueFeatures(features, data.catalogue), data, settings)
        assert network.config.feature_id == features.feature_id

    def test_a_reloaded_network_ranks_the_same(self, items: CatalogueFeatures, data: DataSet, tmp_path):
        network, report = train_vbpr(items, data, SHORT, seed=2)
        network.save(tmp_path)
        assert rank(VBPR.load(tmp_path), outfit_table(items, data.split("valid")), seed=2) == report
