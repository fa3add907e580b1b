import json
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load, save
from torch import Tensor

from fashiondpo.diffusion.lora import (
    TARGETS,
    AdapterWeights,
    adapter_weights,
    add_adapter,
    load_adapter,
    remove_adapter,
)
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.trajectory import safetensors_bytes, safetensors_metadata
from fashiondpo.errors import InvalidAdapter
from fashiondpo.pretraining.bundle import sd2_unet_without_weights
from tests.tiny_models import TEXT_WIDTH, adapted, build_tiny_bundle, random_adapter

Change = Callable[[dict[str, Tensor]], None]


def predict(bundle: DiFashion) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 8, 8, 8, generator=generator)
    text = torch.randn(2, 24, TEXT_WIDTH, generator=generator)
    with torch.no_grad():
        return bundle.unet(latents, torch.tensor([900, 10]), text).sample


@pytest.fixture
def fresh() -> DiFashion:
    """A bundle of its own, for what changes the UNet."""
    return build_tiny_bundle()


def with_tensors(weights: AdapterWeights, change: Change) -> bytes:
    tensors = {key: value.clone() for key, value in weights.tensors.items()}
    change(tensors)
    return replace(weights, tensors=tensors).to_bytes()


def with_metadata(weights: AdapterWeights, **changes: str | None) -> bytes:
    metadata = {**safetensors_metadata(weights.to_bytes()), **changes}
    return safetensors_bytes(weights.tensors, {k: v for k, v in metadata.items() if v is not None})


def first(tensors: dict[str, Tensor], side: str) -> str:
    return next(key for key in sorted(tensors) if f"lora_{side}" in key)


class TestAddAdapter:
    def test_changes_nothing_while_it_is_fresh(self, fresh):
        before = predict(fresh)
        add_adapter(fresh.unet, rank=4)
        assert torch.equal(predict(fresh), before)

    def test_sits_on_the_four_projections_of_every_attention_and_nowhere_else(self, fresh):
        attention = {
            name for name, _ in fresh.unet.named_modules() if re.search(r"attn[12]\.(to_[qkv]|to_out\.0)$", name)
        }
        add_adapter(fresh.unet, rank=4)
        assert {name for name, module in fresh.unet.named_modules() if isinstance(module, LoraLinear)} == attention
        assert {name.split(".", name.count("."))[-1] for name in attention} == {"to_q", "to_k", "to_v", "0"}
        assert len(attention) == 4 * 2 * 4  # four transformer blocks with two attentions each

    def test_trains_its_own_parameters_alone(self, fresh):
        parameters = add_adapter(fresh.unet, rank=4)
        trainable = {name for name, p in fresh.unet.named_parameters() if p.requires_grad}
        assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
        assert len(parameters) == len(trainable) == 64

    def test_trains_in_single_precision_on_a_base_in_half(self, fresh):
        fresh.unet.to(torch.bfloat16)
        assert {p.dtype for p in add_adapter(fresh.unet, rank=4)} == {torch.float32}

    def test_the_seed_decides_its_random_half_and_nothing_else_random_changes(self, fresh):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        made = []
        for seed in (1, 1, 2):
            add_adapter(fresh.unet, rank=4, seed=seed)
            made.append(adapter_weights(fresh.unet, fresh.digest).to_bytes())
            remove_adapter(fresh.unet)
        assert made[0] == made[1] != made[2]
        assert torch.equal(torch.get_rng_state(), state)

    def test_at_the_size_of_stable_diffusion_has_the_published_number_of_parameters(self):
        unet = sd2_unet_without_weights()
        parameters = add_adapter(unet, rank=4)
        assert (len(parameters), sum(p.numel() for p in parameters)) == (256, 829_952)


class TestAdapterWeights:
    def test_come_back_from_bytes_and_paint_the_same(self, bundle, adapter):
        with adapted(bundle, adapter):
            expected = predict(bundle)
            content = adapter_weights(bundle.unet, bundle.digest).to_bytes()
        back = AdapterWeights.from_bytes(content)
        assert (back.rank, back.alpha, set(back.targets), back.base_digest) == (4, 4.0, set(TARGETS), bundle.digest)
        with adapted(bundle, back):
            assert torch.equal(predict(bundle), expected)

    def test_always_give_the_same_bytes(self, adapter):
        # the registry names a version by the digest of its bytes
        assert len({adapter.to_bytes() for _ in range(20)}) == 1

    def test_are_a_copy_that_training_does_not_change(self, fresh):
        parameters = add_adapter(fresh.unet, rank=4)
        weights = adapter_weights(fresh.unet, fresh.digest)
        kept = weights.to_bytes()
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(1)
        assert weights.to_bytes() == kept

    def test_of_a_unet_without_adapter_do_not_exist(self, fresh):
        with pytest.raises(InvalidAdapter, match="no adapter 'policy'"):
            adapter_weights(fresh.unet, fresh.digest)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            pickle.dumps({"lora": [1.0]}),
            b"PK\x03\x04" + bytes(100),
            (2).to_bytes(8, "little") + b"{}" + bytes(7),
        ],
        ids=["nothing", "pickle", "archive", "surplus"],
    )
    def test_refuse_what_is_no_safetensors_file(self, content):
        with pytest.raises(InvalidAdapter, match="not a safetensors file"):
            AdapterWeights.from_bytes(content)

    def test_refuse_a_truncated_file(self, adapter):
        with pytest.raises(InvalidAdapter, match="not a safetensors file"):
            AdapterWeights.from_bytes(adapter.to_bytes()[:-10])

    @pytest.mark.parametrize("format", [None, "pt", "fashiondpo-adapter/2"])
    def test_refuse_another_format(self, adapter, format):
        with pytest.raises(InvalidAdapter, match=f"unknown adapter format {format!r}, expected"):
            AdapterWeights.from_bytes(with_metadata(adapter, format=format))

    @pytest.mark.parametrize("name", ["rank", "alpha", "targets", "base_digest"])
    def test_refuse_a_file_that_does_not_say_what_is_needed_to_load_it(self, adapter, name):
        with pytest.raises(InvalidAdapter, match=f"metadata is incomplete: '{name}'"):
            AdapterWeights.from_bytes(with_metadata(adapter, **{name: None}))

    @pytest.mark.parametrize("targets", ['"to_q"', "[]", "[1]", "{"])
    def test_refuse_targets_that_are_no_list_of_names(self, adapter, targets):
        with pytest.raises(InvalidAdapter, match="metadata is incomplete"):
            AdapterWeights.from_bytes(with_metadata(adapter, targets=targets))

    @pytest.mark.parametrize("alpha", ["nan", "inf"])
    def test_refuse_a_scale_that_is_not_finite(self, adapter, alpha):
        with pytest.raises(InvalidAdapter, match=f"alpha must be finite, got {alpha}"):
            AdapterWeights.from_bytes(with_metadata(adapter, alpha=alpha))

    def test_refuse_to_be_empty(self, adapter):
        with pytest.raises(InvalidAdapter, match="no tensors"):
            AdapterWeights.from_bytes(with_tensors(adapter, dict.clear))

    def test_name_the_tensor_that_is_of_another_rank(self, adapter):
        def mix(tensors: dict[str, Tensor]) -> None:
            tensors[first(tensors, "A")] = torch.zeros(8, 32)

        with pytest.raises(InvalidAdapter, match=r"attn1\.to_k\.lora_A\.weight' has rank 8, the adapter says 4"):
            AdapterWeights.from_bytes(with_tensors(adapter, mix))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_name_the_tensor_that_is_not_finite(self, adapter, value):
        def spoil(tensors: dict[str, Tensor]) -> None:
            tensors[first(tensors, "B")][0, 0] = value

        with pytest.raises(InvalidAdapter, match=r"lora_B\.weight' has non-finite values"):
            AdapterWeights.from_bytes(with_tensors(adapter, spoil))

    def test_name_the_tensor_that_lost_its_partner(self, adapter):
        def lose(tensors: dict[str, Tensor]) -> None:
            del tensors[first(tensors, "B")]

        with pytest.raises(InvalidAdapter, match=r"lora_A\.weight' has no partner '.*lora_B\.weight'"):
            AdapterWeights.from_bytes(with_tensors(adapter, lose))

    def test_name_the_tensor_that_is_none_of_an_adapter(self, adapter):
        def add(tensors: dict[str, Tensor]) -> None:
            tensors["conv_in.weight"] = torch.zeros(4, 4)

        with pytest.raises(InvalidAdapter, match=r"'conv_in\.weight' is no LoRA tensor"):
            AdapterWeights.from_bytes(with_tensors(adapter, add))

    def test_name_the_tensor_that_is_no_matrix(self, adapter):
        def flatten(tensors: dict[str, Tensor]) -> None:
            key = first(tensors, "B")
            tensors[key] = tensors[key].flatten()

        with pytest.raises(InvalidAdapter, match=r"lora_B\.weight' must be a matrix"):
            AdapterWeights.from_bytes(with_tensors(adapter, flatten))


class TestLoadAdapter:
    def refused(self, bundle: DiFashion, weights: AdapterWeights, message: str) -> None:
        """Refused with that message, and the UNet is as it was."""
        before, names = predict(bundle), set(bundle.unet.state_dict())
        with pytest.raises(InvalidAdapter, match=message):
            load_adapter(bundle.unet, weights, bundle.digest)
        assert torch.equal(predict(bundle), before)
        assert set(bundle.unet.state_dict()) == names

    def test_names_both_bases_when_it_was_trained_on_another(self, bundle, adapter):
        stranger = replace(adapter, base_digest="f" * 64)
        self.refused(bundle, stranger, f"trained on base {'f' * 12}, this bundle is {bundle.digest[:12]}")

    def test_names_what_is_missing(self, bundle, adapter):
        kept = {key: value for key, value in adapter.tensors.items() if "up_blocks" not in key}
        self.refused(bundle, replace(adapter, tensors=kept), r"32 tensors missing \['up_blocks\.0.*0 unknown")

    def test_names_what_is_unknown(self, bundle, adapter):
        extra = {f"nowhere.{side}.weight": torch.zeros(4, 4) for side in ("lora_A", "lora_B")}
        weights = replace(adapter, tensors=adapter.tensors | extra)
        self.refused(bundle, weights, r"0 tensors missing.*2 unknown \['nowhere\.lora_A\.weight'")

    def test_names_the_tensor_of_another_width(self, bundle, adapter):
        key = first(adapter.tensors, "A")
        weights = replace(adapter, tensors=adapter.tensors | {key: torch.zeros(4, 31)})
        self.refused(bundle, weights, rf"{re.escape(key)}' has shape \(4, 31\), the UNet needs \(4, 32\)")

    @pytest.mark.parametrize("targets", [("to_q", "conv_out"), ("nowhere",)])
    def test_refuses_to_change_anything_but_the_attention_projections(self, bundle, adapter, targets):
        self.refused(bundle, replace(adapter, targets=targets), rf"changes \['{targets[-1]}'\], only to_q")

    def test_checks_weights_that_were_never_bytes(self, bundle, adapter):
        key = first(adapter.tensors, "A")
        self.refused(bundle, replace(adapter, tensors=adapter.tensors | {key: torch.full((4, 32), math.nan)}), "finite")

    def test_makes_it_trainable_from_where_it_was(self, bundle, adapter):
        with adapted(bundle, None):
            parameters = load_adapter(bundle.unet, adapter, bundle.digest)
            assert len(parameters) == 64 and all(p.requires_grad for p in parameters)
            assert adapter_weights(bundle.unet, bundle.digest).to_bytes() == adapter.to_bytes()

    def test_scales_the_update_by_alpha_over_rank(self, bundle, adapter):
        halves = {key: value / 2 if "lora_B" in key else value for key, value in adapter.tensors.items()}
        with adapted(bundle, adapter):
            expected = predict(bundle)
        with adapted(bundle, replace(adapter, tensors=halves, alpha=8.0)):
            torch.testing.assert_close(predict(bundle), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.filterwarnings("error")
    def test_beside_another_warns_of_nothing(self, bundle, adapter):
        try:
            for name in ("first", "second"):
                load_adapter(bundle.unet, adapter, bundle.digest, name=name)
        finally:
            for name in ("first", "second"):
                remove_adapter(bundle.unet, name=name)

    def test_keeps_a_second_adapter_apart(self, bundle, adapter):
        other = random_adapter(bundle, seed=2)
        with adapted(bundle, adapter):
            expected = predict(bundle)
            load_adapter(bundle.unet, other, bundle.digest, name="other")
            assert not torch.equal(predict(bundle), expected)
            bundle.unet.set_adapter("policy")
            assert torch.equal(predict(bundle), expected)
            remove_adapter(bundle.unet, name="other")
            assert torch.equal(predict(bundle), expected)


class TestRemoveAdapter:
    def test_leaves_exactly_the_base(self, bundle, adapter):
        before, state = predict(bundle), {k: v.clone() for k, v in bundle.unet.state_dict().items()}
        load_adapter(bundle.unet, adapter, bundle.digest)
        assert not torch.equal(predict(bundle), before)
        remove_adapter(bundle.unet)
        after = bundle.unet.state_dict()
        assert torch.equal(predict(bundle), before)
        assert list(after) == list(state) and all(torch.equal(after[k], v) for k, v in state.items())
        assert not any(isinstance(module, LoraLinear) for module in bundle.unet.modules())
        bundle.unet.requires_grad_(False)

    def test_of_none_does_nothing(self, bundle):
        before = predict(bundle)
        remove_adapter(bundle.unet)
        assert torch.equal(predict(bundle), before)

    def test_can_be_done_again_and_again(self, bundle, adapter):
        with adapted(bundle, adapter):
            expected = predict(bundle)
        modules = len(list(bundle.unet.modules()))
        for _ in range(5):
            with adapted(bundle, adapter):
                assert torch.equal(predict(bundle), expected)
        assert len(list(bundle.unet.modules())) == modules


def test_the_file_has_the_keys_of_peft(adapter):
    tensors = load(adapter.to_bytes())
    assert "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight" in tensors
    assert json.loads(safetensors_metadata(adapter.to_bytes())["targets"]) == sorted(TARGETS)
    assert safetensors_metadata(save(tensors)) == {}
