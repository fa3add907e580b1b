"""The engine with a compiled UNet: the same pictures, and nothing is compiled once it serves."""

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch.testing import assert_close

from fashiondpo.contracts import AdapterRef, GuidanceScales
from fashiondpo.diffusion.engine import Engine, FinishedSet
from fashiondpo.errors import Unavailable
from tests.polling import eventually
from tests.tiny_engines import ask, fill_in, paint, painted_together, running_engine, settings, version
from tests.tiny_models import build_tiny_bundle, random_adapter
from tests.unit.diffusion.compile_counter import CountingBackend, no_compiler

PLACES = 3
KINDS = 2
"""Guidance of the tiny bundle, which needs three branches, and of all four."""

ONE_BRANCH = GuidanceScales(category=1.0, mutual=1.0, history=1.0)
FOUR_BRANCHES = GuidanceScales(category=2.0, mutual=1.5, history=0.5)


@pytest.fixture(scope="module")
def weights():
    bundle = build_tiny_bundle()
    return [random_adapter(bundle, seed=seed, rank=rank, scale=0.3) for seed, rank in ((1, 4), (2, 2), (3, 4))]


class Compiled:
    def __init__(self, engine: Engine, backend: CountingBackend) -> None:
        self.engine, self.backend = engine, backend
        eventually(lambda: engine.is_ready, within_s=120)
        self.warm = backend.graphs


@pytest.fixture(scope="module")
def compiled() -> Iterator[Compiled]:
    backend = CountingBackend()
    with running_engine(build_tiny_bundle(), rows_per_forward=5, compilation="required", compiler=backend) as engine:
        yield Compiled(engine, backend)
    torch.compiler.reset()


@pytest.fixture(scope="module")
def plain() -> Iterator[Engine]:
    with running_engine(build_tiny_bundle(), rows_per_forward=5) as engine:
        yield engine


def same_pictures(given: list[FinishedSet], expected: list[FinishedSet]) -> bool:
    """As far as sums in another order allow: a last bit of float32 grows by guidance, over four steps, to far below this."""
    for one, other in zip(given, expected, strict=True):
        assert_close(one.trajectory.latents, other.trajectory.latents, rtol=1e-4, atol=1e-4)
        assert max(int(abs(a.astype(int) - b).max()) for a, b in zip(one.images, other.images, strict=True)) <= 1
    return True


def requests(kind: str):
    return {
        "a slot": ask(kind, fill_in(1, range(5))),
        "one candidate": ask(kind, fill_in(2, [7])),
        "more than a forward": ask(kind, fill_in(3, range(8))),
        "slots together": ask(kind, painted_together(4, (0, 2), 2)),
        "other scales": ask(kind, fill_in(5, range(3)), sampler=settings(guidance=FOUR_BRANCHES)),
        "another number of steps": ask(kind, fill_in(6, range(3)), sampler=settings(num_inference_steps=7)),
        "scales that need one branch": ask(kind, fill_in(7, range(3)), sampler=settings(guidance=ONE_BRANCH)),
    }[kind]


KINDS_OF_REQUESTS = (
    "a slot", "one candidate", "more than a forward", "slots together", "other scales", "another number of steps",
    "scales that need one branch",
)  # fmt: skip


class TestCompiledEngine:
    def test_is_ready_when_every_forward_is_compiled_for_every_place(self, compiled):
        assert compiled.warm == PLACES * KINDS

    @pytest.mark.parametrize("kind", KINDS_OF_REQUESTS)
    def test_paints_what_the_uncompiled_one_paints_and_compiles_nothing(self, compiled, plain, kind):
        assert same_pictures(paint(compiled.engine, requests(kind)), paint(plain, requests(kind)))
        assert compiled.backend.graphs == compiled.warm

    def test_follows_swaps_of_adapters_of_several_ranks_and_compiles_nothing(self, compiled, plain, weights):
        for turn in range(6):
            chosen = weights[turn % 3]
            for engine in (compiled.engine, plain):
                engine.use(version(turn % 3 + 1, chosen), chosen).result(60)
            assert same_pictures(paint(compiled.engine, requests("a slot")), paint(plain, requests("a slot")))
        for engine in (compiled.engine, plain):
            engine.use(AdapterRef(), None).result(60)
        assert same_pictures(paint(compiled.engine, requests("a slot")), paint(plain, requests("a slot")))
        assert compiled.backend.graphs == compiled.warm


class TestMachineWithoutACompiler:
    def test_goes_on_uncompiled_and_says_why_if_that_is_allowed(self, plain):
        with (
            capture_logs() as lines,
            running_engine(
                build_tiny_bundle(), rows_per_forward=5, compilation="if_possible", compiler=no_compiler
            ) as engine,
        ):
            given = paint(engine, requests("a slot"))
            assert engine.is_ready
        assert same_pictures(given, paint(plain, requests("a slot")))
        (line,) = (line for line in lines if line["event"] == "not_compiled")
        assert line["log_level"] == "warning" and "no C++ compiler was found" in line["reason"]

    def test_is_refused_with_the_reason_if_it_has_to_be_compiled(self):
        with running_engine(build_tiny_bundle(), compilation="required", compiler=no_compiler) as engine:
            eventually(lambda: engine.problem != "the engine is warming up", within_s=60)
            assert engine.problem is not None and "no C++ compiler was found" in engine.problem
            with pytest.raises(Unavailable, match="cannot be compiled on this machine"):
                paint(engine, requests("a slot"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs a C++ compiler")
class TestInductor:
    """torch's real compiler."""

    def test_paints_the_same_pictures_through_a_swap_and_alone_or_among_others_to_the_last_bit(self, plain, weights):
        with running_engine(build_tiny_bundle(), rows_per_forward=5, compilation="required") as engine:
            eventually(lambda: engine.is_ready, within_s=900)
            torch._dynamo.utils.counters.clear()
            alone = paint(engine, requests("one candidate"))
            assert same_pictures(alone, paint(plain, requests("one candidate")))
            chosen = weights[0]
            for either in (engine, plain):
                either.use(version(1, chosen), chosen).result(60)
            assert same_pictures(paint(engine, requests("a slot")), paint(plain, requests("a slot")))
            engine.use(AdapterRef(), None).result(60)
            crowd = ask("crowd", fill_in(9, range(4)), fill_in(2, [7]))
            (again,) = (s for s in paint(engine, crowd) if s.set_id == alone[0].set_id)
            assert torch.equal(again.trajectory.latents, alone[0].trajectory.latents)
            assert np.array_equal(again.images[0], alone[0].images[0])
            assert torch._dynamo.utils.counters["stats"].get("unique_graphs", 0) == 0
        torch.compiler.reset()
