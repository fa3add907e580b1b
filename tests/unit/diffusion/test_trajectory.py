import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from fashiondpo.contracts import AdapterRef, SamplerSettings
from fashiondpo.diffusion.trajectory import Trajectory, safetensors_bytes, safetensors_metadata
from fashiondpo.errors import InvalidInput
from tests.tiny_models import TINY_SAMPLER, random_conditions


def recorded(settings: SamplerSettings = TINY_SAMPLER, *, candidates: int = 3, steps: int = 4) -> Trajectory:
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, settings.state_dtype)
    return Trajectory(
        latents=torch.randn(candidates, steps + 1, 4, 8, 8, generator=generator).to(dtype),
        timesteps=torch.tensor([751, 501, 251, 1]),
        log_probs=torch.randn(candidates, steps, generator=generator),
        conditions=random_conditions().rounded(dtype),
        seeds=(2**62 + 1, 2, 3),
        settings=settings,
        base_digest="b" * 64,
        adapter=AdapterRef(version=2, digest="a" * 64),
    )


def rewritten(content: bytes, *, without: str = "", **metadata: str) -> bytes:
    """The same file without one tensor or metadata entry, or with other metadata."""
    tensors, known = load(content), safetensors_metadata(content) | metadata
    return save({k: v for k, v in tensors.items() if k != without}, {k: v for k, v in known.items() if k != without})


class TestTrajectory:
    @pytest.mark.parametrize("state_dtype", ["float32", "float16"])
    def test_comes_back_from_bytes_exactly(self, state_dtype):
        made = recorded(TINY_SAMPLER.model_copy(update={"state_dtype": state_dtype}))
        back = Trajectory.from_bytes(made.to_bytes())
        assert back.latents.dtype == getattr(torch, state_dtype)
        for name in ("latents", "timesteps", "log_probs"):
            assert torch.equal(getattr(back, name), getattr(made, name))
        for name, value in vars(made.conditions).items():
            assert torch.equal(getattr(back.conditions, name), value)
            assert getattr(back.conditions, name).dtype == torch.float32
        for name in ("seeds", "settings", "base_digest", "adapter"):
            assert getattr(back, name) == getattr(made, name)

    def test_always_gives_the_same_bytes(self):
        # the library's own order of metadata changes from call to call, and the bytes name the artifact
        assert len({recorded().to_bytes() for _ in range(20)}) == 1

    def test_of_other_seeds_gives_other_bytes(self):
        assert recorded().to_bytes() != replace(recorded(), seeds=(1, 2, 3)).to_bytes()

    def test_at_the_published_size_takes_at_most_thirteen_mebibytes(self):
        latents, text = (4, 64, 64), (77, 1024)
        conditions = replace(
            random_conditions(),
            prompt_embeds=torch.zeros(text),
            null_prompt_embeds=torch.zeros(text),
            mutual_latents=torch.zeros(latents),
            history_latents=torch.zeros(latents),
            null_latents=torch.zeros(latents),
        )
        made = Trajectory(
            torch.zeros(7, 51, *latents, dtype=torch.float16),
            torch.zeros(50, dtype=torch.long),
            torch.zeros(7, 50),
            conditions,
            tuple(range(7)),
            SamplerSettings(),
            "b" * 64,
            AdapterRef(),
        )
        assert len(made.to_bytes()) <= 13 * 2**20

    @pytest.mark.parametrize("kept", [0, 4, 100, 2000, -1])
    def test_refuses_a_truncated_file(self, kept):
        with pytest.raises(InvalidInput, match=r"damaged|not a safetensors file|not a trajectory"):
            Trajectory.from_bytes(recorded().to_bytes()[:kept])

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"PK\x03\x04 something else entirely",
            pickle.dumps({"latents": 1}),
            (2).to_bytes(8, "little") + b"[]",
            (22).to_bytes(8, "little") + b'{"__metadata__": null}',
            save({"a": torch.zeros(2)}),
            save({"a": torch.zeros(2)}, {"format": "pt"}),
        ],
    )
    def test_refuses_a_foreign_file(self, content):
        with pytest.raises(InvalidInput, match=r"not a safetensors file|not a trajectory"):
            Trajectory.from_bytes(content)

    @pytest.mark.parametrize(
        "part", ["latents", "timesteps", "log_probs", "conditions.null_latents", "seeds", "adapter"]
    )
    def test_refuses_a_file_that_lacks_a_part(self, part):
        with pytest.raises(InvalidInput, match=f"damaged.*{part.removeprefix('conditions.')}"):
            Trajectory.from_bytes(rewritten(recorded().to_bytes(), without=part))

    @pytest.mark.parametrize(
        "metadata", [{"seeds": "[1, 2]"}, {"seeds": "{"}, {"settings": '{"steps": 4}'}, {"adapter": '{"version": 3}'}]
    )
    def test_refuses_metadata_that_cannot_be_right(self, metadata):
        with pytest.raises(InvalidInput, match="damaged"):
            Trajectory.from_bytes(rewritten(recorded().to_bytes(), **metadata))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"log_probs": torch.zeros(3, 5)}, r"need log_probs \(3, 4\)"),
            ({"timesteps": torch.zeros(5, dtype=torch.long)}, r"timesteps \(4,\)"),
            ({"seeds": (1, 2)}, "3 candidates need as many seeds, got 2"),
            ({"latents": torch.zeros(3, 5)}, r"\(k, t \+ 1, c, h, w\)"),
            ({"latents": torch.zeros(3, 5, 4, 2, 2)}, r"latents are \(4, 2, 2\), conditions \(4, 8, 8\)"),
            (
                {"conditions": replace(random_conditions(), mutual_latents=torch.zeros(3, 3, 4, 8, 8))},
                r"mutual latents must begin with \(3, 4\)",
            ),
        ],
    )
    def test_refuses_parts_that_do_not_fit_together(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(recorded(), **changes)

    def test_counts_candidates_and_steps(self):
        made = recorded()
        assert (made.num_candidates, made.num_steps) == (3, 4)
        assert torch.equal(made.final_latents, made.latents[:, 4])


class TestSafetensorsBytes:
    def test_can_be_read_by_the_library(self):
        tensors = {"a": torch.arange(5), "b": torch.randn(2, 3).t(), "c": torch.zeros(0)}
        content = safetensors_bytes(tensors, {"name": "Größe – ✓", "other": "1"})
        assert all(torch.equal(value, tensors[name]) for name, value in load(content).items())
        assert safetensors_metadata(content) == {"name": "Größe – ✓", "other": "1"}

    def test_begins_tensors_at_a_multiple_of_eight(self):
        for length in range(9):
            content = safetensors_bytes({"a": torch.zeros(1)}, {"x": "y" * length})
            assert int.from_bytes(content[:8], "little") % 8 == 0

    def test_does_not_depend_on_the_order_of_anything(self):
        tensors, metadata = {"a": torch.zeros(1), "b": torch.ones(2)}, {"x": "1", "y": "2", "z": "3"}
        backwards = [dict(reversed(list(entries.items()))) for entries in (tensors, metadata)]
        assert safetensors_bytes(tensors, metadata) == safetensors_bytes(*backwards)


class TestSafetensorsMetadata:
    def test_of_a_file_without_any_is_empty(self):
        assert safetensors_metadata(save({"a": torch.zeros(1)})) == {}

    def test_refuses_a_header_nested_too_deeply(self):
        header = b"[" * 200_000
        with pytest.raises(InvalidInput, match="not a safetensors file"):
            safetensors_metadata(len(header).to_bytes(8, "little") + header)

    def test_refuses_a_header_that_claims_to_be_longer_than_the_file(self):
        header = json.dumps({}).encode()
        with pytest.raises(InvalidInput, match="longer than the file"):
            safetensors_metadata((2**60).to_bytes(8, "little") + header)
