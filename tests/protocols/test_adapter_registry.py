"""What every adapter registry does."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiondpo.contracts import AdapterRef, content_digest
from fashiondpo.errors import Conflict, InvalidAdapter, InvalidInput, NotFound
from fashiondpo.storage.adapters import AdapterRegistry, FolderAdapters, MemoryAdapters, check_safetensors
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.redis_adapters import RedisAdapters
from tests.protocols.places import Places
from tests.protocols.small_adapters import BASE, PROMOTED, REJECTED, make_weights, publish

Open = Callable[[], AdapterRegistry]

# Each makes an empty registry, in an empty folder or in Redis where nobody else is.
IMPLEMENTATIONS: dict[str, Callable[[Places], AdapterRegistry]] = {
    "memory": lambda _: MemoryAdapters(),
    "folder": lambda places: FolderAdapters(places.folder()),
    "redis": lambda places: RedisAdapters(places.redis(), MemoryArtifacts(), places.prefix()),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def open_registry(request: pytest.FixtureRequest, places: Places) -> Open:
    return lambda: IMPLEMENTATIONS[request.param](places)


@pytest.fixture
def registry(open_registry: Open) -> AdapterRegistry:
    return open_registry()


class TestPublish:
    def test_gives_version_one_first_and_then_the_next(self, registry):
        assert registry.versions() == ()
        assert [publish(registry, f"r{i}", i).version for i in range(3)] == [1, 2, 3]
        assert registry.versions() == (1, 2, 3)

    def test_says_in_the_manifest_what_was_published(self, registry):
        before = datetime.now(UTC) - timedelta(seconds=1)
        parent = publish(registry).ref
        manifest = publish(registry, "r2", 0.5, parent=parent)
        assert manifest.digest == content_digest(make_weights(0.5))
        assert (manifest.round_id, manifest.base_digest, manifest.parent) == ("r2", BASE, parent)
        assert (manifest.rank, manifest.targets, manifest.verdict) == (4, ("to_q", "to_out.0"), PROMOTED)
        assert manifest.training["pairs"] == 120 and manifest.training["is_resumed"] is False
        assert before <= datetime.fromisoformat(manifest.created_at) <= datetime.now(UTC)
        assert registry.manifest(2) == manifest

    def test_keeps_the_bytes_as_they_were_given(self, registry):
        publish(registry, value=0.25)
        assert registry.weights(1) == make_weights(0.25)

    def test_of_the_same_round_again_gives_the_version_it_has(self, registry):
        first = publish(registry)
        publish(registry, "r2", 1)
        assert publish(registry, training={"attempt": 2}) == first
        assert registry.versions() == (1, 2)

    def test_of_the_same_round_with_other_weights_is_a_conflict(self, registry):
        publish(registry)
        with pytest.raises(Conflict, match="'r1' was published as version 1"):
            publish(registry, value=1)
        assert registry.versions() == (1,) and registry.weights(1) == make_weights()

    def test_of_the_same_weights_in_another_round_is_another_version(self, registry):
        assert publish(registry, "r1").version == 1
        assert publish(registry, "r2").version == 2

    def test_keeps_rejected_adapters_too(self, registry):
        assert publish(registry, verdict=REJECTED).verdict == REJECTED

    def test_does_not_activate(self, registry):
        publish(registry)
        assert registry.alias("champion") is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"rank": 0},
            {"base_digest": "latest"},
            {"round_id": "../r1"},
            {"training": {"curve": [1, 2]}},
            {"training": {"loss": math.nan}},
            {"verdict": PROMOTED.model_copy(update={"diversity_ratio": math.inf})},
        ],
    )
    def test_refuses_what_cannot_be_right(self, registry, fields):
        with pytest.raises(InvalidInput):
            publish(registry, **fields)
        assert registry.versions() == ()

    def test_at_once_by_several_threads_gives_each_round_one_version(self, registry, busy_threads):
        with ThreadPoolExecutor(8) as pool:
            manifests = list(pool.map(lambda i: publish(registry, f"r{i % 6}", i % 6), range(24)))
        assert registry.versions() == (1, 2, 3, 4, 5, 6)
        assert {manifest.round_id: manifest.version for manifest in manifests} == {
            registry.manifest(version).round_id: version for version in registry.versions()
        }


class TestWeightsCheck:
    WHOLE = make_weights()

    def test_accepts_a_safetensors_file(self):
        check_safetensors(self.WHOLE)

    @pytest.mark.parametrize(
        "weights",
        [
            b"",
            b"\x00" * 7,
            pickle.dumps({"to_q": [1.0, 2.0]}, protocol=4),
            b"PK\x03\x04" + b"\x00" * 60,
            (10**6).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"[]",
            (4).to_bytes(8, "little") + b"nope",
            (2).to_bytes(8, "little") + b"\xff\xfe",
            WHOLE[:-1],
            WHOLE + pickle.dumps("more"),
        ],
        ids=["empty", "short", "pickle", "zip", "long header", "list", "no JSON", "no UTF-8", "cut", "longer"],
    )
    def test_refuses_anything_else(self, registry, weights):
        with pytest.raises(InvalidAdapter, match="no safetensors file"):
            registry.publish(
                weights,
                round_id="r1",
                base_digest=BASE,
                parent=AdapterRef(),
                rank=4,
                targets=["to_q"],
                training={},
                verdict=None,
            )
        assert registry.versions() == ()

    @given(st.integers(0, len(WHOLE) - 1))
    def test_refuses_every_part_of_a_file(self, length):
        with pytest.raises(InvalidAdapter):
            check_safetensors(self.WHOLE[:length])

    @given(st.binary(max_size=200))
    def test_never_fails_in_another_way(self, content):
        with suppress(InvalidAdapter):
            check_safetensors(content)


class TestVersions:
    def test_that_are_unknown_are_not_found(self, registry):
        publish(registry)
        for read in (registry.manifest, registry.weights, registry.activate):
            for version in (2, -1):
                with pytest.raises(NotFound, match="published: 1"):
                    read(version)

    def test_zero_is_the_base_model_without_weights(self, registry):
        with pytest.raises(NotFound, match="base model"):
            registry.weights(0)

    def test_do_not_change_with_the_manifest_that_was_returned(self, registry):
        publish(registry).training["pairs"] = 0
        registry.manifest(1).training["pairs"] = 0
        assert registry.manifest(1).training["pairs"] == 120


class TestActivate:
    def test_makes_the_version_the_champion(self, registry):
        publish(registry)
        registry.activate(1)
        assert registry.alias("champion") == 1

    def test_keeps_the_champion_so_far_as_the_previous_one(self, registry):
        for i in (1, 2, 3):
            publish(registry, f"r{i}")
            registry.activate(i)
        assert (registry.alias("champion"), registry.alias("previous")) == (3, 2)

    def test_the_first_time_keeps_the_base_model_as_the_previous_one(self, registry):
        publish(registry)
        registry.activate(1)
        assert registry.alias("previous") == 0

    def test_of_the_champion_changes_nothing(self, registry):
        for i in (1, 2):
            publish(registry, f"r{i}")
            registry.activate(i)
        registry.activate(2)
        assert (registry.alias("champion"), registry.alias("previous")) == (2, 1)
        assert len(registry.alias_history()) == 2

    def test_refuses_what_the_gate_rejected_and_says_why(self, registry):
        publish(registry, verdict=REJECTED)
        with pytest.raises(Conflict, match="diversity fell; too few outfits"):
            registry.activate(1)
        assert registry.alias("champion") is None

    def test_refuses_what_the_gate_was_not_asked_about(self, registry):
        publish(registry, verdict=None)
        with pytest.raises(Conflict, match="not asked"):
            registry.activate(1)

    @pytest.mark.parametrize("verdict", [None, REJECTED])
    def test_can_be_forced(self, registry, verdict):
        publish(registry, verdict=verdict)
        registry.activate(1, is_forced=True)
        assert registry.alias("champion") == 1
        assert registry.alias_history()[-1].is_forced

    def test_of_the_base_model_is_always_allowed(self, registry):
        registry.activate(0)
        assert (registry.alias("champion"), registry.alias("previous")) == (0, None)
        publish(registry)
        registry.activate(1)
        registry.activate(0)
        assert (registry.alias("champion"), registry.alias("previous")) == (0, 1)

    def test_cannot_be_forced_for_an_unknown_version(self, registry):
        with pytest.raises(NotFound, match="published: none"):
            registry.activate(1, is_forced=True)


class TestRollback:
    def test_makes_the_previous_version_the_champion_again(self, registry):
        for i in (1, 2):
            publish(registry, f"r{i}")
            registry.activate(i)
        assert registry.rollback() == 1
        assert (registry.alias("champion"), registry.alias("previous")) == (1, None)

    def test_of_the_first_adapter_goes_back_to_the_base_model(self, registry):
        publish(registry)
        registry.activate(1)
        assert registry.rollback() == 0
        assert registry.alias("champion") == 0

    def test_twice_is_a_conflict_and_changes_nothing(self, registry):
        for i in (1, 2):
            publish(registry, f"r{i}")
            registry.activate(i)
        registry.rollback()
        with pytest.raises(Conflict, match="no previous adapter to roll back to"):
            registry.rollback()
        assert registry.alias("champion") == 1

    def test_before_any_activation_is_a_conflict(self, registry):
        with pytest.raises(Conflict, match="activate"):
            registry.rollback()

    def test_can_follow_another_activation(self, registry):
        for i in (1, 2, 3):
            publish(registry, f"r{i}")
        registry.activate(1)
        registry.activate(2)
        registry.rollback()
        registry.activate(3)
        assert registry.rollback() == 1


class TestAliases:
    def test_are_none_before_any_activation(self, registry):
        assert registry.alias("champion") is None and registry.alias("previous") is None
        assert registry.alias_history() == ()

    def test_of_other_names_are_refused(self, registry):
        with pytest.raises(InvalidInput, match="'latest'"):
            registry.alias("latest")

    def test_remember_every_move(self, registry):
        for i, verdict in ((1, PROMOTED), (2, REJECTED)):
            publish(registry, f"r{i}", verdict=verdict)
        registry.activate(1)
        registry.activate(2, is_forced=True)
        registry.rollback()
        moves = [(move.kind, move.version, move.is_forced) for move in registry.alias_history()]
        assert moves == [("activate", 1, False), ("activate", 2, True), ("rollback", 1, False)]

    def test_follow_any_sequence_of_moves(self, open_registry):
        @settings(max_examples=20)
        @given(st.lists(st.integers(0, 3) | st.just("rollback"), max_size=8))
        def follow(moves: list[int | str]) -> None:
            registry = open_registry()
            for i in (1, 2, 3):
                publish(registry, f"r{i}")
            champion, previous = None, None
            for move in moves:
                if move == "rollback" and previous is None:
                    with pytest.raises(Conflict):
                        registry.rollback()
                elif move == "rollback":
                    champion, previous = previous, None
                    assert registry.rollback() == champion
                else:
                    registry.activate(move)
                    if move != champion:
                        champion, previous = move, None if (champion or 0) == move else champion or 0
                assert (registry.alias("champion"), registry.alias("previous")) == (champion, previous)

        follow()
