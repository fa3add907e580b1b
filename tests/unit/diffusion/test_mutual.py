import pytest
import torch
from torch import nn

from fashiondpo.diffusion.mutual import MutualEncoder


def small(seed: int = 0) -> MutualEncoder:
    encoder = MutualEncoder(latent_size=4, hidden_dim=8)
    encoder.initialise(torch.Generator().manual_seed(seed))
    return encoder.eval()


class TestMutualEncoder:
    def test_has_names_and_shapes_of_the_published_weights(self):
        with torch.device("meta"):
            encoder = MutualEncoder()
        assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == {
            "category_embedding.weight": (50, 64),
            "mlp.0.weight": (256, 16384),
            "mlp.0.bias": (256,),
            "mlp.3.weight": (16384, 256),
            "mlp.3.bias": (16384,),
        }

    def test_is_two_layers_with_a_leaky_relu_between_and_a_tanh_behind(self):
        encoder, latents = small(), torch.randn(2, 4, 4, 4)
        hidden = latents.flatten(1) @ encoder.mlp[0].weight.T + encoder.mlp[0].bias
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        expected = torch.tanh(hidden @ encoder.mlp[3].weight.T + encoder.mlp[3].bias).view(2, 4, 4, 4)
        torch.testing.assert_close(encoder(latents), expected)

    def test_stays_within_one(self):
        assert small()(1e4 * torch.randn(2, 4, 4, 4)).abs().max() <= 1

    def test_drops_a_tenth_while_it_trains(self):
        dropouts = [module.p for module in small().mlp if isinstance(module, nn.Dropout)]
        assert dropouts == [0.1]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_in_half_precision_takes_and_gives_single(self, dtype):
        latents = torch.randn(2, 4, 4, 4)
        made = small().to(dtype)(latents)
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, small()(latents), rtol=0.02, atol=0.02)

    def test_starts_from_the_generators_weights_and_zero_biases(self):
        assert torch.equal(small(1).mlp[0].weight, small(1).mlp[0].weight)
        assert not torch.equal(small(1).mlp[0].weight, small(2).mlp[0].weight)
        assert (small().mlp[0].bias == 0).all() and (small().mlp[3].bias == 0).all()
        expected = (2 / (64 + 8)) ** 0.5  # Xavier: variance two over the sum of both widths
        assert small().mlp[0].weight.std().item() == pytest.approx(expected, rel=0.15)

    def test_comes_back_from_disk(self, tmp_path):
        encoder, latents = small(), torch.randn(1, 4, 4, 4)
        encoder.save_pretrained(tmp_path)
        assert torch.equal(MutualEncoder.from_pretrained(tmp_path)(latents), encoder(latents))
