"""A generator that cannot compute as it was told ends, and says why: nobody finds out by waiting."""

from pathlib import Path

import pytest

from tests.service_process import ServiceProcess


@pytest.fixture
def told(bundle_folder: Path, tmp_path: Path) -> dict[str, object]:
    return {"bundle": bundle_folder, "artifacts_url": tmp_path / "artifacts"}


def test_generator_that_is_told_a_gpu_which_is_not_there_ends_with_1_and_says_so(told):
    with ServiceProcess("generator", device="cuda:99", **told) as generator:
        assert generator.ended() == 1
        (line,) = generator.events("failed")
        assert "'cuda:99' was asked for" in str(line)


def test_generator_that_must_be_compiled_without_a_compiler_ends_with_1_and_says_so(told, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    with ServiceProcess("generator", compile="required", **told) as generator:
        assert generator.ended(within_s=180) == 1
        (line,) = generator.events("failed")
        assert "the UNet cannot be compiled on this machine" in str(line)
