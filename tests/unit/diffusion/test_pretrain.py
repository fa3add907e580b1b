import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.pretrain import (
    OutfitLatents,
    PretrainSettings,
    _dropped,
    _outfit_loss,
    _PromptTable,
    encode_outfits,
    pretrain,
    snr_weight,
    warm_up,
)
from fashiondpo.errors import InvalidInput
from fashiondpo.outfits.model import DataSet, History
from tests.reference import diffusion_formulas as reference
from tests.tiny_models import TINY_SAMPLER, build_tiny_bundle

SHORT = PretrainSettings(steps=3, outfits_per_step=2, learning_rate=1e-3)
NOTHING_DROPPED = {"history_dropout": 0.0, "mutual_dropout": 0.0, "both_dropout": 0.0, "category_dropout": 0.0}


@pytest.fixture(scope="module")
def encoded(bundle: DiFashion, outfits: DataSet) -> OutfitLatents:
    encoder = ConditionEncoder(bundle, outfits.catalogue, outfits.categories)
    return encode_outfits(encoder, outfits.split("train")[:24], outfits.history("train"))


@pytest.fixture
def fresh(bundle: DiFashion) -> DiFashion:
    """The same weights, to be trained."""
    return copy.deepcopy(bundle)


def weights(bundle: DiFashion) -> list[Tensor]:
    return [p.detach().clone() for module in (bundle.unet, bundle.mutual_encoder) for p in module.parameters()]


class TestSnrWeight:
    @given(st.floats(1e-3, 1 - 1e-3), st.sampled_from(["epsilon", "v_prediction"]), st.floats(0.5, 20))
    def test_is_the_published_formula(self, alpha, prediction_type, gamma):
        made = snr_weight(torch.tensor([alpha]).double(), prediction_type, gamma=gamma, floor=0.0)
        expected = reference.min_snr_weight(float(torch.tensor([alpha]).double()), prediction_type, gamma)
        assert float(made) == pytest.approx(expected, rel=1e-9)

    def test_of_noise_prediction_is_one_where_noise_prevails(self):
        alpha = torch.tensor([0.01, 0.5, 0.83])  # ratios up to 4.9
        assert_close(snr_weight(alpha, "epsilon", gamma=5.0, floor=0.0), torch.ones(3))

    def test_falls_where_the_picture_is_almost_clean(self):
        alpha = torch.tensor([0.9, 0.99, 0.999])
        made = snr_weight(alpha, "epsilon", gamma=5.0, floor=0.0)
        assert_close(made, 5 * (1 - alpha) / alpha)

    def test_the_floor_keeps_the_noisiest_levels_of_velocity_prediction(self):
        alpha = torch.tensor([1e-4])
        assert float(snr_weight(alpha, "v_prediction", gamma=5.0, floor=0.0)) < 1e-3
        assert float(snr_weight(alpha, "v_prediction", gamma=5.0, floor=1.0)) == pytest.approx(1, abs=1e-3)


class TestDropped:
    def test_drops_conditions_as_often_as_published(self):
        torch.manual_seed(0)
        rows = 200_000
        mutual, history, category = _dropped(rows, PretrainSettings())
        shares = {
            "mutual alone": mutual & ~history,
            "history alone": history & ~mutual,
            "both": mutual & history,
            "neither": ~mutual & ~history,
            "category": category,
        }
        expected = {"mutual alone": 0.2, "history alone": 0.2, "both": 0.3, "neither": 0.3, "category": 0.2}
        for name, is_dropped in shares.items():
            # four standard deviations of a share of 200,000 draws
            allowed = 4 * math.sqrt(expected[name] * (1 - expected[name]) / rows)
            assert float(is_dropped.double().mean()) == pytest.approx(expected[name], abs=allowed), name

    def test_drops_the_category_independently_of_the_others(self):
        torch.manual_seed(0)
        mutual, _, category = _dropped(200_000, PretrainSettings())
        assert float((mutual & category).double().mean()) == pytest.approx(0.5 * 0.2, abs=0.003)

    def test_never_drops_what_is_not_to_be_dropped(self):
        assert not any(dropped.any() for dropped in _dropped(1000, PretrainSettings(**NOTHING_DROPPED)))


class TestEncodeOutfits:
    def test_holds_every_item_in_its_slot(self, bundle, outfits, encoded):
        outfit = outfits.split("train")[5]
        images = [outfits.catalogue.image(item_id) for item_id in outfit.given_item_ids]
        assert_close(encoded.latents[5], bundle.encode_images(images), rtol=1e-4, atol=1e-5)
        assert [encoded.category_ids[i] for i in encoded.categories[5]] == list(outfit.category_ids)

    def test_points_to_the_users_history_in_each_category(self, bundle, outfits, encoded):
        encoder = ConditionEncoder(bundle, outfits.catalogue, outfits.categories)
        outfit, history = outfits.split("train")[5], outfits.history("train")
        for slot, category_id in enumerate(outfit.category_ids):
            expected = encoder.history_latents(history.of(outfit.user_id, category_id))
            assert_close(encoded.histories[encoded.history[5, slot]], expected, rtol=1e-4, atol=1e-5)

    def test_without_history_points_to_the_null_latents(self, encoder, outfits):
        made = encode_outfits(encoder, outfits.split("train")[:2], History({}))
        assert torch.equal(made.histories[made.history[0, 0]], encoder.null_latents)

    def test_tells_progress_to_the_end(self, encoder, outfits):
        told: list[tuple[int, int]] = []
        encode_outfits(
            encoder,
            outfits.split("train")[:2],
            outfits.history("train"),
            progress=lambda done, total, _: told.append((done, total)),
        )
        assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)

    def test_refuses_incomplete_outfits(self, encoder, outfits):
        outfit = outfits.split("train")[3]
        with pytest.raises(InvalidInput, match=f"1 outfits are incomplete, the first is {outfit.outfit_id}"):
            encode_outfits(encoder, [outfit.without(1)], History({}))

    def test_refuses_none_and_outfits_of_different_lengths(self, encoder, outfits):
        outfit = outfits.split("train")[0]
        short = outfit.model_copy(update={"item_ids": outfit.item_ids[:3], "category_ids": outfit.category_ids[:3]})
        for wrong in ([], [outfit, short]):
            with pytest.raises(InvalidInput, match="of one length, and at least one"):
                encode_outfits(encoder, wrong, History({}))


class TestLoss:
    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    def test_is_the_weighted_error_written_out_row_by_row(self, encoded, prediction_type):
        # garments that differ more than an untrained VAE tells, and a mutual condition that weighs heavily
        fresh = build_tiny_bundle(
            prediction_type=prediction_type, sampler=TINY_SAMPLER.model_copy(update={"mutual_weight": 0.9})
        )
        torch.manual_seed(1)
        encoded = replace(encoded, latents=2 * torch.randn(encoded.latents.shape))
        settings = PretrainSettings(outfits_per_step=3, **NOTHING_DROPPED, noisy_neighbours=0.5)
        prompts = _PromptTable(fresh, encoded.category_ids, is_trained=False)
        torch.manual_seed(12)
        with torch.no_grad():
            made = _outfit_loss(fresh, encoded, prompts, settings)
        torch.manual_seed(12)  # the same draws, in the same order
        chosen, timesteps = torch.randint(24, (3,)), torch.randint(1000, (3,))
        noise, is_noisy = torch.randn(3, 4, *fresh.latent_shape), torch.rand(3) < 0.5
        assert is_noisy.any() and not is_noisy.all()
        losses = []
        for i in range(3):
            alpha = float(fresh.schedule.alphas[timesteps[i]])
            clean = encoded.latents[chosen[i]]
            noisy = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise[i]
            seen = noisy if is_noisy[i] else clean
            for slot in range(4):
                others = torch.stack([seen[other] for other in range(4) if other != slot]).mean(0)
                history = encoded.histories[encoded.history[chosen[i], slot]]
                prompt = prompts()[encoded.categories[chosen[i], slot]]
                with torch.no_grad():
                    mixed = 0.1 * noisy[slot] + 0.9 * fresh.mutual_encoder(others[None])[0]
                    output = fresh.unet(torch.cat([mixed, history])[None], timesteps[i], prompt[None]).sample[0]
                velocity = torch.from_numpy(reference.velocity(clean[slot].numpy(), noise[i, slot].numpy(), alpha))
                target = noise[i, slot] if prediction_type == "epsilon" else velocity
                weight = reference.min_snr_weight(alpha, prediction_type, 5.0)
                losses.append(weight * float((output - target).pow(2).mean()))
        assert float(made) == pytest.approx(sum(losses) / 12, rel=1e-5)

    def test_with_all_conditions_dropped_depends_on_none(self, fresh, encoded):
        everything = PretrainSettings(
            outfits_per_step=3, history_dropout=0, mutual_dropout=0, both_dropout=1, category_dropout=1
        )
        prompts = _PromptTable(fresh, encoded.category_ids, is_trained=False)
        other = replace(
            encoded, histories=encoded.histories + 1, categories=(encoded.categories + 1) % len(encoded.category_ids)
        )
        losses = []
        for given_to_it in (encoded, other):
            torch.manual_seed(3)
            with torch.no_grad():
                losses.append(float(_outfit_loss(fresh, given_to_it, prompts, everything)))
        assert losses[0] == losses[1]


class TestPretrain:
    def test_lowers_the_loss_within_seconds(self, fresh, encoded):
        settings = PretrainSettings(steps=60, outfits_per_step=6, learning_rate=4e-3, ema_decay=0.9)
        prompts = _PromptTable(fresh, encoded.category_ids, is_trained=False)

        def loss() -> float:
            torch.manual_seed(99)
            with torch.no_grad():
                return float(sum(_outfit_loss(fresh, encoded, prompts, settings) for _ in range(8)) / 8)

        before = loss()
        told: list[float] = []
        pretrain(fresh, encoded, settings, progress=lambda _done, _total, figures: told.append(figures["loss"]))
        assert loss() < 0.7 * before
        assert told[-1] < told[0]

    def test_ends_with_the_averaged_weights(self, fresh, encoded):
        settings = replace(SHORT, steps=5, ema_decay=0.5)
        visited = [weights(fresh)]
        pretrain(fresh, encoded, settings, progress=lambda *_: visited.append(weights(fresh)))
        average = visited[0]
        for step, reached in enumerate(visited[1:]):
            # diffusers warms the average up: (1 + n) / (10 + n), and nothing is kept of the start
            decay = min(0.5, (1 + step) / (10 + step)) if step > 0 else 0.0
            average = [decay * old + (1 - decay) * new for old, new in zip(average, reached, strict=True)]
        for made, expected in zip(weights(fresh), average, strict=True):
            assert_close(made, expected, rtol=1e-4, atol=1e-6)
        assert any(not torch.equal(a, b) for a, b in zip(weights(fresh), visited[-1], strict=True))

    def test_the_seed_decides_everything(self, bundle, encoded):
        first, again, other = (pretrain(copy.deepcopy(bundle), encoded, SHORT, seed=seed) for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(weights(first), weights(other), strict=True))

    def test_trains_unet_and_mutual_encoder_and_leaves_the_rest(self, bundle, fresh, encoded):
        pretrain(fresh, encoded, SHORT)
        assert not torch.equal(fresh.unet.conv_in.weight, bundle.unet.conv_in.weight)
        assert not torch.equal(fresh.mutual_encoder.mlp[0].weight, bundle.mutual_encoder.mlp[0].weight)
        for part in ("vae", "text_encoder"):
            before, after = getattr(bundle, part).state_dict(), getattr(fresh, part).state_dict()
            assert all(torch.equal(after[key], value) for key, value in before.items())

    def test_trains_the_text_encoder_where_asked(self, bundle, fresh, encoded):
        pretrain(fresh, encoded, replace(SHORT, is_text_trained=True))
        assert not torch.equal(fresh.encode_prompts(["a bag"]), bundle.encode_prompts(["a bag"]))

    def test_leaves_everything_frozen_and_ready_to_paint(self, fresh, encoded):
        assert pretrain(fresh, encoded, SHORT) is fresh
        assert not any(p.requires_grad for network in fresh.networks() for p in network.parameters())
        assert not any(network.training for network in fresh.networks())

    def test_tells_the_mean_loss_after_every_step(self, fresh, encoded):
        told: list[tuple[int, int]] = []
        pretrain(fresh, encoded, SHORT, progress=lambda done, total, _: told.append((done, total)))
        assert told == [(1, 3), (2, 3), (3, 3)]

    @pytest.mark.parametrize("steps", [1, 2, 20])
    def test_works_for_any_number_of_steps(self, fresh, encoded, steps):
        # with a warm-up of exactly one step, as 5 % of 20, torch's schedule divides by zero
        assert warm_up(steps) * steps != 1
        optimizer = torch.optim.SGD(fresh.mutual_encoder.parameters(), 1.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, steps, pct_start=warm_up(steps))
        for _ in range(steps):
            optimizer.step()
            schedule.step()

    def test_warms_up_over_a_twentieth_of_a_long_run(self):
        assert warm_up(1000) == 0.05

    def test_refuses_categories_that_the_bundle_does_not_know(self, fresh, encoded):
        with pytest.raises(InvalidInput, match=r"does not know the categories \[77\]"):
            pretrain(fresh, replace(encoded, category_ids=(*encoded.category_ids[:-1], 77)), SHORT)
