"""VBPR on the real index files of Polyvore-U, with synthetic embeddings: what can be learnt, and that nothing leaks."""

from pathlib import Path

import pytest

from fashiondpo.judges.embeddings import CatalogueEmbeddings
from fashiondpo.outfits.model import DataSet
from fashiondpo.pretraining.vbpr import VBPRSettings, outfit_table, train_vbpr
from fashiondpo.pretraining.vbpr_evaluation import SplitReport, evaluate_vbpr
from tests.synthetic_embeddings import noise_vectors, styled_vectors, write_embeddings

SETTINGS = VBPRSettings(
    hidden_dim=64, dim=32, steps=630, batch_size=1024, learning_rate=5e-3, evaluate_every=210, validation_outfits=1000
)


def trained(items: CatalogueEmbeddings, data_set: DataSet) -> SplitReport:
    network, _ = train_vbpr(items, data_set, SETTINGS, seed=1)
    return evaluate_vbpr(network, items, data_set, "test")


class TestPolyvoreU:
    def test_every_row_is_used_and_no_blank_is_an_item(self, polyvore_u: DataSet, tmp_path: Path):
        items = write_embeddings(tmp_path / "e", polyvore_u.catalogue, noise_vectors(119_202, 4))
        for split, rows in (("train", 26_921), ("valid", 3_356), ("test", 3_631)):
            table = outfit_table(items, polyvore_u.split(split))
            assert table.slots.shape == (rows, 4)
            assert int(table.slots.min()) == 0
            assert 0 not in table.item_ids

    @pytest.mark.slow
    def test_a_style_that_outfits_share_is_learnt(self, polyvore_u: DataSet, tmp_path: Path):
        items = write_embeddings(tmp_path / "e", polyvore_u.catalogue, styled_vectors(polyvore_u))
        report = trained(items, polyvore_u)
        assert report.outfits == 3_631
        assert report.ranking.auc_same_category > 0.75
        assert report.unseen is not None and report.unseen.items > 5_000
        assert report.unseen.auc_same_category > 0.75
        assert report.blanks is not None and report.blanks.blanks == 3_631
        assert report.blanks.auc > 0.7
        assert report.blanks.fitb > 0.4

    @pytest.mark.slow
    def test_nothing_is_found_in_noise_on_items_that_no_training_outfit_has(self, polyvore_u: DataSet, tmp_path: Path):
        items = write_embeddings(tmp_path / "e", polyvore_u.catalogue, noise_vectors(119_202))
        report = trained(items, polyvore_u)
        assert report.unseen is not None and report.unseen.items > 5_000
        # 6,000 comparisons with four each: a standard error of about 0.004
        assert report.unseen.auc_same_category == pytest.approx(0.5, abs=0.02)
        assert report.unseen.fitb_same_category == pytest.approx(0.2, abs=0.02)
