"""A run over embeddings that were made before."""

import shutil
from pathlib import Path

import pytest
import torch
from open_clip.transformer import VisionTransformer

from fashiondpo.errors import InvalidInput
from fashiondpo.judges.embedding import embed_catalogue
from fashiondpo.workspace import Workspace
from tests.tiny_clip import save_tiny_clip


@pytest.fixture
def judges(smoke_assets: Path, tmp_path: Path) -> Path:
    """The smoke judges with embeddings of their catalogue."""
    folder = tmp_path / "judges"
    shutil.copytree(smoke_assets / "judges", folder)
    models = Workspace(tmp_path / "any", mini_assets=smoke_assets)
    embed_catalogue(models.features, models.data_set.catalogue, folder / "embeddings", dtype="float32")
    return folder


class TestEmbeddingsBesideTheJudges:
    def test_stand_for_the_features_of_all_items(self, judges: Path, smoke_assets: Path, tmp_path: Path):
        computed = Workspace(tmp_path / "a", mini_assets=smoke_assets).catalogue_features
        wanted = list(computed.catalogue.item_ids()[:5])
        expected = computed.of(wanted)
        mapped = Workspace(tmp_path / "b", mini_assets=smoke_assets, judges_place=judges).catalogue_features
        seen: list[object] = []

        def count(module: torch.nn.Module, arguments: tuple, _output: object) -> None:
            seen.extend(arguments if isinstance(module, VisionTransformer) else ())

        handle = torch.nn.modules.module.register_module_forward_hook(count)
        try:
            torch.testing.assert_close(mapped.of(wanted), expected, rtol=0, atol=1e-5)
        finally:
            handle.remove()
        assert seen == []

    def test_of_another_model_are_refused(self, judges: Path, smoke_assets: Path, tmp_path: Path):
        shutil.rmtree(judges / "clip")
        save_tiny_clip(judges / "clip")
        with pytest.raises(InvalidInput, match="use that CLIP model, or embed the catalogue anew"):
            _ = Workspace(tmp_path / "b", mini_assets=smoke_assets, judges_place=judges).catalogue_features
