import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from fashiondpo.diffusion.lora import AdapterWeights, load_adapter
from fashiondpo.diffusion.model import bundle_digest
from fashiondpo.errors import Conflict, InvalidAdapter, InvalidBundle, InvalidInput
from fashiondpo.importing.adapters import adapter_key, adapter_to_published, export_adapter, published_key
from fashiondpo.importing.published import import_folder
from fashiondpo.pretraining.bundle import sd2_unet_without_weights
from tests.published_files import (
    as_peft,
    old_attention_processors,
    opened_files,
    published_adapter,
    save_weights,
    sd2_attentions,
    tiny_attentions,
    write_json,
    write_traps,
)
from tests.tiny_models import TEXT_WIDTH

TENSORS = published_adapter(tiny_attentions())
FIRST = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_k_lora.down.weight"
FORMS = {
    "published": TENSORS,
    "published under unet": {f"unet.{key}": tensor for key, tensor in TENSORS.items()},
    "PEFT": as_peft(TENSORS),
    "PEFT under unet": as_peft(TENSORS, "unet."),
    "PEFT model": as_peft(TENSORS, "base_model.model."),
    "PEFT model with the adapter's name": as_peft(TENSORS, "base_model.model.unet.", ".default"),
}


def imported(source: Path, base: Path, out: Path) -> AdapterWeights:
    import_folder(source, out, base=base)
    return AdapterWeights.from_bytes((out / "adapter.safetensors").read_bytes())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pytorch_lora_weights.bin"
    save_weights(TENSORS, path)
    return path


@pytest.fixture
def adapter(file: Path, bundle_folder: Path, tmp_path: Path) -> Path:
    """The folder of the imported adapter."""
    import_folder(file, tmp_path / "adapter", base=bundle_folder)
    return tmp_path / "adapter"


class TestKeys:
    def test_there_and_back_are_the_same(self):
        for key in published_adapter(sd2_attentions()):
            assert published_key(adapter_key(key)) == key

    def test_drop_the_processor_and_rename_the_matrices(self):
        start = "mid_block.attentions.0.transformer_blocks.0.attn2"
        assert adapter_key(f"{start}.processor.to_out_lora.up.weight") == f"{start}.to_out.0.lora_B.weight"
        assert adapter_key(f"{start}.processor.to_q_lora.down.weight") == f"{start}.to_q.lora_A.weight"

    @pytest.mark.parametrize(
        "key",
        [
            "text_encoder.layers.0.self_attn.to_q.lora_A.weight",
            "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.bias",
            "mid_block.attentions.0.transformer_blocks.0.attn3.to_q.lora_A.weight",
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.lora_A.weight",
        ],
    )
    def test_of_anything_else_are_unknown(self, key):
        assert adapter_key(key) is None


class TestRealShape:
    def test_has_the_published_number_of_tensors_and_parameters(self):
        tensors = published_adapter(sd2_attentions())
        assert len(tensors) == 256
        assert sum(tensor.numel() for tensor in tensors.values()) == 829_952

    def test_is_imported_and_exported_bit_for_bit(self, bundle_folder, tmp_path):
        shutil.copytree(bundle_folder, tmp_path / "base")
        sd2_unet_without_weights().save_config(tmp_path / "base" / "unet")
        tensors = published_adapter(sd2_attentions())
        save_weights(tensors, tmp_path / "pytorch_lora_weights.bin")
        weights = imported(tmp_path / "pytorch_lora_weights.bin", tmp_path / "base", tmp_path / "out")
        assert (weights.rank, weights.alpha, len(weights.tensors)) == (4, 4.0, 256)
        export_adapter(tmp_path / "out", tmp_path / "back.safetensors")
        back = load_file(tmp_path / "back.safetensors")
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[key], tensors[key]) for key in tensors)


class TestImport:
    @pytest.mark.parametrize("ending", [".bin", ".safetensors"])
    @pytest.mark.parametrize("form", FORMS)
    def test_gives_the_same_adapter_from_every_form_of_its_keys(self, bundle_folder, tmp_path, form, ending):
        save_weights(FORMS[form], tmp_path / f"lora{ending}")
        weights = imported(tmp_path / f"lora{ending}", bundle_folder, tmp_path / "out")
        expected = as_peft(TENSORS)
        assert weights.tensors.keys() == expected.keys()
        assert all(torch.equal(weights.tensors[key], expected[key]) for key in expected)
        assert (weights.rank, weights.alpha) == (4, 4.0)
        assert weights.targets == ("to_k", "to_out.0", "to_q", "to_v")
        assert weights.base_digest == bundle_digest(bundle_folder)

    def test_computes_what_the_old_attention_processors_computed(self, bundle, bundle_folder, file, tmp_path):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(2, 8, 8, 8, generator=generator), torch.tensor([900, 10])
        text = torch.randn(2, 24, TEXT_WIDTH, generator=generator)
        with torch.no_grad():
            plain = bundle.unet(*inputs, text).sample
            with old_attention_processors(bundle.unet, TENSORS):
                expected = bundle.unet(*inputs, text).sample
            load_adapter(bundle.unet, imported(file, bundle_folder, tmp_path / "out"), bundle.digest)
            made = bundle.unet(*inputs, text).sample
        assert_close(made, expected, rtol=1e-4, atol=1e-5)
        assert (plain - expected).abs().max() > 1e-3

    def test_accounts_for_every_key(self, bundle_folder, file, tmp_path):
        report = import_folder(file, tmp_path / "out", base=bundle_folder)
        assert set(report.keys_read) == {f"pytorch_lora_weights.bin:{key}" for key in TENSORS}
        assert (report.kind, report.left_out, report.warnings) == ("adapter", (), ())
        assert report.digests == {"adapter.safetensors": report.digest}
        written = json.loads((tmp_path / "out" / "import.json").read_text())
        assert written["keys_read"] == list(report.keys_read)
        assert str(tmp_path) not in json.dumps(written)

    def test_keeps_the_type_of_the_weights(self, bundle_folder, tmp_path):
        save_weights({key: tensor.half() for key, tensor in TENSORS.items()}, tmp_path / "lora.safetensors")
        weights = imported(tmp_path / "lora.safetensors", bundle_folder, tmp_path / "out")
        assert {tensor.dtype for tensor in weights.tensors.values()} == {torch.float16}

    def test_never_opens_the_state_of_the_training_beside_it(self, bundle_folder, file, tmp_path):
        folder, sprung = tmp_path / "checkpoint", tmp_path / "sprung"
        folder.mkdir()
        shutil.copy(file, folder)
        traps = write_traps(folder, sprung)
        with opened_files() as opened:
            report = import_folder(folder, tmp_path / "out", base=bundle_folder)
        assert str(folder / "pytorch_lora_weights.bin") in opened
        assert not [path for path in opened if Path(path).name in traps]
        assert [left.name for left in report.left_out] == list(traps)
        assert {left.reason for left in report.left_out} == {"a training's state; never opened"}
        assert not sprung.exists()

    def test_takes_safetensors_where_both_forms_are_there(self, bundle_folder, file, tmp_path):
        folder = tmp_path / "checkpoint"
        save_weights(TENSORS, folder / "pytorch_lora_weights.safetensors")
        shutil.copy(file, folder)
        report = import_folder(folder, tmp_path / "out", base=bundle_folder)
        assert list(report.source_digests) == ["pytorch_lora_weights.safetensors"]
        assert [left.name for left in report.left_out] == ["pytorch_lora_weights.bin"]

    def test_takes_the_scale_from_peft_s_configuration(self, bundle_folder, tmp_path):
        save_weights(as_peft(TENSORS, "base_model.model."), tmp_path / "peft" / "adapter_model.safetensors")
        write_json(tmp_path / "peft" / "adapter_config.json", {"r": 4, "lora_alpha": 16, "bias": "none"})
        (tmp_path / "peft" / "README.md").write_text("A card.")
        report = import_folder(tmp_path / "peft", tmp_path / "out", base=bundle_folder)
        assert AdapterWeights.from_bytes((tmp_path / "out/adapter.safetensors").read_bytes()).alpha == 16.0
        assert "adapter_config.json" in report.keys_read
        assert [left.name for left in report.left_out] == ["README.md"]

    def test_leaves_out_a_configuration_of_other_weights(self, bundle_folder, file, tmp_path):
        write_json(tmp_path / "checkpoint" / "adapter_config.json", {"lora_alpha": 16})
        shutil.copy(file, tmp_path / "checkpoint")
        report = import_folder(tmp_path / "checkpoint", tmp_path / "out", base=bundle_folder)
        assert AdapterWeights.from_bytes((tmp_path / "out/adapter.safetensors").read_bytes()).alpha == 4.0
        assert [left.name for left in report.left_out] == ["adapter_config.json"]

    def test_takes_the_scale_from_metadata_of_diffusers(self, bundle_folder, tmp_path):
        metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2})}
        save_file(as_peft(TENSORS, "unet."), tmp_path / "lora.safetensors", metadata=metadata)
        assert imported(tmp_path / "lora.safetensors", bundle_folder, tmp_path / "out").alpha == 2.0

    def test_says_so_where_peft_s_keys_come_without_a_scale(self, bundle_folder, tmp_path):
        save_weights(as_peft(TENSORS), tmp_path / "lora.safetensors")
        report = import_folder(tmp_path / "lora.safetensors", tmp_path / "out", base=bundle_folder)
        assert report.warnings == ("the file says nothing about its scale: taken as 1 (alpha = rank = 4)",)


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    tensors = dict(TENSORS) | {FIRST: changes["first"]} if "first" in changes else dict(TENSORS)
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


class TestRefusals:
    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            (changed(first=None), r"1 of 64 tensors are missing: down_blocks\.1.+attn1\.to_k\.lora_A\.weight"),
            (
                {key: tensor for key, tensor in TENSORS.items() if not key.startswith("mid_block")},
                r"16 of 64 tensors are missing: mid_block\.attentions\.0.+ and 11 more",
            ),
            (changed(first=torch.zeros(8, 32)), r"mixed ranks: most have rank 4, but not down_blocks.+to_k_lora\.down"),
            (changed(first=torch.zeros(4, 33)), r"to_k_lora\.down\.weight' has shape \(4, 33\), .* needs \(4, 32\)"),
            (changed(first=torch.zeros(4)), r"1 tensors are no matrices: down_blocks.+to_k_lora\.down\.weight"),
            (
                changed(first=torch.full((4, 32), torch.nan)),
                r"non-finite values in down_blocks.+to_k_lora\.down\.weight",
            ),
            (
                changed(first=torch.full((4, 32), torch.inf)),
                r"non-finite values in down_blocks.+to_k_lora\.down\.weight",
            ),
            (TENSORS | {"text_encoder.x": torch.zeros(1)}, "1 keys are of no known adapter format: text_encoder.x"),
            (TENSORS | {f"unet.{FIRST}": TENSORS[FIRST]}, r"1 tensors are there twice.+: unet\.down_blocks"),
            (
                TENSORS | {FIRST.replace("down_blocks.1", "down_blocks.7"): TENSORS[FIRST]},
                r"1 tensors are for blocks that this UNet does not have: down_blocks\.7",
            ),
        ],
    )
    def test_name_the_tensors(self, bundle_folder, tmp_path, tensors, message):
        save_weights(tensors, tmp_path / "lora.bin")
        with pytest.raises(InvalidAdapter, match=message):
            import_folder(tmp_path / "lora.bin", tmp_path / "out", base=bundle_folder)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("option", ["use_dora", "use_rslora", "rank_pattern", "modules_to_save"])
    def test_name_options_of_peft_that_are_not_known(self, bundle_folder, tmp_path, option):
        save_weights(as_peft(TENSORS), tmp_path / "peft" / "adapter_model.bin")
        write_json(tmp_path / "peft" / "adapter_config.json", {"lora_alpha": 4, option: {"x": 1}})
        with pytest.raises(InvalidAdapter, match=option):
            import_folder(tmp_path / "peft", tmp_path / "out", base=bundle_folder)

    def test_an_adapter_without_its_base_is_refused(self, file, tmp_path):
        with pytest.raises(InvalidInput, match="name the imported bundle as the base"):
            import_folder(file, tmp_path / "out")

    def test_a_base_that_is_no_bundle_is_refused(self, file, base, tmp_path):
        with pytest.raises(InvalidBundle, match="is no bundle of this repository"):
            import_folder(file, tmp_path / "out", base=base)

    @pytest.mark.parametrize("option", ["legacy", "widen", "use_ema"])
    def test_options_of_base_models_are_refused(self, file, bundle_folder, tmp_path, option):
        with pytest.raises(InvalidInput, match="would change nothing"):
            import_folder(file, tmp_path / "out", base=bundle_folder, **{option: True})

    def test_a_folder_that_holds_something_is_not_overwritten(self, file, bundle_folder, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("keep")
        with pytest.raises(Conflict, match="already exists"):
            import_folder(file, tmp_path / "out", base=bundle_folder)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


class TestExport:
    @pytest.mark.parametrize("ending", [".bin", ".safetensors"])
    def test_gives_back_the_published_file_bit_for_bit(self, adapter, tmp_path, ending):
        export_adapter(adapter, tmp_path / f"back{ending}")
        if ending == ".bin":
            back = torch.load(tmp_path / "back.bin", weights_only=True)
        else:
            back = load_file(tmp_path / "back.safetensors")
        assert back.keys() == TENSORS.keys()
        assert all(torch.equal(back[key], TENSORS[key]) and back[key].dtype == TENSORS[key].dtype for key in TENSORS)

    def test_puts_another_scale_into_the_up_matrices(self):
        ours = AdapterWeights(as_peft(TENSORS), 4, 8.0, ("to_k", "to_out.0", "to_q", "to_v"), "0" * 64)
        back = adapter_to_published(ours)
        for key, tensor in TENSORS.items():
            assert torch.equal(back[key], 2 * tensor if ".up." in key else tensor)

    def test_refuses_an_adapter_of_fewer_projections(self):
        tensors = {key: tensor for key, tensor in as_peft(TENSORS).items() if ".to_q." in key}
        with pytest.raises(InvalidAdapter, match="this adapter changes to_q"):
            adapter_to_published(AdapterWeights(tensors, 4, 4.0, ("to_q",), "0" * 64))

    def test_refuses_what_is_no_adapter(self, file, tmp_path):
        with pytest.raises(InvalidAdapter, match="not a safetensors file"):
            export_adapter(file, tmp_path / "back.bin")

    @pytest.mark.parametrize("name", ["back.pt", "back"])
    def test_refuses_other_endings(self, adapter, tmp_path, name):
        with pytest.raises(InvalidInput, match=r"must end in \.safetensors or \.bin"):
            export_adapter(adapter, tmp_path / name)

    def test_overwrites_nothing(self, adapter, file):
        before = file.read_bytes()
        with pytest.raises(InvalidInput, match="already exists"):
            export_adapter(adapter, file)
        assert file.read_bytes() == before
