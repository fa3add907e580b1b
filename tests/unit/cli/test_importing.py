"""`fashiondpo import` and `fashiondpo export`: from a published folder to a painted outfit, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fashiondpo.diffusion.model import load_bundle
from fashiondpo.importing.adapters import adapter_to_published
from fashiondpo.storage.adapters import FolderAdapters
from tests.published_files import (
    published_adapter,
    save_weights,
    tiny_attentions,
    write_difashion,
    write_stable_diffusion,
    write_traps,
)
from tests.tiny_models import build_tiny_bundle, random_adapter


@pytest.fixture
def published(tmp_path: Path) -> Path:
    bundle = build_tiny_bundle()
    source = write_difashion(bundle, tmp_path / "published")
    write_traps(source, tmp_path / "sprung")
    return write_stable_diffusion(bundle, source)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    save_weights(published_adapter(tiny_attentions()), tmp_path / "pytorch_lora_weights.bin")
    return tmp_path / "pytorch_lora_weights.bin"


class TestImport:
    def test_of_a_base_and_its_adapter_ends_in_a_painted_outfit(self, fashiondpo, published, lora, tmp_path):
        bundle, run = tmp_path / "bundle", tmp_path / "run"
        said = fashiondpo.well("import", published, "--out", bundle, "--legacy", "--data", "mini")
        assert "left out: random_states_0.pkl (a training's state; never opened)" in said
        assert load_bundle(bundle).sampler.legacy_null_history
        said = fashiondpo.well("import", lora, "--out", tmp_path / "adapter", "--base", bundle, "--run", run)
        assert "adapter: 64 tensors read, 0 things left out" in said
        assert "It is version 1" in said
        assert FolderAdapters(run / "adapters").manifest(1).rank == 4
        fashiondpo.well("adapters", "activate", 1, "--run", run, "--force")
        fashiondpo.well("complete", "--run", run, "--bundle", bundle, "--outfits", 1, "--candidates", 1, "--adapter", 1)
        assert (run / "completed-one.png").exists()
        assert not (tmp_path / "sprung").exists()

    def test_of_an_adapter_into_a_run_can_be_compared_with_the_base_model(
        self, fashiondpo, smoke_assets, staged, tmp_path
    ):
        run, base = staged.copied(tmp_path / "run"), smoke_assets / "bundle"
        save_weights(adapter_to_published(random_adapter(load_bundle(base))), tmp_path / "lora.bin")
        said = fashiondpo.well(
            "import", tmp_path / "lora.bin", "--out", tmp_path / "a", "--base", base, "--run", run.folder
        )
        assert "It is version 2" in said
        said = fashiondpo.well("evaluate", "--run", run.folder, "--after", 2, "--outfits", 2)
        assert "Before and after on 2 held-out outfits" in said

    def test_of_an_adapter_into_a_new_folder_can_be_compared_where_its_models_are_named(
        self, fashiondpo, smoke_assets, tmp_path
    ):
        run, base = tmp_path / "run", smoke_assets / "bundle"
        (tmp_path / "lora.safetensors").write_bytes(random_adapter(load_bundle(base)).to_bytes())
        fashiondpo.well("import", tmp_path / "lora.safetensors", "--out", tmp_path / "a", "--base", base, "--run", run)
        finished = fashiondpo("evaluate", "--run", run, "--outfits", 2)
        assert "begin one with `fashiondpo generate" in finished.err
        said = fashiondpo.well("evaluate", "--run", run, "--outfits", 2, "--bundle", base)
        assert "Before and after on 2 held-out outfits" in said

    def test_of_something_else_ends_in_one_line(self, fashiondpo, tmp_path):
        save_weights({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
        finished = fashiondpo("import", tmp_path / "a.safetensors", "--out", tmp_path / "out")
        assert finished.code == 2
        assert "error (invalid_input)" in finished.err and "neither a LoRA adapter of a UNet nor VBPR" in finished.err
        assert not (tmp_path / "out").exists()

    def test_of_a_base_has_no_place_in_a_run(self, fashiondpo, published, tmp_path):
        finished = fashiondpo("import", published, "--out", tmp_path / "out", "--run", tmp_path / "run")
        assert finished.code == 2
        assert "only an adapter can be registered in a run" in finished.err


class TestExport:
    @pytest.mark.parametrize("name", ["back.bin", "back.safetensors"])
    def test_writes_what_was_imported(self, fashiondpo, published, lora, tmp_path, name):
        fashiondpo.well("import", published, "--out", tmp_path / "bundle")
        fashiondpo.well("import", lora, "--out", tmp_path / "adapter", "--base", tmp_path / "bundle")
        said = fashiondpo.well("export", tmp_path / "adapter", "--format", "diffusers-0.18", "--out", tmp_path / name)
        assert "Wrote 64 tensors" in said
        again = fashiondpo.well("import", tmp_path / name, "--out", tmp_path / "again", "--base", tmp_path / "bundle")
        assert "64 tensors read" in again
        first, second = (tmp_path / folder / "adapter.safetensors" for folder in ("adapter", "again"))
        assert first.read_bytes() == second.read_bytes()
