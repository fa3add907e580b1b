"""Commands with --url, or with --run for embedded services, against services that really run."""

import json

import pytest
from PIL import Image

from fashiondpo.clients.addresses import Addresses
from fashiondpo.clients.generator import GeneratorClient
from fashiondpo.contracts import content_digest
from fashiondpo.diffusion.model import load_bundle
from fashiondpo.storage.adapters import FolderAdapters
from tests.embedded_run import addresses_of, save_tiny_assets, up
from tests.tiny_models import random_adapter
from tests.unit.cli.command_line import CommandLine

LITTLE = ("--outfits", 2, "--candidates", 2)


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    return save_tiny_assets(tmp_path_factory.mktemp("assets") / "mini")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def services(assets, run):
    with up(assets, run) as command:
        yield addresses_of(run, command)


@pytest.fixture(scope="module")
def fashiondpo(assets, services) -> CommandLine:
    """The command line, while the services run."""
    return CommandLine(assets)


@pytest.fixture(scope="module")
def weights(assets, tmp_path_factory):
    """An adapter's file that fits the generator."""
    path = tmp_path_factory.mktemp("weights") / "adapter.safetensors"
    path.write_bytes(random_adapter(load_bundle(assets / "bundle")).to_bytes())
    return path


class TestComplete:
    @pytest.mark.parametrize("task", ["one", "all"])
    def test_paints_at_the_service_what_it_paints_here(self, fashiondpo, services: Addresses, tmp_path, task):
        there, here = tmp_path / "there", tmp_path / "here"
        fashiondpo.well("complete", "--run", there, "--url", services.generator, "--task", task, *LITTLE)
        fashiondpo.well("complete", "--run", here, "--task", task, *LITTLE)
        first, second = (Image.open(run / f"completed-{task}.png") for run in (there, here))
        assert first.size == second.size

    def test_says_that_nobody_is_there(self, fashiondpo, tmp_path):
        finished = fashiondpo("complete", "--run", tmp_path, "--url", "http://127.0.0.1:1", *LITTLE)
        assert finished.code == 1
        assert "does not answer" in finished.err


class TestRounds:
    def test_are_started_listed_shown_and_cancelled(self, fashiondpo, services: Addresses, run):
        by_url, by_run = ("--url", services.trainer), ("--run", run)
        assert "round-0001 is queued" in fashiondpo.well("rounds", "start", *by_url, "--outfits", 3, "--seed", 5)
        assert "round-0001" in fashiondpo.well("rounds", "list", *by_run)
        shown = json.loads(fashiondpo.well("rounds", "show", "round-0001", *by_run))
        assert (shown["record"]["settings"]["outfits"], shown["record"]["seed"]) == (3, 5)
        assert "round-0001 is" in fashiondpo.well("rounds", "cancel", "round-0001", *by_run)
        watched = fashiondpo("rounds", "watch", "round-0001", *by_url)
        assert watched.code == 2
        assert "round-0001 was cancelled" in watched.err

    def test_that_could_never_end_are_refused_with_the_reason(self, fashiondpo, run):
        finished = fashiondpo("rounds", "start", "--run", run, "--outfits", 100_000)
        assert finished.code == 2
        assert "100000" in finished.err.replace(",", "")

    def test_that_are_not_there_are_not_found(self, fashiondpo, run):
        assert "not_found" in fashiondpo("rounds", "show", "round-0999", "--run", run).err

    def test_need_services_that_run(self, fashiondpo, tmp_path):
        finished = fashiondpo("rounds", "list", "--run", tmp_path)
        assert finished.code == 1
        assert f"fashiondpo up --run {tmp_path}" in finished.err


class TestAdapters:
    def test_are_registered_activated_and_rolled_back(self, fashiondpo, services: Addresses, weights):
        there = ("--url", services.generator)
        assert "is version 1" in fashiondpo.well("adapters", "register", weights, "--name", "by-hand", *there)
        refused = fashiondpo("adapters", "activate", 1, *there)
        assert refused.code == 2
        assert "champion is version 1" in fashiondpo.well("adapters", "activate", 1, "--force", *there)
        assert "by-hand" in fashiondpo.well("adapters", "list", *there)
        assert json.loads(fashiondpo.well("adapters", "show", 1, *there))["round_id"] == "by-hand"
        assert "champion is version 0" in fashiondpo.well("adapters", "rollback", *there)
        with GeneratorClient(services.generator) as client:
            assert client.adapters().champion == 0

    def test_are_fetched_as_a_file_that_can_be_registered_and_exported(
        self, fashiondpo, services: Addresses, weights, tmp_path
    ):
        there = ("--url", services.generator)
        fashiondpo.well("adapters", "register", weights, "--name", "by-hand", *there)
        fetched = tmp_path / "new" / "fetched.safetensors"
        fashiondpo.well("adapters", "fetch", 1, "--to", fetched, *there)
        assert fetched.read_bytes() == weights.read_bytes()
        assert "is version 1" in fashiondpo.well("adapters", "register", fetched, "--name", "by-hand", *there)
        assert "Wrote" in fashiondpo.well("export", fetched, "--out", tmp_path / "exported.safetensors")

    def test_are_fetched_into_a_run_where_they_are_evaluated(self, fashiondpo, services: Addresses, weights, tmp_path):
        there, run = ("--url", services.generator), tmp_path / "elsewhere"
        fashiondpo.well("adapters", "register", weights, "--name", "by-hand", *there)
        for _ in range(2):  # whoever fetches it again has the same version
            assert "is version 1" in fashiondpo.well("adapters", "fetch", 1, "--run", run, *there)
        manifest = FolderAdapters(run / "adapters").manifest(1)
        assert manifest.digest == content_digest(weights.read_bytes())
        assert manifest.training["fetched_round"] == "by-hand"
        assert manifest.verdict is None
        said = fashiondpo.well("evaluate", "--run", run, "--outfits", 2, "--before", 0, "--after", 1, "--data", "mini")
        assert "The report lies in" in said

    def test_that_are_not_there_cannot_be_fetched(self, fashiondpo, services: Addresses, tmp_path):
        finished = fashiondpo("adapters", "fetch", 99, "--run", tmp_path / "none", "--url", services.generator)
        assert finished.code == 2
        assert "there is no adapter version 99" in finished.err
        assert not (tmp_path / "none").exists()

    def test_that_are_damaged_are_refused(self, fashiondpo, services: Addresses, tmp_path):
        (tmp_path / "adapter.safetensors").write_bytes(b"no weights")
        options = ("--name", "bad", "--url", services.generator)
        finished = fashiondpo("adapters", "register", tmp_path / "adapter.safetensors", *options)
        assert finished.code == 2
        assert "invalid_adapter" in finished.err
