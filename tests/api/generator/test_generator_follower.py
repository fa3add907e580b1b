"""Following the registry's champion, with an engine that only notes what it is told."""

import threading
from concurrent.futures import Future

import pytest

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import InvalidAdapter, Unavailable
from fashiondpo.storage.adapters import MemoryAdapters
from services.generator.adapter_follower import AdapterFollower
from tests.polling import eventually
from tests.tiny_models import build_tiny_bundle, random_adapter


class NotingEngine:
    """Uses whatever fits it, and remembers what it was told to use."""

    def __init__(self, refused: frozenset[int] = frozenset()) -> None:
        self.active, self.refused, self.told = AdapterRef(), refused, []

    def use(self, ref: AdapterRef, weights: AdapterWeights | None) -> "Future[None]":
        done: Future[None] = Future()
        self.told.append(ref.version)
        if ref.version in self.refused:
            done.set_exception(InvalidAdapter("it does not fit"))
        else:
            self.active = ref
            done.set_result(None)
        return done


@pytest.fixture(scope="module")
def contents():
    bundle = build_tiny_bundle()
    return [random_adapter(bundle, seed=seed).to_bytes() for seed in range(3)]


@pytest.fixture
def registry(contents):
    adapters = MemoryAdapters()
    for position, content in enumerate(contents):
        adapters.publish(
            content, round_id=f"r{position}", base_digest="a" * 64, parent=AdapterRef(), rank=4, targets=("to_q",),
            training={}, verdict=None,
        )  # fmt: skip
    return adapters


def follower(registry, engine, **options) -> AdapterFollower:
    return AdapterFollower(registry, engine, **{"poll_s": 0.01} | options)


class TestFollower:
    def test_serves_the_base_model_where_there_is_no_champion(self, registry):
        engine = NotingEngine()
        following = follower(registry, engine)
        assert not following.has_followed
        following.follow()
        assert (engine.told, following.problem, following.has_followed) == ([0], None, True)

    def test_serves_the_champion(self, registry):
        registry.activate(2, is_forced=True)
        engine = NotingEngine()
        follower(registry, engine).follow()
        assert engine.active == registry.manifest(2).ref

    def test_does_nothing_while_the_champion_stays(self, registry):
        registry.activate(2, is_forced=True)
        engine = NotingEngine()
        following = follower(registry, engine)
        for _ in range(3):
            following.follow()
        assert engine.told == [2]

    def test_follows_a_rollback(self, registry):
        engine = NotingEngine()
        following = follower(registry, engine)
        for version in (1, 2):
            registry.activate(version, is_forced=True)
            following.follow()
        registry.rollback()
        following.follow()
        assert engine.told == [1, 2, 1]

    def test_follows_by_looking_again_and_again(self, registry):
        engine = NotingEngine()
        following = follower(registry, engine)
        following.start()
        try:
            registry.activate(3, is_forced=True)
            eventually(lambda: engine.active.version == 3)
        finally:
            following.close()

    def test_looks_at_once_when_it_is_given_a_hint(self, registry):
        engine, hint = NotingEngine(), threading.Event()
        following = follower(registry, engine, poll_s=3600, wait_for_hint=hint.wait)
        following.start()
        try:
            eventually(lambda: following.has_followed)
            registry.activate(3, is_forced=True)
            hint.set()
            eventually(lambda: engine.active.version == 3)
        finally:
            following.close()


class TestBrokenChampion:
    def test_is_told_and_leaves_the_old_version_serving(self, registry):
        engine = NotingEngine(refused=frozenset({2}))
        following = follower(registry, engine)
        for version in (1, 2):
            registry.activate(version, is_forced=True)
            following.follow()
        assert engine.active.version == 1
        assert following.problem == "version 2 cannot be served: it does not fit"
        assert following.has_followed

    def test_is_not_fetched_again_at_every_look(self, registry):
        engine = NotingEngine(refused=frozenset({2}))
        following = follower(registry, engine)
        registry.activate(2, is_forced=True)
        for _ in range(3):
            following.follow()
        assert engine.told == [2]
        assert not following.has_followed

    def test_is_tried_again_after_a_while(self, registry):
        engine = NotingEngine(refused=frozenset({2}))
        following = follower(registry, engine, retry_s=0.0)
        registry.activate(2, is_forced=True)
        following.follow()
        engine.refused = frozenset()
        following.follow()
        assert (engine.active.version, following.problem) == (2, None)

    def test_is_tried_again_at_once_when_somebody_asks(self, registry):
        engine = NotingEngine(refused=frozenset({2}))
        following = follower(registry, engine)
        registry.activate(2, is_forced=True)
        following.follow()
        engine.refused = frozenset()
        following.follow(at_once=True)
        assert engine.active.version == 2

    def test_is_no_matter_any_more_when_another_is_champion(self, registry):
        engine = NotingEngine(refused=frozenset({2}))
        following = follower(registry, engine)
        for version in (2, 3):
            registry.activate(version, is_forced=True)
            following.follow()
        assert (engine.active.version, following.problem) == (3, None)

    def test_whose_weights_are_gone_is_told(self, registry):
        registry.activate(2, is_forced=True)
        registry._contents.pop("versions/000002/adapter.safetensors")
        following = follower(registry, NotingEngine())
        following.follow()
        assert "weights of adapter version 2 are gone" in following.problem


class Silent(MemoryAdapters):
    """A registry that does not answer at first."""

    silent = True

    def alias(self, name):
        if self.silent:
            raise Unavailable("the registry does not answer")
        return super().alias(name)


class TestSilentRegistry:
    def test_is_told_and_followed_when_it_answers_again(self):
        registry, engine = Silent(), NotingEngine()
        following = follower(registry, engine)
        following.follow()
        assert (following.problem, following.has_followed) == ("the registry does not answer", False)
        registry.silent = False
        following.follow()
        assert (following.problem, following.has_followed) == (None, True)
