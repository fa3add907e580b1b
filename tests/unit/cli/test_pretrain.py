"""`fashiondpo pretrain`: the mini family, a generator alone, VBPR alone."""

from __future__ import annotations

import shutil

import torch

from fashiondpo.diffusion.model import load_bundle
from fashiondpo.judges.vbpr import VBPR


class TestSmokePreset:
    def test_finishes_a_run_that_was_stopped_before_its_end(self, fashiondpo, smoke_run, tmp_path):
        shutil.copytree(smoke_run.folder, tmp_path / "mini.unfinished")
        source = ("--fashion-mnist", smoke_run.silhouettes)
        assert "Wrote" in fashiondpo.well("pretrain", "--preset", "smoke", *source, "--out", tmp_path / "mini")
        assert (tmp_path / "mini" / "README.md").read_text() == (smoke_run.folder / "README.md").read_text()
        assert not (tmp_path / "mini.unfinished").exists()


class TestGeneratorPreset:
    def test_trains_a_bundle_further(self, fashiondpo, smoke_assets, tmp_path):
        fashiondpo.well("pretrain", "--preset", "generator", "--steps", 2, "--out", tmp_path / "new")
        before, after = load_bundle(smoke_assets / "bundle"), load_bundle(tmp_path / "new")
        assert after.digest != before.digest
        assert after.sampler == before.sampler
        assert any(
            not torch.equal(a, b) for a, b in zip(before.unet.parameters(), after.unet.parameters(), strict=True)
        )
        assert all(torch.equal(a, b) for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True))


class TestVBPRPreset:
    def test_trains_a_compatibility_model_and_says_how_it_ranks(self, fashiondpo, tmp_path):
        said = fashiondpo.well("pretrain", "--preset", "vbpr", "--steps", 5, "--out", tmp_path / "vbpr")
        assert "Validation: AUC 0." in said
        assert VBPR.load(tmp_path / "vbpr").config.feature_id

    def test_keeps_the_catalogue_s_features_for_the_next_time(self, fashiondpo, tmp_path):
        fashiondpo.well("pretrain", "--preset", "vbpr", "--steps", 1, "--out", tmp_path / "vbpr")
        assert len(list((tmp_path / "vbpr" / "features").glob("*.npy"))) == 1
