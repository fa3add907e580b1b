"""CLIP models from every kind of place, without a network."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.judges.features import OpenClipFeatures
from tests.tiny_clip import MODEL_CONFIG, PREPROCESSING, build_tiny_clip, save_tiny_clip, save_weights_file

IMAGES = list(np.random.default_rng(0).integers(0, 256, (5, 60, 60, 3), np.uint8))
ARCHITECTURE = "tiny-ViT-for-tests"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory):
    """A small architecture that open_clip knows by name while these tests run."""
    file = tmp_path_factory.mktemp("configs") / f"{ARCHITECTURE}.json"
    file.write_text(json.dumps(MODEL_CONFIG))
    open_clip.add_model_config(file)
    yield ARCHITECTURE
    open_clip.factory._MODEL_CONFIG_PATHS.remove(file)
    del open_clip.factory._MODEL_CONFIGS[ARCHITECTURE]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch):
    """Whoever asks the network fails the test, whatever environment says that it is offline."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestFolderOfAHub:
    def test_gives_the_model_s_own_features_of_open_clip_s_own_pixels(self, folder: Path):
        transform = image_transform_v2(PreprocessCfg(size=48, **PREPROCESSING), is_train=False)
        pixels = torch.stack([transform(Pillow.fromarray(image)) for image in IMAGES])
        expected = build_tiny_clip().eval().encode_image(pixels, normalize=True)
        assert_close(OpenClipFeatures.load(folder).images(IMAGES), expected)

    def test_takes_texts_by_open_clip_s_tokenizer(self, folder: Path):
        expected = build_tiny_clip().eval().encode_text(open_clip.tokenize(["a red bag"]), normalize=True)
        assert_close(OpenClipFeatures.load(folder).texts(["a red bag"]), expected)

    def test_is_not_saved_as_one_of_our_own(self, folder: Path, tmp_path: Path):
        with pytest.raises(InvalidInput, match="published model"):
            OpenClipFeatures.load(folder).save(tmp_path)

    @pytest.mark.parametrize("weights", ["open_clip_pytorch_model.bin", "model.safetensors", "mine.pt"])
    def test_may_have_other_names_and_formats_for_its_weights(self, folder: Path, tmp_path: Path, weights: str):
        other = save_tiny_clip(tmp_path / "clip", weights=weights)
        assert OpenClipFeatures.load(other).feature_id == OpenClipFeatures.load(folder).feature_id

    def test_other_pixels_make_other_features_under_another_id(self, folder: Path, tmp_path: Path):
        other = OpenClipFeatures.load(save_tiny_clip(tmp_path, preprocessing={"mean": [0.5, 0.5, 0.5]}))
        same = OpenClipFeatures.load(folder)
        assert other.feature_id != same.feature_id
        assert other.feature_id.split("-")[:2] == same.feature_id.split("-")[:2]  # the weights are the same
        assert not torch.allclose(other.images(IMAGES), same.images(IMAGES))

    def test_with_several_weights_and_no_usual_name_has_to_be_told_which(self, tmp_path: Path):
        folder = save_tiny_clip(tmp_path / "clip", weights="a.safetensors")
        save_weights_file(folder / "b.bin", build_tiny_clip(1))
        with pytest.raises(InvalidBundle, match=r"name one of a\.safetensors, b\.bin"):
            OpenClipFeatures.load(folder)
        chosen = [OpenClipFeatures.load(folder / name).feature_id for name in ("a.safetensors", "b.bin")]
        assert chosen[0] != chosen[1]

    def test_without_weights_is_refused(self, folder: Path, tmp_path: Path):
        shutil.copy(folder / "open_clip_config.json", tmp_path)
        with pytest.raises(InvalidBundle, match="none; expected"):
            OpenClipFeatures.load(tmp_path)

    @pytest.mark.parametrize("written", ["{", "[]", '{"model_cfg": {"embed_dim": 3}}', '{"preprocess_cfg": {}}'])
    def test_whose_configuration_says_nothing_is_refused(self, folder: Path, tmp_path: Path, written: str):
        shutil.copytree(folder, tmp_path / "clip")
        (tmp_path / "clip" / "open_clip_config.json").write_text(written)
        with pytest.raises(InvalidBundle, match="no open_clip configuration"):
            OpenClipFeatures.load(tmp_path / "clip")

    def test_whose_text_tower_lies_on_a_hub_is_refused(self, folder: Path, tmp_path: Path):
        shutil.copytree(folder, tmp_path / "clip")
        config = {**MODEL_CONFIG, "text_cfg": {"hf_model_name": "some/text-model", "hf_tokenizer_name": "some/one"}}
        (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        with pytest.raises(InvalidBundle, match="text tower from a model hub"):
            OpenClipFeatures.load(tmp_path / "clip")


class TestPublishedName:
    def test_with_a_file_is_that_architecture_with_those_weights(self, architecture: str, folder: Path):
        named = OpenClipFeatures.load(f"open_clip:{architecture}/{folder}/open_clip_model.safetensors")
        # the folder says the same of its pixels as open_clip does by default
        by_folder = OpenClipFeatures.load(folder)
        assert named.feature_id == by_folder.feature_id
        assert_close(named.images(IMAGES), by_folder.images(IMAGES))
        assert named.feature_id.startswith(architecture)

    def test_may_have_tag_or_file_apart(self, architecture: str, folder: Path):
        file = str(folder / "open_clip_model.safetensors")
        apart = OpenClipFeatures.load(architecture, pretrained=file)
        assert apart.feature_id == OpenClipFeatures.load(f"open_clip:{architecture}/{file}").feature_id

    @pytest.mark.parametrize("name", ["ViT-B-32/laion2b_s34b_b79k", "ViT-H-14/laion2b_s32b_b79k"])
    def test_whose_weights_are_not_on_this_machine_says_how_to_get_them(self, name: str, monkeypatch, tmp_path: Path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(InvalidBundle, match=r"not in this machine's model cache.* `hf download laion/CLIP-ViT-"):
            OpenClipFeatures.load(f"open_clip:{name}")

    def test_finds_weights_in_the_model_cache(self, architecture: str, folder: Path, monkeypatch, tmp_path: Path):
        place = tmp_path / "models--maker--tiny" / "snapshots" / ("a" * 40)
        place.mkdir(parents=True)
        shutil.copy(folder / "open_clip_model.safetensors", place)
        (tmp_path / "models--maker--tiny" / "refs").mkdir()
        (tmp_path / "models--maker--tiny" / "refs" / "main").write_text("a" * 40)
        monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        tag = {"hf_hub": "maker/tiny/", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "quick_gelu": True}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, {"tagged": tag})
        found = OpenClipFeatures.load(f"open_clip:{architecture}/tagged")
        pixels = torch.stack([torch.from_numpy(image[6:54, 6:54]).permute(2, 0, 1) / 255 for image in IMAGES]) * 2 - 1
        expected = build_tiny_clip(quick_gelu=True).eval().encode_image(pixels, normalize=True)
        assert_close(found.images([image[6:54, 6:54] for image in IMAGES]), expected, rtol=1e-4, atol=1e-5)
        assert found.feature_id.endswith("-quick")

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("open_clip:ViT-B-32", "does not say which weights"),
            ("open_clip:ViT-B-32/", "does not say which weights"),
            ("open_clip:ViT-B-32/no-such-tag", "its tags are: openai, "),
            ("open_clip:NoSuchModel/openai", "NoSuchModel is neither a folder"),
            ("open_clip:ViT-B-32-quickgelu/laion2b_s34b_b79k", "its tags are"),
        ],
    )
    def test_that_cannot_be_is_refused_with_what_can(self, place: str, message: str):
        with pytest.raises(InvalidBundle, match=message):
            OpenClipFeatures.load(place)

    def test_that_has_quick_gelu_against_its_tag_is_refused(self, monkeypatch):
        tags = {"plain": {"hf_hub": "maker/tiny/"}}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-32-quickgelu", tags)
        with pytest.raises(InvalidBundle, match="trained without QuickGELU"):
            OpenClipFeatures.load("open_clip:ViT-B-32-quickgelu/plain")


class TestWeightsFile:
    def place(self, architecture: str, path: Path) -> str:
        return f"open_clip:{architecture}/{path}"

    def test_of_another_architecture_is_refused(self, tmp_path: Path):
        file = save_weights_file(tmp_path / "tiny.safetensors", build_tiny_clip())
        with pytest.raises(InvalidBundle, match="does not hold the weights of a CLIP model RN50"):
            OpenClipFeatures.load(self.place("RN50", file))

    def test_of_another_resolution_is_refused_and_not_stretched(self, architecture: str, tmp_path: Path):
        larger = {**MODEL_CONFIG["vision_cfg"], "image_size": 64}
        for name in ("larger.safetensors", "larger.bin"):
            file = save_weights_file(tmp_path / name, build_tiny_clip(vision_cfg=larger))
            with pytest.raises(InvalidBundle, match="positional_embedding has shape"):
                OpenClipFeatures.load(self.place(architecture, file))

    def test_that_lacks_a_tensor_is_refused(self, architecture: str, folder: Path, tmp_path: Path):
        state = load_file(folder / "open_clip_model.safetensors")
        del state["visual.proj"]
        save_file(state, tmp_path / "part.safetensors")
        with pytest.raises(InvalidBundle, match=r"visual\.proj"):
            OpenClipFeatures.load(self.place(architecture, tmp_path / "part.safetensors"))

    @pytest.mark.parametrize("name", ["cut.safetensors", "cut.bin"])
    def test_that_was_cut_off_is_refused(self, architecture: str, tmp_path: Path, name: str):
        file = save_weights_file(tmp_path / name, build_tiny_clip())
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(InvalidBundle, match="does not hold the weights"):
            OpenClipFeatures.load(self.place(architecture, file))

    def test_that_would_run_code_is_refused(self, architecture: str, tmp_path: Path):
        torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "program.pt")
        with pytest.raises(InvalidBundle, match="does not hold the weights"):
            OpenClipFeatures.load(self.place(architecture, tmp_path / "program.pt"))

    @pytest.mark.parametrize("content", [{}, torch.zeros(3), [1, 2]])
    def test_that_holds_something_else_is_refused(self, architecture: str, tmp_path: Path, content: object):
        torch.save(content, tmp_path / "other.bin")
        with pytest.raises(InvalidBundle, match="does not hold the weights"):
            OpenClipFeatures.load(self.place(architecture, tmp_path / "other.bin"))

    def test_of_an_unknown_format_is_refused(self, architecture: str, tmp_path: Path):
        (tmp_path / "weights.npz").write_bytes(b"")
        with pytest.raises(InvalidBundle, match=r"expected one of \.safetensors"):
            OpenClipFeatures.load(self.place(architecture, tmp_path / "weights.npz"))


@pytest.mark.real_size
class TestRealSize:
    def test_a_vit_b_32_of_random_weights_is_loaded_from_a_file(self, tmp_path: Path):
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32").eval()
        file = save_weights_file(tmp_path / "b32.safetensors", model)
        features = OpenClipFeatures.load(f"open_clip:ViT-B-32/{file}")
        assert (features.dim, features._preprocessing.size_px) == (512, 224)
        pixels = torch.stack([open_clip.image_transform(224, is_train=False)(Pillow.fromarray(IMAGES[0]))])
        assert_close(features.images(IMAGES[:1]), model.encode_image(pixels, normalize=True))
