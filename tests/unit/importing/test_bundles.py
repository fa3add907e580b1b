import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fashiondpo.contracts import SamplerSettings
from fashiondpo.diffusion.conditions import ConditionEncoder, Conditions
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.diffusion.unet import widen_conv_in
from fashiondpo.errors import ForbiddenPickle, InvalidBundle, InvalidInput
from fashiondpo.importing.published import import_folder
from fashiondpo.outfits.mini import CATEGORIES
from tests.published_files import (
    Trap,
    opened_files,
    save_weights,
    write_difashion,
    write_json,
    write_stable_diffusion,
    write_traps,
    write_unet,
)
from tests.tiny_models import build_tiny_bundle, tiny_unet
from tests.tiny_rounds import HISTORY, Squares, blanks

NETWORKS = ("unet", "vae", "text_encoder", "mutual_encoder")
UNET_FILE = "unet/diffusion_pytorch_model.bin"


def assert_same_weights(made: DiFashion, expected: DiFashion, names: tuple[str, ...] = NETWORKS) -> None:
    for name in names:
        ours, theirs = getattr(made, name).state_dict(), getattr(expected, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def with_change(path: Path, key: str, tensor: torch.Tensor | None) -> None:
    state = dict(torch.load(path, weights_only=True))
    state[key] = tensor
    save_weights({key: value for key, value in state.items() if value is not None}, path)


class TestDiFashionFolder:
    @pytest.mark.parametrize("ending", [".bin", ".safetensors"])
    def test_becomes_a_bundle_with_every_weight_as_it_was(self, original, tmp_path, ending):
        source = write_difashion(original, tmp_path / "source", ending=ending)
        write_stable_diffusion(original, source, ending=ending)
        report = import_folder(source, tmp_path / "out", categories=CATEGORIES)
        made = load_bundle(tmp_path / "out")
        assert_same_weights(made, original)
        assert (report.kind, report.digest) == ("difashion", made.digest)
        assert made.categories == dict(CATEGORIES)

    def test_takes_what_it_lacks_from_stable_diffusion(self, original, published, base, tmp_path):
        report = import_folder(published, tmp_path / "out", base=base)
        assert_same_weights(load_bundle(tmp_path / "out"), original)
        assert {key.partition(":")[0] for key in report.keys_read} == {"unet", "fashion_encoder", "vae", "text_encoder"}

    def test_reads_prompts_as_the_original_tokenizer_does(self, original, published, base, tmp_path):
        import_folder(published, tmp_path / "out", base=base)
        prompts = ["", "A photo of a pair of sandals, on white background, high quality", "zzz 12 é"]
        assert torch.equal(load_bundle(tmp_path / "out").tokenize(prompts), original.tokenize(prompts))

    def test_has_the_noise_levels_of_the_published_scheduler(self, original, published, base, tmp_path):
        import_folder(published, tmp_path / "out", base=base)
        schedule = load_bundle(tmp_path / "out").schedule
        assert torch.equal(schedule.alphas, original.schedule.alphas)
        assert schedule.scheduler.final_alpha_cumprod == original.schedule.scheduler.final_alpha_cumprod
        assert torch.equal(schedule.timesteps(50), original.schedule.timesteps(50))
        assert schedule.prediction_type == "epsilon"

    def test_accounts_for_every_tensor_of_the_files(self, original, published, base, tmp_path):
        report = import_folder(published, tmp_path / "out", base=base)
        read = {key.partition(":")[2] for key in report.keys_read if key.startswith("unet:")}
        assert read == set(original.unet.state_dict())
        assert {"vae:encoder.mid_block.attentions.0.proj_attn.weight"} <= set(report.keys_read)
        assert [(left.name, left.reason) for left in report.left_out] == [
            (
                "text_encoder:text_model.embeddings.position_ids",
                "the positions 0, 1, 2, …, which are not stored any more",
            )
        ]
        assert set(report.source_digests) == {
            "unet/diffusion_pytorch_model.bin",
            "fashion_encoder/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.bin",
            "text_encoder/pytorch_model.bin",
        }

    def test_leaves_everything_else_unopened_and_says_so(self, published, base, tmp_path):
        traps = write_traps(published, tmp_path / "sprung")
        shutil.copy(published / "unet/diffusion_pytorch_model.bin", published / "pytorch_lora_weights.bin")
        shutil.copytree(published / "unet", published / "unet_ema")
        with opened_files() as opened:
            report = import_folder(published, tmp_path / "out", base=base)
        left = {left.name: left.reason for left in report.left_out}
        assert {name: left[name] for name in traps} == dict.fromkeys(traps, "a training's state; never opened")
        assert left["pytorch_lora_weights.bin"].startswith("an adapter")
        assert left["unet_ema"].startswith("the running average")
        assert not [path for path in opened if Path(path).name in traps or "unet_ema" in path]
        assert not (tmp_path / "sprung").exists()

    def test_takes_the_running_average_if_asked(self, original, published, base, tmp_path):
        average = build_tiny_bundle(seed=8)
        write_unet(average, published / "unet_ema")
        report = import_folder(published, tmp_path / "out", base=base, use_ema=True)
        made = load_bundle(tmp_path / "out")
        assert_same_weights(made, average, ("unet",))
        assert_same_weights(made, original, ("mutual_encoder",))
        assert "unet" in {left.name for left in report.left_out}

    def test_reads_weights_in_several_files(self, original, published, base, tmp_path):
        state = original.unet.state_dict()
        (published / UNET_FILE).unlink()
        halves = sorted(state)[::2], sorted(state)[1::2]
        places = {}
        for number, keys in enumerate(halves, start=1):
            file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
            save_weights({key: state[key] for key in keys}, published / "unet" / file)
            places |= dict.fromkeys(keys, file)
        index = {"metadata": {}, "weight_map": places}
        write_json(published / "unet/diffusion_pytorch_model.safetensors.index.json", index)
        import_folder(published, tmp_path / "out", base=base)
        assert_same_weights(load_bundle(tmp_path / "out"), original)

    def test_keeps_the_type_on_disk(self, original, published, base, tmp_path):
        save_weights({key: value.half() for key, value in original.unet.state_dict().items()}, published / UNET_FILE)
        import_folder(published, tmp_path / "out", base=base)
        stored = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}

    def test_says_that_a_bundle_without_category_names_serves_nobody(self, published, base, tmp_path):
        report = import_folder(published, tmp_path / "out", base=base)
        assert "names no categories" in report.warnings[0]


class TestRefusals:
    @pytest.mark.parametrize("missing", ["vae", "text_encoder", "tokenizer", "scheduler"])
    def test_a_part_that_is_nowhere_is_named(self, published, base, tmp_path, missing):
        shutil.copytree(base, tmp_path / "base")
        shutil.rmtree(tmp_path / "base" / missing)
        with pytest.raises(InvalidBundle, match=f"there is no {missing}/ in .* nor in "):
            import_folder(published, tmp_path / "out", base=tmp_path / "base")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))] == []

    def test_a_missing_mutual_encoder_is_named(self, published, base, tmp_path):
        shutil.rmtree(published / "fashion_encoder")
        with pytest.raises(InvalidBundle, match="no fashion_encoder/ beside it"):
            import_folder(published, tmp_path / "out", base=base)

    @pytest.mark.parametrize(
        ("file", "key", "tensor", "message"),
        [
            (UNET_FILE, "conv_norm_out.weight", None, r"1 tensors missing \(conv_norm_out\.weight\), 0 unknown"),
            (UNET_FILE, "conv_more.weight", torch.zeros(1), r"0 tensors missing .*1 unknown \(conv_more\.weight\)"),
            (
                UNET_FILE,
                "conv_norm_out.weight",
                torch.zeros(3),
                r"'conv_norm_out\.weight' has shape \(3,\), .* \(16,\)",
            ),
            (UNET_FILE, "conv_norm_out.weight", torch.full((16,), torch.nan), "'conv_norm_out.weight' has non-finite"),
            (UNET_FILE, "conv_in.weight", torch.zeros(16, 5, 3, 3), "takes 5 channels and predicts 4"),
            (UNET_FILE, "conv_in.weight", None, "no convolutions conv_in and conv_out"),
            (
                "fashion_encoder/diffusion_pytorch_model.bin",
                "mlp.0.weight",
                torch.zeros(16, 100),
                "is for latents of 100 elements, the UNet has 4x8x8",
            ),
            ("fashion_encoder/diffusion_pytorch_model.bin", "mlp.0.weight", None, "holds no mutual encoder"),
            ("fashion_encoder/diffusion_pytorch_model.bin", "mlp.3.bias", None, r"missing \(mlp\.3\.bias\)"),
        ],
    )
    def test_tensors_that_do_not_fit_are_named(self, published, base, tmp_path, file, key, tensor, message):
        with_change(published / file, key, tensor)
        with pytest.raises(InvalidBundle, match=message):
            import_folder(published, tmp_path / "out", base=base)
        assert not (tmp_path / "out").exists()

    def test_weights_that_would_run_code_are_refused_by_name_and_not_run(self, published, base, tmp_path):
        torch.save({"conv_in.weight": Trap(tmp_path / "sprung")}, published / UNET_FILE)
        with pytest.raises(ForbiddenPickle, match=r"diffusion_pytorch_model\.bin: asks to load posix\.open"):
            import_folder(published, tmp_path / "out", base=base)
        assert not (tmp_path / "sprung").exists()

    def test_a_scheduler_that_clips_is_refused(self, published, base, tmp_path):
        shutil.copytree(base, tmp_path / "base")
        path = tmp_path / "base/scheduler/scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_sample": True}))
        with pytest.raises(InvalidBundle, match="clips denoised latents"):
            import_folder(published, tmp_path / "out", base=tmp_path / "base")

    def test_parts_of_different_sizes_are_refused(self, published, base, tmp_path):
        shutil.copytree(base, tmp_path / "base")
        path = tmp_path / "base/text_encoder/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 32}))
        with pytest.raises(InvalidBundle, match="width of the text encoder is 32, the UNet needs 16"):
            import_folder(published, tmp_path / "out", base=tmp_path / "base")

    def test_a_running_average_that_is_not_there_is_refused(self, published, base, tmp_path):
        with pytest.raises(InvalidInput, match="has no unet_ema/"):
            import_folder(published, tmp_path / "out", base=base, use_ema=True)

    def test_a_unet_that_takes_the_history_is_not_widened(self, published, base, tmp_path):
        with pytest.raises(InvalidInput, match="takes the history already"):
            import_folder(published, tmp_path / "out", base=base, widen=True)


class TestStableDiffusion:
    def test_is_not_made_a_bundle_unless_asked(self, base, tmp_path):
        with pytest.raises(InvalidInput, match="whose UNet takes no history: ask to widen it"):
            import_folder(base, tmp_path / "out")

    def test_gets_channels_for_the_history_by_the_same_surgery_as_in_memory(self, original, base, tmp_path):
        report = import_folder(base, tmp_path / "out", widen=True)
        made = load_bundle(tmp_path / "out")
        expected = tiny_unet(in_channels=4)
        state = dict(original.unet.state_dict())
        expected.load_state_dict(state | {"conv_in.weight": state["conv_in.weight"][:, :4]})
        widen_conv_in(expected, 8)
        assert all(torch.equal(value, made.unet.state_dict()[key]) for key, value in expected.state_dict().items())
        assert report.kind == "stable_diffusion"
        assert "mutual encoder is random" in report.warnings[0]

    def test_gives_the_same_bundle_each_time(self, base, tmp_path):
        first = import_folder(base, tmp_path / "first", widen=True)
        assert import_folder(base, tmp_path / "second", widen=True).digest == first.digest

    def test_is_never_sampled_like_the_released_weights(self, base, tmp_path):
        with pytest.raises(InvalidInput, match="legacy is about the released DiFashion weights"):
            import_folder(base, tmp_path / "out", widen=True, legacy=True)


class TestLegacy:
    @pytest.fixture
    def conditions(self, published, base, tmp_path) -> dict[str, Conditions]:
        """Of the same blank with every combination of the two switches, under a bundle imported as legacy."""
        import_folder(published, tmp_path / "legacy", base=base, legacy=True, categories=CATEGORIES)
        bundle = load_bundle(tmp_path / "legacy")
        old = bundle.sampler
        settings = {
            "both": old,
            "sum": old.model_copy(update={"legacy_null_history": False}),
            "null history": old.model_copy(update={"mutual_reduction": "mean"}),
            "none": SamplerSettings(),
        }
        encoder = ConditionEncoder(bundle, Squares(), bundle.categories)
        (blank,) = blanks(1)
        return {name: encoder.encode(blank.outfit, blank.slot, HISTORY, found) for name, found in settings.items()}

    @staticmethod
    def differing(first: Conditions, second: Conditions) -> set[str]:
        return {name for name, value in vars(first).items() if not torch.equal(value, vars(second)[name])}

    def test_is_recorded_in_the_bundle_and_changes_nothing_else_of_it(self, published, base, tmp_path):
        old = import_folder(published, tmp_path / "legacy", base=base, legacy=True)
        new = import_folder(published, tmp_path / "new", base=base)
        assert {name for name in old.digests if old.digests[name] != new.digests[name]} == {"difashion.json"}
        legacy, plain = (load_bundle(tmp_path / name).sampler for name in ("legacy", "new"))
        assert plain == SamplerSettings()
        assert (legacy.legacy_null_history, legacy.mutual_reduction) == (True, "sum")
        assert legacy.model_copy(update={"legacy_null_history": False, "mutual_reduction": "mean"}) == plain

    def test_without_history_changes_the_history_alone(self, conditions):
        assert self.differing(conditions["none"], conditions["null history"]) == {"history_latents"}
        assert torch.equal(conditions["null history"].history_latents, conditions["none"].null_latents)

    def test_adding_up_changes_the_mutual_latents_alone(self, conditions):
        assert self.differing(conditions["none"], conditions["sum"]) == {"mutual_latents"}

    def test_both_change_what_each_changes(self, conditions):
        assert self.differing(conditions["none"], conditions["both"]) == {"history_latents", "mutual_latents"}
        assert torch.equal(conditions["both"].mutual_latents, conditions["sum"].mutual_latents)

    def test_adding_up_gives_the_mutual_encoder_as_many_times_the_mean_as_there_are_garments(
        self, published, base, tmp_path
    ):
        import_folder(published, tmp_path / "legacy", base=base, legacy=True, categories=CATEGORIES)
        bundle = load_bundle(tmp_path / "legacy")
        (blank,) = blanks(1)
        given = bundle.encode_images([Squares().image(item) for item in blank.outfit.given_items]).double().numpy()
        weights = {key: value.double().numpy() for key, value in bundle.mutual_encoder.state_dict().items()}
        hidden = weights["mlp.0.weight"] @ (len(given) * given.mean(0)).ravel() + weights["mlp.0.bias"]
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        expected = np.tanh(weights["mlp.3.weight"] @ hidden + weights["mlp.3.bias"]).reshape(4, 8, 8)
        encoder = ConditionEncoder(bundle, Squares(), bundle.categories)
        made = encoder.encode(blank.outfit, blank.slot, HISTORY, bundle.sampler).mutual_latents
        np.testing.assert_allclose(made.numpy(), expected, atol=1e-3)  # float32, kept in float16
