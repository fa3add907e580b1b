"""Counted costs against networks that are really built, a trajectory that is really stored, and published sizes."""

import io
import os

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fashiondpo.contracts import SamplerSettings
from fashiondpo.cost.architecture import of_bundle, stable_diffusion_2
from fashiondpo.cost.estimate import (
    blank_trajectory,
    disk_cost,
    largest_png,
    memory_cost,
    number_count,
    training_rows_of,
)
from fashiondpo.cost.live_bytes import peak_bytes
from fashiondpo.diffusion.model import load_bundle
from fashiondpo.diffusion.sampling import SlotTask, sample_trajectories
from fashiondpo.errors import InvalidBundle
from fashiondpo.training.config import TrainSettings, paper_settings
from tests.tiny_models import TINY_SAMPLER, random_adapter, random_conditions, saved_tiny_bundle

META = {"device": "meta"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    saved_tiny_bundle(folder)
    return folder


@pytest.fixture
def tiny(folder):
    return of_bundle(folder)


def counted(architecture, **changes):
    settings = {"dtype": torch.float32, "rows_per_forward": 2, "candidates": 2} | changes
    return memory_cost(architecture, TINY_SAMPLER, TrainSettings(rank=4, visits_per_forward=1), **settings)


class TestPeakBytes:
    def test_counts_what_lives_at_once(self):
        def computation():
            first = torch.empty(1000, **META) + 1
            second = first * 2
            del first
            third = second * 2
            del second
            return third * 2

        # torch.empty itself is made inside; it lives as long as `first` is computed
        assert peak_bytes(computation) == 2 * 4000

    def test_counts_a_view_and_a_change_in_place_no_second_time(self):
        assert peak_bytes(lambda: torch.empty(1000, **META).view(10, 100).add_(1)) == 4000

    def test_leaves_out_what_was_there_before(self):
        there = torch.empty(10**6, **META)
        assert peak_bytes(lambda: there[:1000] + 1) == 4000

    def test_counts_what_a_backward_needs(self):
        weight = torch.empty(100, 100, requires_grad=True, **META)
        rows = torch.empty(8, 100, **META)

        def computation():
            hidden = rows @ weight
            torch.sigmoid(hidden).sum().backward()

        with torch.no_grad():
            forward = peak_bytes(lambda: torch.sigmoid(rows @ weight).sum())
        assert peak_bytes(computation) >= forward + weight.nbytes

    def test_of_attention_has_no_matrix_of_scores(self):
        query = torch.empty(1, 4, 2048, 32, **META)
        peak = peak_bytes(lambda: F.scaled_dot_product_attention(query, query, query))
        assert query.nbytes <= peak < 4 * 2048 * 2048

    def test_is_that_of_the_real_computation(self, folder, tiny):
        """The same operations with real tensors on the CPU, counted by torch's profiler."""
        unet = load_bundle(folder).unet
        given = torch.randn(4, 8, 8, 8), torch.zeros(4, dtype=torch.long), torch.randn(4, 24, 16)
        shapes = [torch.empty_like(x, device="meta") for x in given]
        with torch.no_grad():
            unet(*given)
            with torch.profiler.profile(profile_memory=True) as profiled:
                unet(*given)
            peak = peak_bytes(lambda: tiny.unet(*shapes).sample)
        assert peak == pytest.approx(profiled_peak(profiled), rel=0.15)


def profiled_peak(profiled) -> int:
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


class TestArchitecture:
    def test_of_a_bundle_has_as_many_numbers_as_the_bundle_itself(self, folder, tiny):
        bundle = load_bundle(folder)
        for name, network in tiny.networks().items():
            assert number_count(network) == sum(x.numel() for x in getattr(bundle, name).state_dict().values()), name
        assert (tiny.latent_shape, tiny.image_size) == (bundle.latent_shape, bundle.image_size)

    def test_of_stable_diffusion_2_has_the_published_sizes(self):
        """Numbers of parameters of the released networks; the UNet with DiFashion's four further channels."""
        numbers = {name: number_count(network) for name, network in stable_diffusion_2().networks().items()}
        assert numbers["unet"] == 865_910_724 + 320 * 4 * 9
        assert numbers["vae"] == 83_653_863
        assert numbers["text_encoder"] == 340_387_840
        assert numbers["mutual_encoder"] == 50 * 64 + 2 * 256 * 16384 + 256 + 16384

    def test_of_stable_diffusion_2_fits_together(self):
        architecture = stable_diffusion_2()
        assert architecture.latent_shape == (4, 64, 64)
        assert architecture.prompt_shape == (77, 1024)
        assert architecture.image_size == 512

    def test_of_a_folder_that_is_no_bundle_is_refused(self, tmp_path):
        with pytest.raises(InvalidBundle, match="does not say what its networks look like"):
            of_bundle(tmp_path)


class TestMemory:
    def test_of_weights_is_their_numbers_times_the_width_of_the_type(self, folder):
        single, half = (counted(of_bundle(folder), dtype=dtype) for dtype in (torch.float32, torch.float16))
        assert single.weights == {name: 2 * size for name, size in half.weights.items()}
        stored = sum(tensor.nbytes for tensor in load_bundle(folder).unet.state_dict().values())
        assert single.weights["unet"] == stored

    def test_of_what_is_trained_is_the_adapter_four_times(self, folder):
        weights = random_adapter(load_bundle(folder), rank=4)
        numbers = sum(tensor.numel() for tensor in weights.tensors.values())
        cost = counted(of_bundle(folder))
        assert (cost.trained_numbers, cost.trained) == (numbers, 4 * 4 * numbers)

    @pytest.mark.slow
    def test_of_the_published_adapter_is_that_of_the_released_files(self):
        architecture = stable_diffusion_2(image_size=64)
        cost = memory_cost(
            architecture, SamplerSettings(), paper_settings(), dtype=torch.float16, rows_per_forward=1, candidates=2
        )
        assert cost.trained_numbers == 829_952

    def test_of_a_forward_grows_with_its_rows(self, folder):
        few, many = (counted(of_bundle(folder), rows_per_forward=rows) for rows in (2, 8))
        assert (few.sampling_rows, many.sampling_rows) == (6, 24)  # TINY_SAMPLER weighs three of four branches
        assert many.sampling == pytest.approx(4 * few.sampling, rel=0.1)

    def test_of_training_is_more_than_of_sampling_and_less_with_checkpointing(self, folder):
        cost = counted(of_bundle(folder), rows_per_forward=2, candidates=6)
        assert cost.training_rows == cost.sampling_rows
        assert cost.sampling < cost.checkpointed < cost.training
        assert cost.to_train > cost.to_train_checkpointed > cost.to_sample

    @pytest.mark.parametrize(("settings", "rows"), [(TrainSettings(visits_per_forward=8), 56), (paper_settings(), 28)])
    def test_of_training_counts_branches_of_recorded_steps_alone(self, settings, rows):
        assert training_rows_of(settings, candidates=7, branches=4) == rows


class TestDisk:
    def test_of_a_trajectory_is_that_of_a_stored_one(self, folder, tiny):
        bundle = load_bundle(folder)
        task = SlotTask(random_conditions(tokens=bundle.tokenizer.model_max_length), (1, 2, 3))
        (real,) = sample_trajectories(bundle, [task], TINY_SAMPLER)
        blank = blank_trajectory(tiny, TINY_SAMPLER, candidates=3)
        # the header names seeds and the adapter, whose digits differ
        assert abs(len(real.to_bytes()) - len(blank.to_bytes())) < 400
        assert sum(x.nbytes for x in (real.latents, real.log_probs, real.timesteps)) == sum(
            x.nbytes for x in (blank.latents, blank.log_probs, blank.timesteps)
        )

    def test_of_a_published_trajectory_is_what_its_states_take(self):
        cost = disk_cost(
            stable_diffusion_2(), SamplerSettings(), dtype=torch.float16, candidates=7, adapter_numbers=829_952
        )
        states, conditions = 7 * 51 * 4 * 64 * 64 * 2, (2 * 77 * 1024 + 3 * 4 * 64 * 64) * 2
        assert states + conditions < cost.trajectory < states + conditions + 10_000

    def test_of_a_picture_is_enough_for_noise(self):
        noise = Image.frombytes("RGB", (512, 512), os.urandom(512 * 512 * 3))
        file = io.BytesIO()
        noise.save(file, "PNG")
        assert len(file.getvalue()) <= largest_png(512) < 1.01 * len(file.getvalue())

    def test_of_rounds_adds_up(self, tiny):
        cost = disk_cost(tiny, TINY_SAMPLER, dtype=torch.float32, candidates=2, adapter_numbers=100)
        one = 10 * (cost.trajectory + cost.pictures) + cost.adapter + cost.checkpoint
        assert cost.of_rounds(outfits=10, rounds=3) == 3 * one
