"""How VBPR ranks on a split, on unseen items and on fixed blanks, against counting one by one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fashiondpo.errors import Conflict, InvalidInput
from fashiondpo.judges.embeddings import MANIFEST, CatalogueEmbeddings
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.outfits.mini import world_data_set
from fashiondpo.outfits.model import Blank, DataSet
from fashiondpo.pretraining.vbpr import VBPRSettings, outfit_table, rank, train_vbpr
from fashiondpo.pretraining.vbpr_evaluation import evaluate_vbpr, rank_among, rank_blanks
from fashiondpo.pretraining.vbpr_folder import REPORT_FILE, check_vbpr_target, write_vbpr
from tests.reference.judge_formulas import pairwise_auc, vbpr_score
from tests.synthetic_embeddings import noise_vectors, styled_vectors, write_embeddings
from tests.unit.judges.small_world import outfit, world


@pytest.fixture(scope="module")
def data() -> DataSet:
    return world_data_set(world())


@pytest.fixture(scope="module")
def items(data: DataSet, tmp_path_factory) -> CatalogueEmbeddings:
    folder = tmp_path_factory.mktemp("embeddings") / "styled"
    return write_embeddings(folder, data.catalogue, styled_vectors(data, 16))


@pytest.fixture(scope="module")
def network() -> VBPR:
    torch.manual_seed(5)
    return VBPR(VBPRConfig(16, 12, 8)).eval()


def blanks_of(data: DataSet, count: int = 30) -> list[Blank]:
    """Blanks with three or four wrong answers of any category."""
    rng = np.random.default_rng(1)
    return [
        replace(blank, negative_item_ids=tuple(map(int, rng.choice(data.catalogue.item_ids(), 3 + n % 2))))
        for n, blank in enumerate(data.blanks_of("valid", count))
    ]


def score_one(network: VBPR, items: CatalogueEmbeddings, item_id: int, others: tuple[int, ...]) -> float:
    weights = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    item, *context = (items.of([one])[0].double().numpy() for one in (item_id, *others))
    return vbpr_score(item, context, weights, slope=0.2, shared_map=False)


class TestRankBlanks:
    def test_counts_what_one_gets_by_scoring_one_by_one(self, network: VBPR, items, data: DataSet):
        points, wins = [], []
        for blank in (blanks := blanks_of(data)):
            others = blank.outfit.given_item_ids
            of_true = score_one(network, items, blank.true_item_id, others)
            of_wrong = [score_one(network, items, wrong, others) for wrong in blank.negative_item_ids]
            points.append(pairwise_auc([of_true], of_wrong))
            wins.append(of_true > max(of_wrong))
        report = rank_blanks(network, items, blanks)
        assert report is not None and report.blanks == 30
        assert report.auc == pytest.approx(np.mean(points), abs=1e-6)
        assert report.fitb == pytest.approx(np.mean(wins), abs=1e-6)

    def test_has_nothing_to_say_without_wrong_answers(self, network: VBPR, items, data: DataSet):
        assert rank_blanks(network, items, data.blanks_of("valid", 5)) is None


class TestRankAmong:
    def test_all_items_is_the_ranking_of_the_table(self, network: VBPR, items, data: DataSet):
        table = outfit_table(items, data.split("valid"))
        found = rank_among(network, table, torch.ones(len(table.item_ids), dtype=torch.bool), seed=4)
        expected = rank(network, table, seed=4)
        assert found is not None
        assert found.auc_same_category == pytest.approx(expected.auc_same_category, abs=0.02)

    def test_looks_at_wanted_items_alone(self, items, data: DataSet):
        """A network that likes unwanted items best never meets one."""
        table = outfit_table(items, data.split("valid"))
        is_wanted = torch.arange(len(table.item_ids)) % 2 == 0
        liked = VBPR(VBPRConfig(1))
        for weight in liked.parameters():
            torch.nn.init.zeros_(weight)
        torch.nn.init.ones_(liked.visual_bias.weight)
        marked = replace(table, features=(~is_wanted).float()[:, None])
        found = rank_among(liked.eval(), marked, is_wanted)
        assert found is not None
        assert (found.auc_same_category, found.fitb_same_category) == (0.5, 0)  # wanted ones are all alike
        assert rank(liked, marked).fitb_random > 0  # among all, unwanted ones do win

    def test_of_no_items_is_nothing(self, network: VBPR, items, data: DataSet):
        table = outfit_table(items, data.split("valid"))
        assert rank_among(network, table, torch.zeros(len(table.item_ids), dtype=torch.bool)) is None


class TestTrainingOnEmbeddings:
    SHORT = VBPRSettings(hidden_dim=32, dim=16, steps=200, batch_size=128, learning_rate=1e-2, evaluate_every=40)

    def test_learns_styles_that_items_of_an_outfit_share(self, items, data: DataSet):
        network, _ = train_vbpr(items, data, self.SHORT)
        report = evaluate_vbpr(network, items, data, "valid")
        assert report.ranking.auc_same_category > 0.65
        assert network.config.feature_id == items.feature_id

    def test_finds_nothing_in_noise_on_items_that_it_has_not_seen(self, data: DataSet, tmp_path: Path):
        """The mini world's valid users wear silhouettes that no training user does: all of their items are unseen."""
        noise = write_embeddings(tmp_path / "noise", data.catalogue, noise_vectors(len(data.catalogue.item_ids()), 16))
        aucs = []
        for seed in range(3):
            network, _ = train_vbpr(noise, data, self.SHORT, seed=seed)
            report = evaluate_vbpr(network, noise, data, "valid", seed=seed)
            assert report.unseen is not None
            aucs.append(report.unseen.auc_same_category)
        assert np.mean(aucs) == pytest.approx(0.5, abs=0.1)

    def test_stops_when_it_gets_no_better(self, data: DataSet, tmp_path: Path):
        noise = write_embeddings(tmp_path / "noise", data.catalogue, noise_vectors(len(data.catalogue.item_ids()), 16))
        steps = []
        settings = replace(self.SHORT, steps=4000, evaluate_every=10, patience=3)
        train_vbpr(
            noise, data, settings, progress=lambda done, total, figures: steps.append((done, figures.get("auc")))
        )
        looks = [auc for _, auc in steps if auc is not None]
        assert len(steps) < 4000
        assert max(looks[:-3]) >= max(looks[-3:])

    def test_never_takes_a_blank_for_a_garment(self, items):
        """An empty slot has no row, so that it can be neither a positive nor a wrong answer."""
        table = outfit_table(items, [outfit(1, None, 2, 3), outfit(None, 4, None, 5)])
        assert table.item_ids == (1, 2, 3, 4, 5)
        assert ((table.slots >= 0).sum(1) == torch.tensor([3, 2])).all()

    def test_items_that_were_left_out_are_empty_slots(self, items, data: DataSet, tmp_path: Path):
        opened = write_embeddings(tmp_path / "e", data.catalogue, styled_vectors(data, 16))
        manifest = json.loads((tmp_path / "e" / MANIFEST).read_text()) | {"skipped": {"2": "picture missing"}}
        (tmp_path / "e" / MANIFEST).write_text(json.dumps(manifest))
        opened = CatalogueEmbeddings.open(tmp_path / "e", data.catalogue)
        table = outfit_table(opened, [outfit(1, 2, 3, 4), outfit(2, 5, None, None)])
        assert table.item_ids == (1, 3, 4)
        assert (table.slots >= 0).tolist() == [[True, False, True, True]]
        tasks = [Blank(outfit(None, 1, 3, 4), 0, 2, (5,)), Blank(outfit(None, 1, 2, 4), 0, 3, (2, 5))]
        torch.manual_seed(0)
        assert rank_blanks(VBPR(VBPRConfig(16)), opened, tasks).blanks == 1


class TestWriteVBPR:
    def test_writes_what_judges_load_with_the_report_beside(self, network: VBPR, tmp_path: Path):
        write_vbpr(tmp_path / "vbpr", network, {"seed": 3})
        assert VBPR.load(tmp_path / "vbpr").version == network.version
        assert json.loads((tmp_path / "vbpr" / REPORT_FILE).read_text()) == {"seed": 3}
        assert [path.name for path in tmp_path.iterdir()] == ["vbpr"]

    def test_replaces_a_vbpr_only_when_asked(self, network: VBPR, tmp_path: Path):
        write_vbpr(tmp_path / "vbpr", network, {"seed": 1})
        with pytest.raises(Conflict, match="--replace"):
            check_vbpr_target(tmp_path / "vbpr")
        write_vbpr(tmp_path / "vbpr", network, {"seed": 2}, replace=True)
        assert json.loads((tmp_path / "vbpr" / REPORT_FILE).read_text()) == {"seed": 2}

    def test_leaves_other_things_alone(self, network: VBPR, tmp_path: Path):
        (tmp_path / "diary.txt").write_text("mine")
        with pytest.raises(InvalidInput, match="something else"):
            write_vbpr(tmp_path, network, {}, replace=True)

    def test_that_fails_leaves_nothing_behind(self, network: VBPR, tmp_path: Path):
        with pytest.raises(TypeError):
            write_vbpr(tmp_path / "vbpr", network, {"report": object()})
        assert list(tmp_path.iterdir()) == []
