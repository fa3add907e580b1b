"""An artifact store that is full or away: what has to be stored is refused honestly, and works again afterwards."""

import errno

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.generator_calls import completion


@pytest.fixture
def full(monkeypatch):
    """Every write fails, and every look."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "no space left on device")

    def fill() -> None:
        for what in ("pipe_file", "info", "cat_file"):
            monkeypatch.setattr(MemoryFileSystem, what, fail)

    return fill


class TestArtifactStoreThatIsFull:
    def test_is_503_for_what_has_to_be_stored_and_named_by_readyz(self, opened, full, monkeypatch):
        client = opened(artifacts_url="memory://full")
        full()
        refused = client.post("/generate", json=completion())
        ready = client.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert ready.status_code == 503 and "does not answer" in ready.json()["checks"]["artifacts"]
        monkeypatch.undo()
        assert client.post("/generate", json=completion()).status_code == 200
        assert client.get("/readyz").status_code == 200
