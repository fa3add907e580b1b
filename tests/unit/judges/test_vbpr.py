import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from tests.reference.judge_formulas import vbpr_score


def network(*, shared_map: bool) -> VBPR:
    torch.manual_seed(0)
    vbpr = VBPR(VBPRConfig(6, 5, 4, shared_map, feature_id="clip-1"))
    vbpr.standardise(3 + 2 * torch.randn(50, 6))
    return vbpr


def queries() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    items, others = torch.randn(3, 2, 6, generator=generator), torch.randn(3, 4, 6, generator=generator)
    return items, others, torch.tensor([[True] * 4, [True, False, True, False], [False, False, True, False]])


class TestScore:
    @pytest.mark.parametrize("shared_map", [True, False])
    def test_is_the_formula(self, shared_map: bool):
        vbpr = network(shared_map=shared_map).double()
        items, others, is_given = (x.double() if x.is_floating_point() else x for x in queries())
        weights = {name: tensor.numpy() for name, tensor in vbpr.state_dict().items()}
        expected = [
            [
                vbpr_score(item.numpy(), row[given].numpy(), weights, slope=0.2, shared_map=shared_map)
                for item in candidates
            ]
            for candidates, row, given in zip(items, others, is_given, strict=True)
        ]
        np.testing.assert_allclose(vbpr(items, others, is_given).detach(), expected, rtol=1e-12)

    @pytest.mark.parametrize("shared_map", [True, False])
    def test_does_not_see_slots_that_are_not_given(self, shared_map: bool):
        vbpr, (items, others, is_given) = network(shared_map=shared_map), queries()
        changed = torch.where(is_given[..., None], others, 1e6)
        assert_close(vbpr(items, changed, is_given), vbpr(items, others, is_given))

    @pytest.mark.parametrize("shared_map", [True, False])
    def test_does_not_depend_on_the_order_of_the_outfit(self, shared_map: bool):
        vbpr, (items, others, is_given) = network(shared_map=shared_map), queries()
        assert_close(vbpr(items, others.flip(1), is_given.flip(1)), vbpr(items, others, is_given))


class TestStandardise:
    def test_training_features_come_out_with_mean_zero_and_deviation_one(self):
        features = 3 + 2 * torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
        vbpr = VBPR(VBPRConfig(6))
        vbpr.standardise(features)
        standardised = (features - vbpr.feature_mean) / vbpr.feature_std
        assert_close(standardised.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
        assert_close(standardised.std(0), torch.ones(6), rtol=1e-5, atol=0)

    def test_a_feature_that_never_varies_gives_no_infinite_score(self):
        vbpr = VBPR(VBPRConfig(6))
        vbpr.standardise(torch.ones(10, 6))
        items, others, is_given = queries()
        assert vbpr(items, others, is_given).isfinite().all()


class TestSaveAndLoad:
    @pytest.mark.parametrize("shared_map", [True, False])
    def test_gives_the_same_scores_under_the_same_version(self, tmp_path: Path, shared_map: bool):
        vbpr = network(shared_map=shared_map)
        vbpr.save(tmp_path)
        loaded = VBPR.load(tmp_path)
        assert (loaded.config, loaded.version) == (vbpr.config, vbpr.version)
        assert_close(loaded(*queries()), vbpr(*queries()), rtol=0, atol=0)
        assert not loaded.training

    def test_the_configuration_names_features_and_hash(self, tmp_path: Path):
        network(shared_map=False).save(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["feature_id"] == "clip-1"
        assert len(config["sha256"]) == 64

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sha256": "0" * 64}, "but were saved as 000"),
            ({"colour": 3}, "unknown settings colour"),
            ({"dim": 7}, "does not hold this model's weights"),
            ({"dim": "wide"}, "does not describe a VBPR network"),
        ],
    )
    def test_refuses_a_configuration_that_does_not_fit(self, tmp_path: Path, change: dict[str, object], message: str):
        network(shared_map=False).save(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(InvalidBundle, match=message):
            VBPR.load(tmp_path)

    def test_refuses_a_folder_without_configuration(self, tmp_path: Path):
        with pytest.raises(InvalidBundle, match="not a readable configuration"):
            VBPR.load(tmp_path)


def published_state(prefix: str = "module.rec_model.", end: str = ".weight") -> dict[str, Tensor]:
    """The format of method papers' released file: DataParallel's prefix, and layers that scoring does not use."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"visual_bias": (1, 512), "i_map1": (128, 512), "i_map2": (64, 128)}
    state = {f"{prefix}{name}{end}": torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return state | {"module.encoder.weight": torch.zeros(3, 3)}


class TestPublishedFile:
    @pytest.mark.parametrize("prefix", ["module.rec_model.", "rec_model.", "module.", ""])
    @pytest.mark.parametrize("end", [".weight", ""])
    def test_loads_with_any_of_its_prefixes(self, tmp_path: Path, prefix: str, end: str):
        torch.save(published_state(prefix, end), tmp_path / "vbpr.pt")
        vbpr = VBPR.load(tmp_path / "vbpr.pt")
        assert_close(vbpr.i_map1.weight, published_state(prefix, end)[f"{prefix}i_map1{end}"])

    def test_scores_by_the_published_formula(self, tmp_path: Path):
        state = published_state()
        torch.save(state, tmp_path / "vbpr.pt")
        vbpr = VBPR.load(tmp_path / "vbpr.pt")
        weights = {name.removeprefix("module.rec_model."): tensor.double().numpy() for name, tensor in state.items()}
        weights |= {f"{name}.bias": np.zeros(1) for name in ("i_map1", "i_map2", "visual_bias")}
        weights |= {"feature_mean": np.zeros(512), "feature_std": np.ones(512)}
        item, others = torch.randn(1, 1, 512), torch.randn(1, 3, 512)
        expected = vbpr_score(
            item[0, 0].double().numpy(), list(others[0].double().numpy()), weights, slope=0.01, shared_map=True
        )
        actual = vbpr(item, others, torch.ones(1, 3, dtype=torch.bool)).item()
        assert actual == pytest.approx(expected, rel=1e-4)  # sums over 512 features in float32

    def test_is_marked_as_made_from_features_nobody_can_compute(self, tmp_path: Path):
        torch.save(published_state(), tmp_path / "vbpr.pt")
        assert not VBPR.load(tmp_path / "vbpr.pt").config.features_are_reproducible

    def test_that_lacks_a_layer_is_refused_by_its_name(self, tmp_path: Path):
        state = published_state()
        del state["module.rec_model.i_map2.weight"]
        torch.save(state, tmp_path / "vbpr.pt")
        with pytest.raises(InvalidBundle, match=r"i_map2\.weight missing"):
            VBPR.load(tmp_path / "vbpr.pt")

    def test_whose_layers_do_not_fit_together_is_refused(self, tmp_path: Path):
        torch.save(published_state() | {"module.rec_model.i_map2.weight": torch.zeros(64, 99)}, tmp_path / "vbpr.pt")
        with pytest.raises(InvalidBundle, match="not a published VBPR file"):
            VBPR.load(tmp_path / "vbpr.pt")

    def test_that_would_run_code_is_refused(self, tmp_path: Path):
        torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "vbpr.pt")
        with pytest.raises(InvalidBundle, match="not a readable state dict"):
            VBPR.load(tmp_path / "vbpr.pt")

    @pytest.mark.parametrize("content", [b"", b"garbage" * 100])
    def test_that_is_damaged_is_refused(self, tmp_path: Path, content: bytes):
        (tmp_path / "vbpr.pt").write_bytes(content)
        with pytest.raises(InvalidBundle, match="not a readable state dict"):
            VBPR.load(tmp_path / "vbpr.pt")
