"""What only files can go wrong with in an adapter registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fashiondpo.contracts import content_digest
from fashiondpo.errors import CorruptArtifact, DataFileError
from fashiondpo.storage.adapters import FolderAdapters
from tests.protocols.small_adapters import make_weights, publish


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class TestFolderAdapters:
    PUBLISH = (
        "import sys\n"
        "import numpy as np\n"
        "from safetensors.numpy import save\n"
        "from fashiondpo.contracts import AdapterRef, content_digest\n"
        "from fashiondpo.storage.adapters import FolderAdapters\n"
        "registry = FolderAdapters(sys.argv[1])\n"
        "def publish(round_id, value=0.0):\n"
        "    weights = save({'a': np.full(300_000, value, np.float32)})\n"
        "    return registry.publish(weights, round_id=round_id, base_digest=content_digest(b'base'),\n"
        "        parent=AdapterRef(), rank=4, targets=['to_q'], training={}, verdict=None)\n"
    )

    def test_opens_nothing_before_it_is_written_to(self, tmp_path):
        registry = FolderAdapters(tmp_path / "adapters")
        assert registry.versions() == () and registry.alias("champion") is None
        assert list(tmp_path.iterdir()) == []

    def test_survives_being_reopened(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        manifests = [publish(registry, f"r{i}", i) for i in (1, 2)]
        registry.activate(2)
        reopened = FolderAdapters(str(tmp_path))
        assert [reopened.manifest(version) for version in reopened.versions()] == manifests
        assert reopened.weights(2) == make_weights(2)
        assert (reopened.alias("champion"), reopened.alias_history()) == (2, registry.alias_history())
        assert publish(reopened, "r3", 3).version == 3

    def test_keeps_a_folder_per_version(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        registry.activate(1)
        files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        version = {"versions/000001/adapter.safetensors", "versions/000001/manifest.json"}
        assert files == version | {"aliases.json", ".lock"}

    def test_counts_on_after_a_million_versions(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        folder = tmp_path / "versions/000001"
        edit(folder / "manifest.json", version=999_999, round_id="r999999")
        folder.rename(tmp_path / "versions/999999")
        assert publish(registry).version == 1_000_000
        assert registry.versions() == (999_999, 1_000_000)

    def test_notices_damaged_weights(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        (tmp_path / "versions/000001/adapter.safetensors").write_bytes(make_weights(1))
        with pytest.raises(CorruptArtifact, match="version 1 are damaged"):
            registry.weights(1)

    def test_notices_weights_that_are_gone(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        (tmp_path / "versions/000001/adapter.safetensors").unlink()
        with pytest.raises(CorruptArtifact, match="version 1 are gone"):
            registry.weights(1)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:50]), "cut short"),
            (lambda path: edit(path, schema_version=2), "only 1 is known"),
            (lambda path: edit(path, version=7), "manifest of version 7"),
            (Path.unlink, "is missing"),
        ],
        ids=["cut short", "unknown schema", "another version", "missing"],
    )
    def test_names_the_manifest_that_cannot_be_read(self, tmp_path, change, problem):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        change(path := tmp_path / "versions/000001/manifest.json")
        with pytest.raises(DataFileError, match=problem) as caught:
            registry.manifest(1)
        assert caught.value.path == path

    def test_names_the_aliases_that_cannot_be_read(self, tmp_path):
        (tmp_path / "aliases.json").write_text('{"champion": 3}')
        with pytest.raises(DataFileError, match="no schema_version") as caught:
            FolderAdapters(tmp_path).alias("champion")
        assert caught.value.path == tmp_path / "aliases.json"

    def test_leaves_folders_alone_that_are_not_called_like_versions(self, tmp_path):
        for name in ("000001.bak", "1", "notes"):
            (tmp_path / "versions" / name).mkdir(parents=True)
        assert FolderAdapters(tmp_path).versions() == ()
        assert publish(FolderAdapters(tmp_path)).version == 1

    @pytest.mark.parametrize("step", ["Path.replace", "Path.rename"])
    def test_shows_nothing_of_what_a_killed_publisher_wrote(self, tmp_path, start_python, step):
        publish(FolderAdapters(tmp_path))
        dies = f"import os\nfrom pathlib import Path\n{step} = lambda *paths: os._exit(9)\npublish('r2')\n"
        assert start_python(self.PUBLISH + dies, tmp_path).wait(60) == 9
        registry = FolderAdapters(tmp_path)
        assert registry.versions() == (1,)
        assert publish(registry, "r2", 2).version == 2
        assert registry.weights(2) == make_weights(2)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "versions"]
        assert {path.name for path in (tmp_path / "versions/000002").iterdir()} == {
            "adapter.safetensors",
            "manifest.json",
        }

    def test_has_only_whole_versions_whenever_a_publisher_is_killed(self, tmp_path, start_python):
        endless = self.PUBLISH + "for i in range(10_000): print(publish(f'r{i}', i).version, flush=True)\n"
        seen = 0
        for announced in (1, 4):
            publisher = start_python(endless, tmp_path)
            for _ in range(announced):
                seen = max(seen, int(publisher.stdout.readline()))
            publisher.kill()
            publisher.wait(60)
            registry = FolderAdapters(tmp_path)
            versions = registry.versions()
            assert versions == tuple(range(1, len(versions) + 1)) and len(versions) >= seen
            assert all(content_digest(registry.weights(v)) == registry.manifest(v).digest for v in versions)

    def test_gives_each_round_one_version_among_several_processes(self, tmp_path, start_python):
        rounds = "for i in range(8): publish(f'r{i}', i)\n"
        publishers = [start_python(self.PUBLISH + rounds, tmp_path) for _ in range(3)]
        assert [publisher.wait(60) for publisher in publishers] == [0, 0, 0]
        registry = FolderAdapters(tmp_path)
        assert registry.versions() == tuple(range(1, 9))
        assert sorted(registry.manifest(version).round_id for version in range(1, 9)) == [f"r{i}" for i in range(8)]
