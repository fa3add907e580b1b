import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import nn
from torch.testing import assert_close

from fashiondpo.diffusion.model import DiFashion, lent, load_bundle
from fashiondpo.diffusion.placement import (
    RESTING,
    TorchDevices,
    chosen_device,
    chosen_dtype,
    needed_bytes,
    save_decoder_memory,
)
from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, build_autoencoder
from tests.tiny_models import build_tiny_bundle, saved_tiny_bundle

GIB = 2**30


class Cards:
    """A machine with GPUs of so much memory, so much of it free; remembers which were asked about."""

    def __init__(self, *free_gib: float, total_gib: float = 24.0) -> None:
        self.free, self.total = free_gib, total_gib
        self.asked: list[int] = []

    def count(self) -> int:
        return len(self.free)

    def free_bytes(self, index: int) -> int:
        self.asked.append(index)
        return int(self.free[index] * GIB)

    def total_bytes(self, index: int) -> int:
        return int(self.total * GIB)


def chosen(asked: str, cards: Cards, needed_gib: float = 6.0) -> str:
    return chosen_device(asked, lambda: int(needed_gib * GIB), cards)


class TestDevice:
    def test_that_is_the_cpu_asks_for_no_gpu(self):
        cards = Cards(24.0)
        assert chosen("cpu", cards) == "cpu"
        assert cards.asked == []

    @pytest.mark.parametrize(("asked", "given"), [("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")])
    def test_that_is_named_is_taken_whatever_is_free_on_it(self, asked, given):
        assert chosen(asked, Cards(0.1, 0.1)) == given

    def test_that_is_not_there_is_refused_with_what_is_there(self):
        with pytest.raises(InvalidInput, match=r"'cuda:2' was asked for, and there are 2, cuda:0 to cuda:1"):
            chosen("cuda:2", Cards(24.0, 24.0))

    @pytest.mark.parametrize("asked", ["cuda", "cuda:0"])
    def test_on_a_machine_without_gpus_is_refused_with_what_to_do(self, asked):
        with pytest.raises(InvalidInput, match=r"torch finds no GPU here: .*ask for 'cpu' or 'auto'"):
            chosen(asked, Cards())

    def test_chosen_by_itself_is_the_first_gpu_with_room_and_later_ones_are_not_touched(self):
        cards = Cards(2.0, 8.0, 20.0)
        assert chosen("auto", cards) == "cuda:1"
        assert cards.asked == [0, 1]

    def test_chosen_by_itself_is_the_cpu_where_no_gpu_has_room_with_a_warning_that_says_what_there_was(self):
        with capture_logs() as lines:
            assert chosen("auto", Cards(2.0, 5.5)) == "cpu"
        (line,) = lines
        assert line["log_level"] == "warning" and line["event"] == "computing_on_the_cpu"
        assert line["needed_gib"] == 6.0 and line["free_gib"] == {"cuda:0": 2.0, "cuda:1": 5.5}

    def test_chosen_by_itself_is_the_cpu_where_there_is_no_gpu_with_a_warning(self):
        with capture_logs() as lines:
            assert chosen("auto", Cards()) == "cpu"
        assert [(line["log_level"], line["reason"]) for line in lines] == [("warning", "there is no GPU")]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_of_a_machine_without_cuda_are_none(self):
        assert TorchDevices().count() == 0


class TestDtype:
    def test_is_float32_on_a_cpu_and_float16_on_a_gpu(self):
        assert [chosen_dtype("auto", device) for device in ("cpu", "cuda:0")] == [torch.float32, torch.float16]

    def test_is_what_is_asked_for_anywhere(self):
        assert chosen_dtype("bfloat16", "cpu") is torch.bfloat16
        assert chosen_dtype("float32", "cuda:1") is torch.float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle")
    saved_tiny_bundle(place)
    return place


def parameters(bundle: DiFashion, *names: str) -> int:
    return sum(value.numel() for name in names for value in getattr(bundle, name).state_dict().values())


class TestNeededBytes:
    def test_grow_by_the_weights_size_in_the_type_and_leave_out_what_rests(self, folder):
        bundle, all_parts = build_tiny_bundle(), ("unet", "vae", "text_encoder", "mutual_encoder")
        whole, without = (
            needed_bytes(folder, torch.float32, rows_per_forward=7, offload=o) for o in RESTING if o != "text_encoder"
        )
        assert whole - without == 4 * parameters(bundle, "vae", "text_encoder")
        half = needed_bytes(folder, torch.float16, rows_per_forward=7)
        activations = 26 * 4 * 7 * 8 * 8 * 16  # maps, branches, rows, latent height and width, channels
        assert whole - half == 2 * (parameters(bundle, *all_parts) + activations)

    def test_of_files_that_hold_the_same_weights_in_another_type_count_once(self, folder, tmp_path):
        before = needed_bytes(folder, torch.float32, rows_per_forward=7)
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        variant = weights.with_name("diffusion_pytorch_model.fp16.safetensors")
        variant.write_bytes(weights.read_bytes())
        try:
            assert needed_bytes(folder, torch.float32, rows_per_forward=7) == before
        finally:
            variant.unlink()

    def test_of_a_folder_that_is_no_bundle_cannot_be_found_out(self, tmp_path):
        with pytest.raises(InvalidBundle, match="how much memory"):
            needed_bytes(tmp_path, torch.float32, rows_per_forward=7)
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "model.safetensors").write_bytes(b"short")
        with pytest.raises(InvalidBundle, match="how much memory"):
            needed_bytes(tmp_path, torch.float32, rows_per_forward=7)


class TestResting:
    def test_text_encoder_stays_in_float32_and_the_rest_takes_the_type(self, folder):
        bundle = load_bundle(folder, dtype=torch.bfloat16, resting=RESTING["encoders"])
        assert bundle.text_encoder.dtype is torch.float32
        assert {bundle.unet.dtype, bundle.vae.dtype} == {torch.bfloat16}
        assert_close(bundle.encode_prompts(["a dress"]), load_bundle(folder).encode_prompts(["a dress"]))

    def test_is_only_for_what_is_not_needed_in_every_step(self, folder):
        with pytest.raises(ValueError, match="unet"):
            load_bundle(folder, resting=("unet",))

    def test_parts_are_not_moved_with_the_others(self, folder):
        bundle = load_bundle(folder, device="meta", resting=RESTING["encoders"])
        places = {
            name: next(getattr(bundle, name).parameters()).device.type for name in ("unet", "vae", "text_encoder")
        }
        assert places == {"unet": "meta", "vae": "cpu", "text_encoder": "cpu"}


class Traveller(nn.Module):
    """A network that writes down where it is moved to, in place of going there."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.journeys: list[str] = []

    def _apply(self, fn, recurse=True):
        self.journeys.append(fn(torch.zeros(1)).device.type)
        return self


class TestLent:
    def test_network_is_there_inside_and_back_home_afterwards(self):
        traveller = Traveller()
        with lent(traveller, torch.device("meta")):
            assert traveller.journeys == ["meta"]
        assert traveller.journeys == ["meta", "cpu"]

    def test_network_goes_home_after_an_error_too(self):
        traveller = Traveller()
        with pytest.raises(RuntimeError), lent(traveller, torch.device("meta")):
            raise RuntimeError("the decoder failed")
        assert traveller.journeys == ["meta", "cpu"]

    def test_network_that_is_there_already_is_not_moved(self):
        traveller = Traveller()
        with lent(traveller, torch.device("cpu")):
            pass
        assert traveller.journeys == []


class OnACard:
    """A bundle's VAE and sizes as they would be on a GPU: what decides about memory, without the memory."""

    def __init__(self, image_size: int) -> None:
        self.device, self.image_size = torch.device("cuda:0"), image_size
        self.vae = build_autoencoder(AutoencoderSettings(channels=(128, 16, 16))).half()


class TestDecoderMemory:
    """At 512 px in float16 the decoder of Stable Diffusion 2 needs 0.38 GiB for a picture, 12 GiB for a batch of 32."""

    @pytest.mark.parametrize(
        ("image_size", "total_gib", "is_sliced", "is_tiled"),
        [(512, 80, False, False), (512, 24, True, False), (2048, 80, True, False), (2048, 16, True, True)],
    )
    def test_is_saved_on_a_card_that_is_small_for_the_pictures(self, image_size, total_gib, is_sliced, is_tiled):
        bundle = OnACard(image_size)
        save_decoder_memory(bundle, slicing="auto", tiling="auto", devices=Cards(0.0, total_gib=total_gib))
        assert (bundle.vae.use_slicing, bundle.vae.use_tiling) == (is_sliced, is_tiled)

    def test_is_saved_or_not_as_is_asked_for(self):
        bundle = OnACard(2048)
        save_decoder_memory(bundle, slicing="off", tiling="off", devices=Cards(1.0, total_gib=1))
        assert (bundle.vae.use_slicing, bundle.vae.use_tiling) == (False, False)
        save_decoder_memory(bundle, slicing="on", tiling="on", devices=Cards(1.0, total_gib=1000))
        assert (bundle.vae.use_slicing, bundle.vae.use_tiling) == (True, True)

    def test_is_not_saved_on_a_cpu_by_itself(self):
        bundle = build_tiny_bundle()
        save_decoder_memory(bundle, slicing="auto", tiling="auto", devices=Cards())
        assert (bundle.vae.use_slicing, bundle.vae.use_tiling) == (False, False)


def decoded(bundle: DiFashion, latents: torch.Tensor, **switches) -> np.ndarray:
    for name, value in {"use_slicing": False, "use_tiling": False, **switches}.items():
        setattr(bundle.vae, name, value)
    return np.stack(bundle.decode_latents(latents)).astype(np.int64)


@pytest.fixture(scope="module")
def mini(repository) -> DiFashion:
    return load_bundle(repository / "assets" / "mini" / "bundle")


class TestSparingDecoder:
    def test_that_slices_gives_the_same_pictures(self, mini):
        latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        assert abs(decoded(mini, latents) - decoded(mini, latents, use_slicing=True)).max() <= 1

    def test_that_may_tile_does_so_for_no_picture_that_fits_a_tile(self, mini):
        tile = mini.vae.tile_latent_min_size
        latents = torch.randn(2, 4, tile, tile, generator=torch.Generator().manual_seed(1))
        assert (decoded(mini, latents) == decoded(mini, latents, use_tiling=True)).all()

    def test_that_tiles_changes_a_larger_picture_a_little_since_a_tile_does_not_see_the_others(self, mini, repository):
        catalogue = load_data_set(repository / "assets" / "mini" / "catalogue").catalogue
        garments = [catalogue.image(item) for item in catalogue.item_ids()[:4]]
        latents = mini.encode_images(
            [np.concatenate([np.concatenate(garments[:2], 1), np.concatenate(garments[2:], 1)])]
        )
        difference = abs(decoded(mini, latents) - decoded(mini, latents, use_tiling=True)).mean()
        assert 0 < difference < 16  # of 255; 10 was measured

    @pytest.mark.slow
    def test_that_slices_or_tiles_needs_less_memory(self):
        """Peaks of processes that decode four pictures of 384 px with a decoder of 32 channels."""
        plain, sliced, both = (peak_mb(switches) for switches in ((), ("use_slicing",), ("use_slicing", "use_tiling")))
        assert sliced < plain / 2
        assert both < sliced / 2


DECODES = """
import sys
from pathlib import Path
import torch
from fashiondpo.pretraining.autoencoder import AutoencoderSettings, build_autoencoder
vae = build_autoencoder(AutoencoderSettings(channels=(32, 32, 32))).eval()
for name in sys.argv[1:]:
    setattr(vae, name, True)
def peak_kb():  # of this program; getrusage would count the one that started it, too
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
with torch.no_grad():
    vae.decode(torch.zeros(1, 4, 8, 8))
    before = peak_kb()
    vae.decode(torch.zeros(4, 4, 96, 96))
print((peak_kb() - before) / 1024)
"""


def peak_mb(switches: tuple[str, ...]) -> float:
    """What decoding added to the most memory that a process of its own ever held."""
    command = [sys.executable, "-c", DECODES, *switches]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
