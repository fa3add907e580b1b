from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.weights import load_into, read_config, round_to_half, save_module, save_weights, weights_digest


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


class TestSaveWeights:
    def test_halves_what_loses_nothing_by_it(self, tmp_path: Path):
        save_weights(tmp_path / "w", {"a": torch.tensor([0.5, 2.0])})
        assert load_file(tmp_path / "w")["a"].dtype == torch.float16

    def test_keeps_full_precision_where_half_would_change_a_value(self, tmp_path: Path):
        save_weights(tmp_path / "w", {"a": torch.tensor([0.1])})
        assert load_file(tmp_path / "w")["a"].item() == pytest.approx(0.1, rel=1e-7)

    def test_counters_stay_whole_numbers(self, tmp_path: Path):
        save_weights(tmp_path / "w", {"steps": torch.tensor(100_003)})
        assert load_file(tmp_path / "w")["steps"].item() == 100_003

    def test_rounded_modules_survive_unchanged(self, tmp_path: Path):
        module = network()
        round_to_half(module)
        save_module(tmp_path, module, {})
        other = network()
        load_into(other, tmp_path)
        assert weights_digest(other.state_dict()) == weights_digest(module.state_dict())


class TestLoadInto:
    def test_refuses_weights_of_another_shape(self, tmp_path: Path):
        save_module(tmp_path, nn.Linear(3, 5), {})
        with pytest.raises(InvalidBundle, match="does not hold this model's weights"):
            load_into(nn.Linear(3, 4), tmp_path)

    @pytest.mark.parametrize("content", [None, b"", b"garbage" * 10])
    def test_refuses_a_missing_or_damaged_file(self, tmp_path: Path, content: bytes | None):
        if content is not None:
            (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(InvalidBundle, match=r"model\.safetensors"):
            load_into(nn.Linear(3, 4), tmp_path)


class TestReadConfig:
    @pytest.mark.parametrize("content", [None, "{", "[1]"])
    def test_refuses_what_is_no_json_object(self, tmp_path: Path, content: str | None):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(InvalidBundle, match=r"config\.json"):
            read_config(tmp_path)


class TestWeightsDigest:
    def test_changes_with_a_value_a_name_or_a_shape(self):
        states = [
            {"a": torch.zeros(4)},
            {"a": torch.ones(4)},
            {"b": torch.zeros(4)},
            {"a": torch.zeros(2, 2)},
        ]
        assert len({weights_digest(state) for state in states}) == 4

    def test_does_not_depend_on_the_order_or_on_how_values_are_stored(self):
        a, b = torch.tensor([0.5]), torch.tensor([2.0])
        assert weights_digest({"a": a, "b": b}) == weights_digest({"b": b.half(), "a": a})
