"""From a hub to pictures: fetched in one process, killed on the way, served offline in another."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fashiondpo.diffusion.model import bundle_digest
from fashiondpo.model_cache.places import ModelPlaces
from tests.generator_calls import completion
from tests.model_hub import FakeHub, commit_of, folder_files
from tests.published_files import write_difashion, write_stable_diffusion
from tests.service_process import ROOT, ServiceProcess
from tests.tiny_models import build_tiny_bundle

pytestmark = pytest.mark.slow
PLACE = f"house/difashion@{commit_of('first')}"
UNET = "unet/diffusion_pytorch_model.safetensors"


def command(hub, cache, *arguments):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "COLUMNS": "160"}
    return subprocess.Popen(
        [sys.executable, "-m", "fashiondpo.cli.main", "models", *arguments, "--cache", cache],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def said(process):
    """What a command printed; it has to have succeeded."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


@contextmanager
def generator(cache, artifacts, place):
    """A generator without any hub."""
    with ServiceProcess("generator", bundle=place, model_cache=cache, artifacts_url=artifacts) as service:
        yield service


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """A cache that was filled by a command that was killed, and by one that went on; what they said and asked."""
    folder = tmp_path_factory.mktemp("hub")
    bundle = build_tiny_bundle(seed=3)
    write_stable_diffusion(bundle, folder / "all", ending=".safetensors")
    write_difashion(bundle, folder / "all", ending=".safetensors")
    cache: Path = folder / "cache"
    with FakeHub() as hub:
        hub.add("house/difashion", folder_files(folder / "all"))
        hub.stall_after[UNET] = 2000
        fetch = ("fetch", PLACE, "--yes", "--data", "mini")
        killed = command(hub, cache, *fetch)
        assert hub.has_stalled.wait(240)
        killed.kill()
        killed.communicate()
        left = sorted(path.name for path in cache.iterdir())
        first_requests = list(hub.requests)
        hub.requests.clear()
        went_on = said(command(hub, cache, *fetch))
        requests = list(hub.requests)
        hub.requests.clear()
        again = said(command(hub, cache, *fetch))
        verified = said(command(hub, cache, "verify", PLACE))
        return cache, {
            "left": left, "first": first_requests, "went on": went_on, "requests": requests, "again": again,
            "asked again": list(hub.requests), "verified": verified,
        }  # fmt: skip


class TestFetch:
    def test_that_was_killed_has_put_nothing_where_services_look(self, fetched):
        _, seen = fetched
        assert "hub" not in seen["left"]
        assert "bundles" not in seen["left"]

    def test_goes_on_with_what_was_missing(self, fetched):
        _, seen = fetched
        before, after = ({path for path in seen[name] if "/resolve/" in path} for name in ("first", "requests"))
        assert any(UNET in path for path in before & after)
        whole = {path for path in before if UNET not in path}
        assert whole
        assert not whole & after

    def test_shows_sizes_and_licence_first(self, fetched):
        _, seen = fetched
        row = next(line for line in seen["went on"].splitlines() if "openrail++" in line)
        assert re.search(rf"{commit_of('first')[:12]} +│ +\d+ │ +\d+\.\d │ openrail\+\+", row)

    def test_asks_nobody_the_second_time(self, fetched):
        _, seen = fetched
        assert "Nothing had to be fetched" in seen["again"]
        assert seen["asked again"] == []

    def test_is_verified_against_the_lock(self, fetched):
        _, seen = fetched
        assert re.search(r"\d+ files, \d+\.\d MB: all as models\.lock\.json says", seen["verified"])


class TestGenerator:
    def test_paints_offline_with_a_hub_id_as_its_bundle(self, fetched, tmp_path, repository):
        cache, _ = fetched
        with generator(cache, tmp_path / "artifacts", PLACE) as service:
            service.wait_until_ready()
            answer = httpx.post(f"{service.url}/generate", json=completion(steps=2), timeout=60)
        assert answer.status_code == 200, answer.text
        (made,) = answer.json()["candidate_sets"]
        assert len(made["candidates"]) == 2
        folder = ModelPlaces(cache, repository / "assets/mini").bundle(PLACE)
        assert answer.json()["base_digest"] == bundle_digest(folder)

    def test_that_finds_nothing_ends_and_says_which_command_fetches_it(self, tmp_path):
        with generator(tmp_path / "none", tmp_path / "artifacts", PLACE) as service:
            assert service.ended() != 0
        assert f"`fashiondpo models fetch {PLACE} --cache {tmp_path / 'none'}`" in service.text
