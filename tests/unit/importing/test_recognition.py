import re

import pytest
import torch

from fashiondpo.errors import InvalidBundle, InvalidInput, NotFound
from fashiondpo.importing.published import import_folder
from fashiondpo.importing.recognition import recognise
from fashiondpo.importing.report import Account
from tests.published_files import opened_files, published_adapter, save_weights, tiny_attentions, write_traps


class TestRecognise:
    def test_tells_base_models_adapters_and_vbpr_by_their_content(self, published, base, tmp_path):
        save_weights(published_adapter(tiny_attentions()), tmp_path / "one" / "any-name.bin")
        vbpr = {
            "i_map1.weight": torch.zeros(8, 4),
            "i_map2.weight": torch.zeros(2, 8),
            "visual_bias": torch.zeros(1, 4),
        }
        save_weights({f"module.rec_model.{key}": value for key, value in vbpr.items()}, tmp_path / "any-other-name.pt")
        sources = published, base, tmp_path / "one", tmp_path / "any-other-name.pt"
        assert [recognise(source, Account()).kind for source in sources] == [
            "difashion",
            "stable_diffusion",
            "adapter",
            "vbpr",
        ]

    def test_a_place_where_nothing_is_is_not_found(self, tmp_path):
        with pytest.raises(NotFound, match="there is no file or folder"):
            recognise(tmp_path / "nothing", Account())

    def test_a_bundle_needs_no_import(self, bundle_folder):
        with pytest.raises(InvalidInput, match="is a bundle of this repository already"):
            recognise(bundle_folder, Account())

    def test_a_folder_without_weights_is_refused(self, tmp_path):
        (tmp_path / "README.md").write_text("A card.")
        with pytest.raises(InvalidInput, match="holds nothing that can be imported"):
            recognise(tmp_path, Account())

    def test_a_unet_without_weights_is_refused(self, tmp_path):
        (tmp_path / "unet").mkdir()
        with pytest.raises(InvalidBundle, match="unet has no weights"):
            recognise(tmp_path, Account())

    def test_weights_of_something_else_are_refused_and_say_what_they_are_called(self, tmp_path):
        save_weights({f"layer{i}.weight": torch.zeros(1) for i in range(7)}, tmp_path / "other.safetensors")
        with pytest.raises(InvalidInput, match=r"its 7 tensors are called layer0\.weight, .* and 2 more"):
            recognise(tmp_path / "other.safetensors", Account())

    def test_several_files_of_weights_are_the_user_s_choice(self, tmp_path):
        for name in ("pytorch_lora_weights.bin", "pytorch_model.bin"):
            save_weights(published_adapter(tiny_attentions()), tmp_path / name)
        with pytest.raises(InvalidInput, match=r"name one of pytorch_lora_weights\.bin, pytorch_model\.bin"):
            recognise(tmp_path, Account())

    def test_a_training_s_state_is_not_opened_even_if_it_is_named(self, tmp_path):
        for name in write_traps(tmp_path, tmp_path / "sprung"):
            with (
                opened_files() as opened,
                pytest.raises(InvalidInput, match=f"{re.escape(name)} is a training's state"),
            ):
                import_folder(tmp_path / name, tmp_path / "out")
            assert not [path for path in opened if path.endswith(name)]
        assert not (tmp_path / "sprung").exists()
