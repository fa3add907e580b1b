"""The UNet's attention is torch's scaled_dot_product_attention, with adapters too, and computes the formula of the paper."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch.nn import functional as F
from torch.testing import assert_close

from fashiondpo.diffusion.adapter_slots import AdapterSlots
from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.diffusion.model import DiFashion, load_bundle
from fashiondpo.pretraining.bundle import sd2_unet_without_weights
from tests.tiny_engines import version
from tests.tiny_models import build_tiny_bundle, random_adapter, tiny_unet


def attentions(unet: UNet2DConditionModel) -> list[Attention]:
    return [module for module in unet.modules() if isinstance(module, Attention)]


def softmax_attention(attention: Attention, states: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d)) V, head by head, out of the projections; Vaswani et al. (arXiv:1706.03762), equation 1."""
    query, key, value = attention.to_q(states), attention.to_k(context), attention.to_v(context)
    heads = [
        torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1) @ v
        for q, k, v in zip(*(x.chunk(attention.heads, dim=-1) for x in (query, key, value)), strict=True)
    ]
    projected: torch.Tensor = attention.to_out[0](torch.cat(heads, dim=-1))
    return projected


@pytest.fixture
def sdpa_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for every call of torch's attention, which computes as ever."""
    calls: list[None] = []
    original: Callable = F.scaled_dot_product_attention

    def counting(*args, **kwargs):
        calls.append(None)
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    return calls


@pytest.fixture(scope="module")
def mini(repository) -> DiFashion:
    return load_bundle(repository / "assets" / "mini" / "bundle")


def with_slots(bundle: DiFashion) -> AdapterSlots:
    slots = AdapterSlots(bundle.unet, bundle.digest, rank=4)
    weights = random_adapter(build_tiny_bundle(), scale=0.3)
    slots.load(1, version(1, weights), weights)
    slots.select(version(1, weights))
    return slots


class TestProcessors:
    @pytest.mark.parametrize("unet", [tiny_unet, sd2_unet_without_weights], ids=["tiny", "Stable Diffusion 2"])
    def test_of_the_unet_are_those_of_sdpa_with_an_adapter_and_without(self, unet):
        with torch.device("meta"):
            network = unet()
        assert attentions(network)
        assert {type(processor) for processor in network.attn_processors.values()} == {AttnProcessor2_0}
        if unet is tiny_unet:
            network = unet()
            add_adapter(network, rank=2)
            assert {type(processor) for processor in network.attn_processors.values()} == {AttnProcessor2_0}

    def test_of_the_mini_bundle_are_those_of_sdpa(self, mini):
        assert {type(p) for p in mini.unet.attn_processors.values()} == {AttnProcessor2_0}
        assert {type(p) for p in mini.vae.attn_processors.values()} == {AttnProcessor2_0}

    def test_are_asked_once_per_attention_in_a_forward_with_an_adapter(self, sdpa_calls):
        bundle = build_tiny_bundle()
        with_slots(bundle)
        with torch.no_grad():
            bundle.unet(torch.zeros(2, 8, 8, 8), 500, torch.zeros(2, 24, 16))
        assert len(sdpa_calls) == len(attentions(bundle.unet))


class TestAttention:
    @pytest.mark.parametrize("has_adapter", [False, True])
    def test_is_softmax_of_scaled_products_times_values(self, has_adapter):
        bundle = build_tiny_bundle()
        if has_adapter:
            with_slots(bundle)
        unet = bundle.unet.double()
        generator = torch.Generator().manual_seed(0)
        for attention in attentions(unet):
            width = attention.to_q.in_features if not has_adapter else attention.to_q.base_layer.in_features
            depth = attention.to_k.in_features if not has_adapter else attention.to_k.base_layer.in_features
            states = torch.randn(2, 64, width, generator=generator, dtype=torch.float64)
            beside = torch.randn(2, 24, depth, generator=generator, dtype=torch.float64)
            context = states if width == depth and not attention.is_cross_attention else beside
            with torch.no_grad():
                expected = softmax_attention(attention, states, context)
                given = attention(states, encoder_hidden_states=None if context is states else context)
            assert_close(given, expected, rtol=1e-10, atol=1e-12)
