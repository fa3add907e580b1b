import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fashiondpo.errors import DataFileError, ForbiddenPickle
from fashiondpo.importing.streaming import Planned, write_safetensors
from fashiondpo.importing.weight_files import DTYPES, open_weights
from tests.published_files import Trap, write_json

TENSORS = {
    name: torch.arange(6).reshape(2, 3).to(dtype) if name != "BOOL" else torch.tensor([True, False])
    for name, dtype in DTYPES.items()
}


class TestOpenWeights:
    @pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt"])
    def test_gives_every_tensor_as_it_was_saved(self, tmp_path, ending):
        path = tmp_path / f"w{ending}"
        if ending == ".safetensors":
            save_file(TENSORS, path)
        else:
            torch.save(TENSORS, path)
        weights = open_weights(path)
        assert weights.shapes == {key: tuple(tensor.shape) for key, tensor in TENSORS.items()}
        assert weights.dtypes == {key: tensor.dtype for key, tensor in TENSORS.items()}
        assert all(torch.equal(weights.tensor(key), tensor) for key, tensor in TENSORS.items())

    def test_reads_files_of_the_oldest_form(self, tmp_path):
        torch.save({"a": nn.Parameter(torch.ones(2))}, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
        tensor = open_weights(tmp_path / "w.bin").tensor("a")
        assert torch.equal(tensor, torch.ones(2)) and not tensor.requires_grad

    @pytest.mark.parametrize("is_archive", [True, False])
    def test_refuses_by_name_what_would_run_code_and_does_not_run_it(self, tmp_path, is_archive):
        torch.save(
            {"a": torch.ones(2), "b": Trap(tmp_path / "sprung")},
            tmp_path / "w.bin",
            _use_new_zipfile_serialization=is_archive,
        )
        with pytest.raises(ForbiddenPickle, match=r"w\.bin: asks to load posix\.open, .* take a safetensors file"):
            open_weights(tmp_path / "w.bin")
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("content", "name"),
        [(nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"), ({"a": np.zeros(2)}, r"numpy.*_reconstruct")],
    )
    def test_refuses_whole_objects_by_the_name_of_their_class(self, tmp_path, content, name):
        torch.save(content, tmp_path / "w.bin")
        with pytest.raises(ForbiddenPickle, match=f"asks to load {name}"):
            open_weights(tmp_path / "w.bin")

    def test_refuses_a_pickle_that_torch_did_not_write_and_does_not_run_it(self, tmp_path):
        (tmp_path / "w.bin").write_bytes(pickle.dumps({"a": Trap(tmp_path / "sprung")}))
        with pytest.raises(DataFileError, match=r"w\.bin"):
            open_weights(tmp_path / "w.bin")
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([torch.ones(1)], "holds a list, expected a state dict"),
            ({"a": torch.ones(1), "epoch": 3}, "holds more than tensors: epoch"),
            ({"a": {"b": torch.ones(1)}}, "holds more than tensors: a"),
            ({"a": torch.eye(2).to_sparse()}, "types that are not read here: a"),
            ({"a": torch.ones(1, dtype=torch.complex64)}, "types that are not read here: a"),
        ],
    )
    def test_refuses_what_is_no_state_dict_of_plain_tensors(self, tmp_path, content, message):
        torch.save(content, tmp_path / "w.bin")
        with pytest.raises(DataFileError, match=message):
            open_weights(tmp_path / "w.bin")

    @pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"garbage" * 100])
    def test_refuses_damaged_files(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataFileError, match=r"is no (readable|state dict)"):
            open_weights(tmp_path / name)

    @pytest.mark.parametrize("ending", [".bin", ".safetensors"])
    def test_refuses_files_that_were_cut_off(self, tmp_path, ending):
        whole = tmp_path / f"whole{ending}"
        save_file({"a": torch.ones(1000)}, whole) if ending == ".safetensors" else torch.save(
            {"a": torch.ones(1000)}, whole
        )
        (tmp_path / f"cut{ending}").write_bytes(whole.read_bytes()[:-2000])
        with pytest.raises(DataFileError, match="is no readable"):
            open_weights(tmp_path / f"cut{ending}")

    def test_refuses_other_files(self, tmp_path):
        (tmp_path / "w.onnx").write_bytes(b"x")
        with pytest.raises(DataFileError, match="is no file of weights"):
            open_weights(tmp_path / "w.onnx")
        with pytest.raises(DataFileError, match="there is no such file"):
            open_weights(tmp_path / "w.bin")


class TestIndex:
    @pytest.mark.parametrize(
        ("places", "message"),
        [
            ({"a": "../w.safetensors"}, r"names files outside its folder: \.\./w\.safetensors"),
            ({"a": "w.safetensors", "c": "w.safetensors"}, "names tensors that its files do not hold: c"),
            ({"a": "w.safetensors"}, "does not name tensors that its files hold: b"),
            ({"a": "other.safetensors"}, "there is no such file"),
            ([], "is no index"),
        ],
    )
    def test_that_does_not_agree_with_its_files_is_refused(self, tmp_path, places, message):
        save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.safetensors")
        write_json(tmp_path / "w.safetensors.index.json", {"weight_map": places})
        with pytest.raises(DataFileError, match=message):
            open_weights(tmp_path / "w.safetensors.index.json")


class TestWriteSafetensors:
    def test_writes_what_the_library_reads_whatever_the_types(self, tmp_path: Path):
        planned = {key: Planned(tuple(tensor.shape), tensor.dtype) for key, tensor in TENSORS.items()}
        asked: list[str] = []

        def tensor_of(key: str) -> torch.Tensor:
            asked.append(key)
            return TENSORS[key]

        write_safetensors(tmp_path / "w.safetensors", planned, tensor_of)
        made = load_file(tmp_path / "w.safetensors")
        assert made.keys() == TENSORS.keys()
        assert all(
            torch.equal(made[key], tensor) and made[key].dtype == tensor.dtype for key, tensor in TENSORS.items()
        )
        assert sorted(asked) == sorted(TENSORS)

    def test_writes_empty_single_and_transposed_tensors(self, tmp_path: Path):
        tensors = {"none": torch.zeros(0, 3), "one": torch.tensor(2.5), "turned": torch.arange(6.0).view(2, 3).T}
        planned = {key: Planned(tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
        write_safetensors(tmp_path / "w.safetensors", planned, tensors.__getitem__)
        made = load_file(tmp_path / "w.safetensors")
        assert all(torch.equal(made[key], tensor) for key, tensor in tensors.items())

    def test_refuses_a_tensor_that_was_not_planned_so(self, tmp_path: Path):
        with pytest.raises(ValueError, match="planned was"):
            write_safetensors(tmp_path / "w.safetensors", {"a": Planned((2,), torch.float32)}, lambda _: torch.zeros(3))
