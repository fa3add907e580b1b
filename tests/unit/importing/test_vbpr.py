import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fashiondpo.errors import ForbiddenPickle, InvalidBundle, InvalidInput
from fashiondpo.importing.published import import_folder
from fashiondpo.judges.vbpr import VBPR
from tests.published_files import Trap, save_weights
from tests.reference.judge_formulas import vbpr_score

SHAPES = {"visual_bias": (1, 512), "i_map1.weight": (128, 512), "i_map2.weight": (64, 128)}


def published_state(prefix: str = "module.rec_model.") -> dict[str, Tensor]:
    """The released file's layers, of the released sizes."""
    generator = torch.Generator().manual_seed(2)
    return {f"{prefix}{name}": torch.randn(*shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vbpr.pt"
    save_weights(published_state() | {"module.feature_layer.weight": torch.zeros(3, 3)}, path)
    return path


class TestImport:
    @pytest.mark.parametrize("prefix", ["module.rec_model.", "rec_model.", "module.", ""])
    def test_becomes_the_folder_of_a_judge_that_scores_by_the_published_formula(self, tmp_path, prefix):
        save_weights(published_state(prefix), tmp_path / "vbpr.pt")
        report = import_folder(tmp_path / "vbpr.pt", tmp_path / "out")
        vbpr = VBPR.load(tmp_path / "out")
        weights = {name: tensor.double().numpy() for name, tensor in published_state("").items()}
        weights = {name if name.endswith(".weight") else f"{name}.weight": value for name, value in weights.items()}
        weights |= {f"{name}.bias": np.zeros(1) for name in ("i_map1", "i_map2", "visual_bias")}
        weights |= {"feature_mean": np.zeros(512), "feature_std": np.ones(512)}
        generator = torch.Generator().manual_seed(0)
        item, others = torch.randn(1, 1, 512, generator=generator), torch.randn(1, 3, 512, generator=generator)
        expected = vbpr_score(
            item[0, 0].double().numpy(), list(others[0].double().numpy()), weights, slope=0.01, shared_map=True
        )
        made = vbpr(item, others, torch.ones(1, 3, dtype=torch.bool)).item()
        assert made == pytest.approx(expected, rel=1e-4)  # sums over 512 features in float32
        assert report.kind == "vbpr"

    def test_is_marked_as_made_from_features_nobody_can_compute(self, file, tmp_path):
        report = import_folder(file, tmp_path / "out")
        assert json.loads((tmp_path / "out/config.json").read_text())["features_are_reproducible"] is False
        assert "were not saved" in report.warnings[0]

    def test_accounts_for_every_key(self, file, tmp_path):
        report = import_folder(file, tmp_path / "out")
        assert set(report.keys_read) == {f"vbpr.pt:{key}" for key in published_state()}
        assert [(left.name, left.reason) for left in report.left_out] == [
            ("vbpr.pt:module.feature_layer.weight", "scoring does not use it")
        ]


class TestRefusals:
    def test_layers_that_do_not_fit_together(self, tmp_path):
        save_weights(published_state() | {"module.rec_model.i_map2.weight": torch.zeros(64, 99)}, tmp_path / "vbpr.pt")
        with pytest.raises(InvalidBundle, match="not a published VBPR file"):
            import_folder(tmp_path / "vbpr.pt", tmp_path / "out")

    def test_values_that_are_no_numbers(self, tmp_path):
        bad = torch.full((128, 512), torch.nan)
        save_weights(published_state() | {"module.rec_model.i_map1.weight": bad}, tmp_path / "vbpr.pt")
        with pytest.raises(InvalidBundle, match=r"'module\.rec_model\.i_map1\.weight' has non-finite values"):
            import_folder(tmp_path / "vbpr.pt", tmp_path / "out")

    def test_a_file_that_lacks_a_layer_is_no_vbpr(self, tmp_path):
        state = published_state()
        del state["module.rec_model.i_map2.weight"]
        save_weights(state, tmp_path / "vbpr.pt")
        with pytest.raises(InvalidInput, match=r"neither a LoRA adapter of a UNet nor VBPR.*module\.rec_model\.i_map1"):
            import_folder(tmp_path / "vbpr.pt", tmp_path / "out")

    def test_a_file_that_would_run_code(self, tmp_path):
        torch.save(published_state() | {"module.hook": Trap(tmp_path / "sprung")}, tmp_path / "vbpr.pt")
        with pytest.raises(ForbiddenPickle, match=r"asks to load posix\.open"):
            import_folder(tmp_path / "vbpr.pt", tmp_path / "out")
        assert not (tmp_path / "sprung").exists()

    def test_a_base_is_not_needed(self, file, base, tmp_path):
        with pytest.raises(InvalidInput, match="VBPR needs no base"):
            import_folder(file, tmp_path / "out", base=base)
