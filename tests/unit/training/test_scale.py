"""What large models need: fewer steps, averaged weights, smaller optimisers. None of it changes the default."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from pydantic import ValidationError

from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.diffusion.sampling import Visit
from fashiondpo.errors import InvalidInput
from fashiondpo.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fashiondpo.training.config import TrainSettings, paper_settings, step_settings
from fashiondpo.training.joint_updates import sum_gradients
from fashiondpo.training.metrics import read_metrics
from fashiondpo.training.objectives import loss_terms, visit_losses
from fashiondpo.training.optimizer import PolicyOptimizer, build_optimizer, update_average
from fashiondpo.training.plan import plan_updates, random_steps
from fashiondpo.training.processes import Processes
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_models import build_tiny_bundle
from tests.tiny_rounds import NFT, PAIRS, SETTINGS, changed, preference_sets, same_weights, trained


class TestDefaultPath:
    @pytest.mark.parametrize("settings", [NFT, SETTINGS, changed(SETTINGS, is_accumulated=False)])
    def test_is_to_the_last_bit_a_plain_loop_of_adamw(self, trajectories, tmp_path, settings):
        bundle, sets = build_tiny_bundle(), preference_sets(trajectories)
        parameters = add_adapter(bundle.unet, rank=settings.rank, seed=settings.seed)
        optimizer = torch.optim.AdamW(
            parameters, settings.learning_rate, betas=settings.adam_betas, weight_decay=settings.weight_decay
        )
        plan = plan_updates(len(sets), random_steps(trajectories[0], bundle), settings)
        for number, update in enumerate(plan):
            terms = sum(loss_terms(sets[p].pairs, trajectories[p].num_candidates, settings) for p, _ in update.visits)
            optimizer.zero_grad()
            for start in range(0, len(update.visits), settings.visits_per_forward):
                some = update.visits[start : start + settings.visits_per_forward]
                losses = visit_losses(
                    bundle,
                    [Visit(trajectories[p], step) for p, step in some],
                    [sets[p].pairs for p, _ in some],
                    settings,
                    [(settings.seed, number, start + i) for i in range(len(some))],
                )
                (losses.loss.sum() / terms).backward()
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            rate = settings.learning_rate
            if settings.rate_decay == "linear":
                rate *= 1 - number / len(plan)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        adapter = trained(trajectories, settings, tmp_path)
        other = PreferenceTrainer(build_tiny_bundle(), sets, settings, tmp_path / "other")
        for parameter, value in zip(other.parameters, parameters, strict=True):
            parameter.data.copy_(value.data)
        other.updates_done = len(other.plan)
        assert same_weights(adapter, other.run())

    @pytest.mark.parametrize("settings", [TrainSettings(), step_settings(), paper_settings()])
    def test_leaves_what_identifies_older_runs_as_it_was(self, settings):
        assert (
            settings.decisive()
            .keys()
            .isdisjoint(
                {"precision", "gradient_checkpointing", "optimizer", "step_share", "ema_decay", "checkpoint_every"}
            )
        )

    def test_is_told_apart_from_every_other_way(self):
        for name, value in (
            ("precision", "bfloat16"),
            ("gradient_checkpointing", True),
            ("optimizer", "adamw_8bit"),
            ("step_share", 0.5),
            ("ema_decay", 0.9),
        ):
            assert changed(NFT, **{name: value}).decisive()[name] == value


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [{"ema_decay": 1.0}, {"ema_decay": 0.0}, {"step_share": 0.0}, {"step_share": 1.1}, {"precision": "float8"}],
    )
    def test_that_cannot_be_are_refused(self, wrong):
        with pytest.raises(ValidationError):
            TrainSettings(**wrong)


class TestShares:
    @pytest.mark.parametrize("count", [1, 2, 3, 7])
    def test_give_every_outfit_to_one_process_and_differ_by_one_at_most(self, count):
        shares = [Processes(rank, count).share(range(5)) for rank in range(count)]
        assert sorted(position for share in shares for position in share) == list(range(5))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_without_a_visit_add_nothing_to_the_gradient(self):
        parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
        parameters[1].grad = torch.full((4,), 2.0)
        sum_gradients(parameters, Processes())
        assert torch.equal(parameters[0].grad, torch.zeros(2, 3))
        assert torch.equal(parameters[1].grad, torch.full((4,), 2.0))


class TestStepShare:
    @pytest.mark.parametrize(("share", "steps", "drawn"), [(0.5, 50, 25), (0.01, 50, 1), (1.0, 50, 50), (0.3, 4, 1)])
    def test_is_of_the_recorded_steps_and_at_least_one(self, share, steps, drawn):
        assert changed(SETTINGS, step_share=share).steps_drawn(steps) == drawn

    def test_draws_every_subset_as_often(self):
        counts = dict.fromkeys(combinations(range(4), 2), 0)
        draws = 3000
        for seed in range(draws):
            settings = changed(SETTINGS, step_share=0.5, seed=seed, passes=1, outfits_per_update=1)
            (update,) = plan_updates(1, 4, settings)
            counts[tuple(sorted(step for _, step in update.visits))] += 1
        # a binomial count leaves five standard deviations once in millions
        expected = draws / len(counts)
        assert all(abs(count - expected) < 5 * (expected * (1 - 1 / len(counts))) ** 0.5 for count in counts.values())

    def test_leaves_the_expected_gradient_as_it_is(self, trajectories):
        bundle = build_tiny_bundle()
        parameters = add_adapter(bundle.unet, rank=4)
        generator = torch.Generator().manual_seed(1)
        for parameter in parameters:
            parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        steps = random_steps(trajectories[0], bundle)

        def gradient(drawn):
            visits = [Visit(trajectories[0], step) for step in drawn]
            losses = visit_losses(bundle, visits, [PAIRS] * len(visits), SETTINGS, [(0, 0, 0)] * len(visits))
            found = torch.autograd.grad(losses.loss.sum() / (len(visits) * len(PAIRS)), parameters)
            return torch.cat([part.flatten() for part in found]).double()

        subsets = list(combinations(range(steps), 2))
        mean = sum(gradient(drawn) for drawn in subsets) / len(subsets)
        whole = gradient(range(steps))
        assert float((mean - whole).norm() / whole.norm()) < 1e-4  # rounding of float32


class TestMovingAverage:
    def test_is_the_sum_of_all_weights_with_falling_shares(self):
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(7)]
        average, decay = [weights[0].clone()], 0.8
        for value in weights[1:]:
            update_average(average, [value], decay)
        n = len(weights) - 1
        expected = decay**n * weights[0]
        for i in range(1, n + 1):
            expected = expected + (1 - decay) * decay ** (n - i) * weights[i]
        torch.testing.assert_close(average[0], expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
    def test_refuses_a_decay_outside_0_to_1(self, decay):
        with pytest.raises(ValueError, match="between 0 and 1"):
            update_average([torch.zeros(1)], [torch.ones(1)], decay)

    def test_is_what_is_published_and_changes_nothing_in_the_training(self, trajectories, tmp_path):
        settings = changed(NFT, ema_decay=0.7)
        trainer = PreferenceTrainer(build_tiny_bundle(), preference_sets(trajectories), settings, tmp_path / "average")
        path = [[p.detach().clone() for p in trainer.parameters]]
        published = trainer.run(progress=lambda *_: path.append([p.detach().clone() for p in trainer.parameters]))
        average = [value.double() for value in path[0]]
        for weights in path[1:]:
            average = [0.7 * mean + 0.3 * value.double() for mean, value in zip(average, weights, strict=True)]
        for parameter, mean in zip(trainer.parameters, average, strict=True):
            parameter.data.copy_(mean.float())
        last_own = trained(trajectories, NFT, tmp_path / "plain")
        names = {key.replace("unet.", ""): value for key, value in published.tensors.items()}
        expected = dict(zip(sorted(names), average, strict=True))
        for name, value in names.items():
            torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-7)
        assert not same_weights(published, last_own)
        rows = [[r["loss"] for r in read_metrics(tmp_path / place)] for place in ("average", "plain")]
        assert rows[0] == rows[1]

    def test_is_in_the_checkpoint(self, tmp_path):
        parameters = [torch.nn.Parameter(torch.ones(3))]
        steps = PolicyOptimizer(parameters, changed(NFT, ema_decay=0.9), torch.device("cpu"))
        parameters[0].grad = torch.ones(3)
        steps.step(0.1)
        save_checkpoint(steps.checkpoint(1, "a" * 64), tmp_path / "c")
        other = PolicyOptimizer([torch.nn.Parameter(torch.zeros(3))], changed(NFT, ema_decay=0.9), torch.device("cpu"))
        other.restore(load_checkpoint(tmp_path / "c", "a" * 64))
        assert torch.equal(other.average[0], steps.average[0]) and torch.equal(other.parameters[0], parameters[0])


class TestEightBitOptimizer:
    def test_names_the_package_where_it_is_not_installed(self, monkeypatch, trajectories, tmp_path):
        monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
        bundle = build_tiny_bundle()
        settings = changed(NFT, optimizer="adamw_8bit")
        with pytest.raises(InvalidInput, match=r"needs the package bitsandbytes.*or choose adamw"):
            PreferenceTrainer(bundle, preference_sets(trajectories), settings, tmp_path)
        assert not getattr(bundle.unet, "peft_config", None), "the base model is as it was"

    def test_goes_on_exactly_from_a_checkpoint(self, tmp_path):
        pytest.importorskip("bitsandbytes")
        settings = changed(NFT, optimizer="adamw_8bit")

        def steps_of(parameters, optimizer, count):
            for _ in range(count):
                optimizer.zero_grad()
                sum((p**3).sum() for p in parameters).backward()
                optimizer.step()

        def fresh():
            generator = torch.Generator().manual_seed(0)
            parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((64, 128), (4, 4))]
            return parameters, build_optimizer(parameters, settings)

        parameters, optimizer = fresh()
        steps_of(parameters, optimizer, 3)
        assert optimizer.state[parameters[0]]["state1"].dtype == torch.uint8
        save_checkpoint(Checkpoint.of(parameters, optimizer, 3, "a" * 64), tmp_path / "c")
        others, other_optimizer = fresh()
        load_checkpoint(tmp_path / "c", "a" * 64).restore(others, other_optimizer)
        steps_of(parameters, optimizer, 2)
        steps_of(others, other_optimizer, 2)
        assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True))
