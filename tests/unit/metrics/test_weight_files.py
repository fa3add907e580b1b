"""Files of weights: tensors come out, and nothing in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fashiondpo.errors import InvalidBundle
from fashiondpo.metrics.weight_files import file_id, read_weights

WEIGHTS = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.steps": torch.tensor(3)}


class WritesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


class TestReadWeights:
    def test_reads_both_formats(self, tmp_path: Path):
        torch.save(WEIGHTS, tmp_path / "w.pth")
        save_file(WEIGHTS, tmp_path / "w.safetensors")
        for name in ("w.pth", "w.safetensors"):
            found = read_weights(tmp_path / name)
            assert set(found) == set(WEIGHTS)
            assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)

    def test_runs_nothing_that_a_file_asks_for(self, tmp_path: Path):
        trap = tmp_path / "trap"
        torch.save({"a": torch.ones(1), "b": WritesAFile(trap)}, tmp_path / "w.pth")
        with pytest.raises(InvalidBundle, match="no readable file of weights"):
            read_weights(tmp_path / "w.pth")
        assert not trap.exists()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"a": torch.ones(1), "epoch": 3}, "more than tensors: epoch"),
            ({"a": torch.tensor([1.0, float("nan")])}, "not finite: a"),
            ([torch.ones(1)], "holds a list"),
            ({}, "expected tensors under their names"),
        ],
    )
    def test_refuses_anything_but_finite_tensors_under_names(self, tmp_path: Path, content, said):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InvalidBundle, match=said):
            read_weights(tmp_path / "w.pth")

    @pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
    def test_names_a_file_that_is_not_there(self, tmp_path: Path, name):
        with pytest.raises(InvalidBundle, match=name):
            read_weights(tmp_path / name)

    @pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps({"a": 1}, protocol=2)[:-1]])
    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
    def test_refuses_what_is_no_file_of_weights(self, tmp_path: Path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidBundle, match=name):
            read_weights(tmp_path / name)


class TestFileId:
    def test_follows_from_the_content_alone(self, tmp_path: Path):
        for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
            (tmp_path / name).write_bytes(content)
        assert file_id(tmp_path / "a") == file_id(tmp_path / "b") != file_id(tmp_path / "c")
