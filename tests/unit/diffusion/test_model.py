import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from fashiondpo.diffusion.ddim import NoiseSchedule
from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.diffusion.model import UNSAVED, DiFashion, bundle_digest, load_bundle, save_bundle
from fashiondpo.diffusion.mutual import MutualEncoder
from fashiondpo.errors import InvalidBundle
from fashiondpo.outfits.images import white_image
from fashiondpo.outfits.model import Category
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, build_autoencoder
from tests.tiny_models import TEXT_WIDTH, TINY_SAMPLER, build_tiny_bundle, tiny_unet

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "mutual_encoder", "difashion.json")
NETWORKS = ("unet", "vae", "text_encoder", "mutual_encoder")


def outputs(bundle: DiFashion) -> tuple[torch.Tensor, ...]:
    """What each network makes of something."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 8, 8, 8, generator=generator)
    picture = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    with torch.no_grad():
        return (
            bundle.unet(latents, 500, torch.ones(1, 3, TEXT_WIDTH)).sample,
            bundle.encode_images([picture]),
            torch.from_numpy(bundle.decode_latents(latents[:, :4])[0]),
            bundle.encode_prompts(["a photo of a dress"]),
            bundle.mutual_encoder(latents[:, :4]),
        )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiFashion, Path]:
    folder = tmp_path_factory.mktemp("saved") / "bundle"
    return save_bundle(build_tiny_bundle(), folder), folder


@pytest.fixture
def folder(saved: tuple[DiFashion, Path], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(saved[1], tmp_path / "bundle"))


def weights_of(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


class TestSaveAndLoad:
    def test_give_back_a_bundle_that_computes_the_same(self, saved):
        made, folder = saved
        again = load_bundle(folder)
        for before, after in zip(made.networks(), again.networks(), strict=True):
            assert all(torch.equal(after.state_dict()[key], value) for key, value in before.state_dict().items())
        for one, other in zip(outputs(made), outputs(again), strict=True):
            assert_close(one, other, rtol=1e-5, atol=1e-5)  # where weights lie in memory decides how sums are ordered
        assert (again.digest, again.sampler, again.categories) == (made.digest, TINY_SAMPLER, made.categories)
        assert again.schedule.scheduler.config.prediction_type == "epsilon"

    def test_do_not_write_where_a_part_was_loaded_from(self, saved, tmp_path):
        save_bundle(load_bundle(saved[1]), tmp_path / "copy")
        written = [path.read_text() for path in (tmp_path / "copy").rglob("*.json")]
        assert not [text for text in written if str(saved[1]) in text]

    def test_know_the_digest_of_what_was_written(self, saved):
        made, folder = saved
        assert made.digest == bundle_digest(folder) != UNSAVED

    def test_in_half_precision_write_half_the_bytes_and_keep_the_memory_as_it_was(self, saved, tmp_path):
        made = build_tiny_bundle()
        before = outputs(made)
        save_bundle(made, tmp_path, dtype=torch.float16)
        assert all(torch.equal(a, b) for a, b in zip(before, outputs(made), strict=True))
        assert {p.dtype for network in made.networks() for p in network.parameters()} == {torch.float32}
        again = load_bundle(tmp_path)
        for part in NETWORKS:
            tensors = load_file(weights_of(tmp_path, part))
            assert {value.dtype for value in tensors.values()} == {torch.float16}
            assert weights_of(tmp_path, part).stat().st_size < 0.7 * weights_of(saved[1], part).stat().st_size
        for name, value in made.unet.state_dict().items():
            assert torch.equal(again.unet.state_dict()[name], value.half().float())

    def test_can_load_in_another_type(self, saved):
        again = load_bundle(saved[1], dtype=torch.bfloat16)
        assert {p.dtype for network in again.networks() for p in network.parameters()} == {torch.bfloat16}
        assert again.encode_images([white_image(32)]).dtype == torch.float32
        assert again.encode_prompts(["dress"]).dtype == torch.float32

    def test_freeze_every_network(self, saved):
        again = load_bundle(saved[1])
        assert not any(p.requires_grad for network in again.networks() for p in network.parameters())
        assert not any(network.training for network in again.networks())

    def test_refuse_to_save_a_unet_that_carries_an_adapter(self, tmp_path):
        made = build_tiny_bundle()
        add_adapter(made.unet, rank=2)
        with pytest.raises(InvalidBundle, match="carries an adapter: take it off"):
            save_bundle(made, tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()


class TestLoadBundle:
    @pytest.mark.parametrize("part", PARTS)
    def test_names_a_missing_part(self, folder, part):
        shutil.rmtree(folder / part) if (folder / part).is_dir() else (folder / part).unlink()
        with pytest.raises(InvalidBundle, match=f"is not a DiFashion bundle: {part} missing"):
            load_bundle(folder)

    @pytest.mark.parametrize("part", NETWORKS)
    def test_names_a_tensor_that_is_missing(self, folder, part):
        tensors = load_file(weights_of(folder, part))
        lost = max(tensors)
        del tensors[lost]
        save_file(tensors, weights_of(folder, part), {"format": "pt"})
        with pytest.raises(InvalidBundle, match=rf"{part} does not fit: 1 tensors missing \['.*{lost[-12:]}'\]"):
            load_bundle(folder)

    @pytest.mark.parametrize("part", NETWORKS)
    def test_names_a_tensor_that_it_does_not_know(self, folder, part):
        tensors = load_file(weights_of(folder, part)) | {"stranger.weight": torch.zeros(2)}
        save_file(tensors, weights_of(folder, part), {"format": "pt"})
        with pytest.raises(InvalidBundle, match=rf"{part} does not fit: 0 .* 1 unknown \['stranger\.weight'\]"):
            load_bundle(folder)

    @pytest.mark.parametrize("part", NETWORKS)
    def test_names_the_part_whose_tensors_have_other_shapes(self, folder, part):
        tensors = load_file(weights_of(folder, part))
        key = min(tensors)
        save_file(tensors | {key: torch.zeros(1, 1)}, weights_of(folder, part), {"format": "pt"})
        with pytest.raises(InvalidBundle, match=rf"{part} cannot be read"):
            load_bundle(folder)

    @pytest.mark.parametrize("part", NETWORKS)
    def test_names_the_part_whose_file_is_damaged(self, folder, part):
        weights_of(folder, part).write_bytes(weights_of(folder, part).read_bytes()[:500])
        with pytest.raises(InvalidBundle, match=rf"{part} cannot be read"):
            load_bundle(folder)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"sampler": {"steps": 3}, "categories": []}'])
    def test_refuses_settings_that_cannot_be_read(self, folder, content):
        (folder / "difashion.json").write_text(content)
        with pytest.raises(InvalidBundle, match=r"difashion\.json cannot be read"):
            load_bundle(folder)


class TestBundleDigest:
    def test_changes_when_any_file_changes(self, saved, folder):
        digests = {saved[0].digest}
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        assert len(files) >= 12
        for path in files:
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            digests.add(bundle_digest(folder))
            path.write_bytes(content)
        assert len(digests) == len(files) + 1
        assert bundle_digest(folder) == saved[0].digest

    def test_changes_when_a_file_is_added_or_moved(self, saved, folder):
        (folder / "unet" / "config.json").rename(folder / "unet" / "other.json")
        moved = bundle_digest(folder)
        (folder / "unet" / "new.json").write_text("")
        assert len({saved[0].digest, moved, bundle_digest(folder)}) == 3

    def test_does_not_depend_on_where_the_folder_is(self, saved, folder):
        assert bundle_digest(folder) == saved[0].digest

    def test_leaves_out_what_does_not_belong_to_the_bundle(self, saved, folder):
        (folder / "README.md").write_text("A card.")
        assert bundle_digest(folder) == saved[0].digest


class TestDiFashion:
    def test_refuses_a_unet_that_takes_no_history(self):
        with pytest.raises(InvalidBundle, match="takes 4 channels and predicts 4; DiFashion needs twice as many"):
            replace(build_tiny_bundle(), unet=tiny_unet(in_channels=4))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"mutual_encoder": MutualEncoder(latent_size=4)}, "latent side of the mutual encoder is 4, .* needs 8"),
            (
                {"mutual_encoder": MutualEncoder(latent_size=8, latent_channels=3)},
                "latent channels of the mutual encoder is 3",
            ),
            (
                {"vae": build_autoencoder(AutoencoderSettings(channels=(8, 8), latent_channels=3))},
                "latent channels of the VAE is 3",
            ),
        ],
    )
    def test_refuses_parts_that_do_not_fit_the_unet(self, changes, message):
        with pytest.raises(InvalidBundle, match=message):
            replace(build_tiny_bundle(), **changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"prediction_type": "sample"}, "unsupported prediction type 'sample'"),
            ({"clip_sample": True}, "the scheduler clips"),
            ({"thresholding": True}, "the scheduler clips"),
        ],
    )
    def test_refuses_a_scheduler_whose_steps_it_cannot_take(self, changes, message):
        made = build_tiny_bundle()
        scheduler = DDIMScheduler.from_config(made.schedule.scheduler.config, **changes)
        with pytest.raises(InvalidBundle, match=message):
            replace(made, schedule=NoiseSchedule(scheduler))

    def test_knows_its_sizes(self, bundle):
        assert bundle.latent_shape == (4, 8, 8)
        assert bundle.image_size == 32
        assert bundle.device == torch.device("cpu")

    def test_scales_latents_by_the_factor_of_the_vae(self, bundle):
        bundle.vae.register_to_config(scaling_factor=0.5)
        try:
            half = bundle.encode_images([white_image(32)])
            bundle.vae.register_to_config(scaling_factor=1.0)
            whole = bundle.encode_images([white_image(32)])
        finally:
            bundle.vae.register_to_config(scaling_factor=0.18215)
        assert_close(half, whole / 2)

    def test_encodes_and_decodes_as_the_vae_does(self, bundle):
        picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pixels = torch.from_numpy(picture / 127.5 - 1).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            mode = bundle.vae.encode(pixels).latent_dist.mode()
            painted = bundle.vae.decode(mode).sample[0].clamp(-1, 1)
        latents = bundle.encode_images([picture])
        assert_close(latents, mode * bundle.vae.config.scaling_factor, rtol=1e-4, atol=1e-5)
        (decoded,) = bundle.decode_latents(latents)
        expected = (painted.permute(1, 2, 0).double().numpy() + 1) * 127.5
        assert decoded.dtype == np.uint8
        assert np.abs(decoded - expected).max() <= 0.51

    def test_decodes_in_batches_to_the_same_pictures(self, bundle):
        latents = torch.randn(5, *bundle.latent_shape, generator=torch.Generator().manual_seed(0))
        together, apart = bundle.decode_latents(latents), bundle.decode_latents(latents, batch_size=2)
        for a, b in zip(together, apart, strict=True):
            assert np.abs(a.astype(int) - b.astype(int)).max() <= 1

    def test_pads_and_cuts_prompts_to_the_length_of_the_tokenizer(self, bundle):
        length = bundle.tokenizer.model_max_length
        assert bundle.tokenize(["", "dress " * 100]).shape == (2, length)
        assert bundle.encode_prompts(["", "dress"]).shape == (2, length, TEXT_WIDTH)

    def test_encodes_a_prompt_the_same_beside_others(self, bundle):
        assert_close(bundle.encode_prompts(["a bag", "a coat"])[1], bundle.encode_prompts(["a coat"])[0])


def test_categories_are_written_with_what_the_prompt_needs(tmp_path):
    categories = {3: Category(3, "sandals", is_paired=True), 12: Category(12, "Röcke")}
    save_bundle(build_tiny_bundle(categories=categories), tmp_path)
    assert load_bundle(tmp_path).categories == categories
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "DiFashion"
