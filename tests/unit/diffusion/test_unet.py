import pytest
import torch

from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.diffusion.unet import is_difashion_unet, weights_dtype, widen_conv_in
from fashiondpo.errors import InvalidBundle
from tests.tiny_models import TEXT_WIDTH, tiny_unet


def predict(unet, latents):
    with torch.no_grad():
        return unet(latents, torch.tensor([500, 20]), torch.ones(2, 3, TEXT_WIDTH)).sample


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


class TestWidenConvIn:
    @pytest.mark.parametrize("beside", [0.0, 1.0, 1e4])
    def test_computes_what_it_did_whatever_the_new_channels_hold(self, latents, beside):
        unet = tiny_unet(in_channels=4).eval()
        before = predict(unet, latents)
        widen_conv_in(unet, 8)
        after = predict(unet, torch.cat([latents, torch.full_like(latents, beside)], 1))
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)

    def test_keeps_weights_and_bias_and_starts_new_channels_at_zero(self):
        unet = tiny_unet(in_channels=4)
        weight, bias = unet.conv_in.weight.clone(), unet.conv_in.bias.clone()
        widen_conv_in(unet, 8)
        assert torch.equal(unet.conv_in.weight[:, :4], weight)
        assert (unet.conv_in.weight[:, 4:] == 0).all()
        assert torch.equal(unet.conv_in.bias, bias) and (bias != 0).any()

    def test_the_new_channels_learn(self, latents):
        unet = tiny_unet(in_channels=4)
        widen_conv_in(unet, 8)
        unet(torch.cat([latents, latents], 1), 500, torch.ones(2, 3, TEXT_WIDTH)).sample.pow(2).sum().backward()
        assert (unet.conv_in.weight.grad[:, 4:] != 0).any()

    def test_is_kept_when_the_unet_is_saved(self, tmp_path):
        unet = tiny_unet(in_channels=4)
        widen_conv_in(unet, 8)
        unet.save_pretrained(tmp_path)
        again = type(unet).from_pretrained(tmp_path)
        assert torch.equal(again.conv_in.weight, unet.conv_in.weight)

    def test_keeps_the_type_of_the_weights(self):
        unet = tiny_unet(in_channels=4).to(torch.float16)
        widen_conv_in(unet, 8)
        assert unet.conv_in.weight.dtype == torch.float16

    def test_leaves_a_unet_alone_that_is_wide_enough(self):
        unet = tiny_unet(in_channels=8)
        conv_in = unet.conv_in
        widen_conv_in(unet, 8)
        assert unet.conv_in is conv_in

    def test_refuses_to_narrow(self):
        with pytest.raises(InvalidBundle, match="takes 8 channels, cannot narrow it to 4"):
            widen_conv_in(tiny_unet(in_channels=8), 4)


class TestIsDifashionUnet:
    @pytest.mark.parametrize(("channels", "verdict"), [(4, False), (8, True), (9, False)])
    def test_knows_it_by_the_weights_of_the_first_convolution(self, channels, verdict):
        assert is_difashion_unet(tiny_unet(in_channels=channels)) is verdict


class TestWeightsDtype:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_is_that_of_the_first_weights_and_stays_so_with_an_adapter_of_another_type(self, dtype):
        unet = tiny_unet().to(dtype)
        add_adapter(unet, rank=2)
        assert {p.dtype for p in unet.parameters() if p.requires_grad} == {torch.float32}
        assert weights_dtype(unet) == dtype == unet.dtype
