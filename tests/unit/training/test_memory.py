"""What a training says it will need, against what torch allocates."""

from __future__ import annotations

import pytest
import torch
from structlog.testing import capture_logs
from torch.profiler import ProfilerActivity, profile

from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.errors import InvalidInput
from fashiondpo.offline import blank_requests
from fashiondpo.training.memory import (
    DeviceMemory,
    MemoryEstimate,
    SetShape,
    _forward_and_back,
    activation_bytes,
    check_room,
    device_memory,
    estimate_memory,
    foresee_memory,
    memory_verdict,
    optimizer_bytes,
)
from fashiondpo.training.precision import prepare_policy
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_models import build_tiny_bundle, random_adapter
from tests.tiny_rounds import NFT, SETTINGS, blanks, changed, preference_sets, recorded, same_weights, trained

(REQUEST,) = blank_requests(blanks(1), prefix="r", candidates=3, seed=0)


class TestMemory:
    @pytest.mark.parametrize("is_checkpointed", [False, True])
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_of_activations_is_what_torch_allocates(self, trajectories, is_checkpointed, precision):
        bundle, shape = build_tiny_bundle(), SetShape.of_trajectory(trajectories[0])
        parameters = add_adapter(bundle.unet, rank=4)
        undo = prepare_policy(bundle.unet, changed(NFT, gradient_checkpointing=is_checkpointed, precision=precision))
        estimated = activation_bytes(bundle, parameters, shape, 24)
        measured = allocated_at_once(lambda: _forward_and_back(bundle, parameters, shape, 24))
        undo()
        # what a kernel takes for itself is not seen
        assert 0.85 * measured < estimated < 1.15 * measured

    def test_is_less_with_checkpointing_and_lower_precision(self, trajectories):
        needed = {}
        for name, options in {
            "plain": {},
            "checkpointed": {"gradient_checkpointing": True},
            "lower": {"precision": "bfloat16"},
        }.items():
            bundle = build_tiny_bundle()
            parameters = add_adapter(bundle.unet, rank=4)
            prepare_policy(bundle.unet, changed(NFT, **options))
            needed[name] = activation_bytes(bundle, parameters, SetShape.of_trajectory(trajectories[0]), 24)
        assert needed["checkpointed"] < 0.5 * needed["plain"]
        assert needed["lower"] < 0.7 * needed["plain"]

    def test_counts_weights_gradients_and_the_optimisers_state(self, trajectories):
        bundle = build_tiny_bundle()
        parameters = add_adapter(bundle.unet, rank=4)
        estimate = estimate_memory(bundle, parameters, SETTINGS, SetShape.of_trajectory(trajectories[0]))
        adapter = sum(p.numel() for p in parameters)
        held = sum(t.numel() * t.element_size() for n in bundle.networks() for t in (*n.parameters(), *n.buffers()))
        assert (estimate.weights, estimate.gradients, estimate.optimizer) == (held, 4 * adapter, 8 * adapter)
        # three candidates, and the four branches that scales 3, 2, 2 leave: the third has no weight
        assert estimate.rows == SETTINGS.visits_per_forward * 3 * 3
        assert estimate.total == estimate.weights + estimate.gradients + estimate.optimizer + estimate.activations
        optimizer = torch.optim.AdamW(parameters, 0.1)
        sum(p.sum() for p in parameters).backward()
        optimizer.step()
        kept = sum(s.numel() * 4 for p in parameters for n, s in optimizer.state[p].items() if n != "step")
        assert estimate.optimizer == kept

    def test_of_the_optimiser_in_8_bits_is_about_a_quarter_and_of_small_tensors_the_same(self):
        eight = changed(NFT, optimizer="adamw_8bit")
        assert optimizer_bytes(8192, eight) == 2 * (8192 + 4 * 32)
        assert optimizer_bytes(64, eight) == optimizer_bytes(64, NFT) == 512
        assert optimizer_bytes(64, changed(NFT, ema_decay=0.9)) == 768

    def test_changes_nothing_in_the_training(self, trajectories, tmp_path):
        trainer = PreferenceTrainer(build_tiny_bundle(), preference_sets(trajectories), NFT, tmp_path / "asked")
        trainer.estimate_memory()
        assert same_weights(trainer.run(), trained(trajectories, NFT, tmp_path / "not asked"))

    def test_that_the_device_does_not_have_is_refused_with_what_to_change(self):
        needed = MemoryEstimate(weights=6 << 30, gradients=1, optimizer=1, activations=10 << 30, rows=56)
        with pytest.raises(InvalidInput, match=r"about 16\.00 GiB.*has 8\.00 GiB: lower visits_per_forward"):
            memory_verdict(needed, DeviceMemory(free=8 << 30, whole=8 << 30))
        assert "only 8.00 GiB are free" in memory_verdict(needed, DeviceMemory(free=8 << 30, whole=24 << 30))
        assert memory_verdict(needed, DeviceMemory(free=20 << 30, whole=24 << 30)) is None


class TestForesight:
    """Before anything is painted, by the request alone."""

    @pytest.mark.parametrize("settings", [SETTINGS, NFT, changed(NFT, precision="bfloat16", rank=2)])
    def test_is_what_the_training_itself_counts_once_there_is_something_to_learn_from(self, settings, tmp_path):
        bundle = build_tiny_bundle()
        shape = SetShape.of_request(REQUEST, bundle)
        foreseen = foresee_memory(bundle, None, settings, shape)
        made = recorded(bundle, outfits=1)
        assert SetShape.of_trajectory(made[0]) == shape
        trainer = PreferenceTrainer(bundle, preference_sets(made), settings, tmp_path)
        assert trainer.estimate_memory() == foreseen

    def test_counts_the_reference_of_a_round_that_starts_from_an_adapter(self):
        bundle = build_tiny_bundle()
        parent, shape = random_adapter(bundle), SetShape.of_request(REQUEST, bundle)
        first, later = (foresee_memory(bundle, start, NFT, shape) for start in (None, parent))
        adapter = sum(tensor.numel() * 4 for tensor in parent.tensors.values())
        assert later.weights == first.weights + adapter

    def test_leaves_the_bundle_as_it_was(self):
        bundle = build_tiny_bundle()
        before = {name: tensor.clone() for name, tensor in bundle.unet.state_dict().items()}
        for options in ({}, {"precision": "bfloat16", "gradient_checkpointing": True}):
            foresee_memory(
                bundle, random_adapter(bundle), changed(NFT, **options), SetShape.of_request(REQUEST, bundle)
            )
        after = bundle.unet.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert "forward" not in vars(bundle.unet)
        assert not bundle.unet.is_gradient_checkpointing
        assert not any(p.requires_grad or p.grad is not None for p in bundle.unet.parameters())

    def test_refuses_a_device_that_is_too_small(self):
        bundle = build_tiny_bundle()
        small, enough = (DeviceMemory(size, size) for size in (1 << 20, 1 << 40))
        with pytest.raises(InvalidInput, match=r"the device has 1\.0 MiB: lower visits_per_forward"):
            check_room(bundle, None, NFT, REQUEST, small)
        check_room(bundle, None, NFT, REQUEST, enough)

    def test_warns_where_not_so_much_is_free_now(self):
        with capture_logs() as lines:
            check_room(build_tiny_bundle(), None, NFT, REQUEST, DeviceMemory(1 << 20, 1 << 40))
        assert [line["event"] for line in lines] == ["memory is short"]
        assert "only 1.0 MiB are free" in lines[0]["reason"]

    def test_is_not_asked_for_where_the_device_does_not_say_what_it_has(self):
        assert device_memory(torch.device("cpu")) is None


def allocated_at_once(work):
    """The most that torch's allocator has held at a time, beside what it held before, by its profiler."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
