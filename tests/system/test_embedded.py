"""Everything on one machine with one command: started, used, stopped, started again, killed."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from fashiondpo.clients.addresses import ADDRESSES_FILE, read_addresses
from fashiondpo.clients.generator import GeneratorClient
from fashiondpo.clients.http import ServiceClient
from fashiondpo.clients.trainer import TrainerClient
from fashiondpo.contracts import content_ref
from fashiondpo.errors import Unavailable
from fashiondpo.messages import GenerateRequest
from fashiondpo.offline import blank_requests
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.remote import outfit_request
from fashiondpo.run_settings import TrainRequest
from tests.embedded_run import addresses_of, fashiondpo, is_gone, save_tiny_assets, up
from tests.polling import eventually

PROCESSES = Counter(
    ["valkey", "generator", "judge_quality", "judge_compat", "judge_personal", "trainer", "worker", "beat"]
)


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    return save_tiny_assets(tmp_path_factory.mktemp("assets") / "mini")


@pytest.fixture(scope="module")
def request_of_a_customer(assets) -> GenerateRequest:
    blanks = load_data_set(assets / "catalogue").blanks_of("test", 2, seed=0)
    requests = blank_requests(blanks, prefix="customer", candidates=2, seed=0)
    return GenerateRequest(outfits=tuple(map(outfit_request, requests)), record=True)


class TestUp:
    def test_serves_until_ctrl_c_and_goes_on_with_the_same_data(self, assets, request_of_a_customer, tmp_path):
        run = tmp_path / "run"
        with up(assets, run) as first:
            addresses = addresses_of(run, first)
            for name, url in addresses.services.items():
                with ServiceClient(url) as client:
                    assert client.readiness().is_ready, name
                assert url in first.output
            with GeneratorClient(addresses.generator) as generator:
                made = generator.generate(request_of_a_customer)
                picture = made.candidate_sets[0].candidates[0].image
                assert content_ref(generator.image(picture), "png") == picture
            with TrainerClient(addresses.trainer) as trainer:
                waiting = trainer.train(TrainRequest(outfits=8))
                trainer.cancel(waiting.round_id)
            with up(assets, run) as second:
                assert second.ended() == 1
                assert f"running in {run} already (process {addresses.pid})" in second.output
            children = first.children()
            assert first.stopped(signal.SIGINT) == 0, first.output
            assert f"the data are kept in {run}" in first.output
        assert all(map(is_gone, children))
        assert not (run / ADDRESSES_FILE).exists()

        with up(assets, run) as again:
            addresses = addresses_of(run, again)
            with GeneratorClient(addresses.generator) as generator:
                assert generator.image(picture)
            with TrainerClient(addresses.trainer) as trainer:
                ended = trainer.round(waiting.round_id)
                assert ended.created_at == waiting.created_at
            assert again.stopped(signal.SIGTERM) == 0, again.output

    def test_ends_with_the_last_words_of_a_service_that_dies(self, assets, tmp_path):
        with up(assets, tmp_path / "run") as command:
            judge = eventually(lambda: [p for p in command.children() if "services.judge_quality" in p.cmdline()])[0]
            others = command.children()
            judge.send_signal(signal.SIGKILL)
            assert command.ended() == 1
            assert "judge_quality ended with exit code -9" in command.output
            eventually(lambda: all(map(is_gone, others)))
        with pytest.raises(Unavailable):
            read_addresses(tmp_path / "run")

    def test_leaves_no_orphan_when_it_is_killed(self, assets, tmp_path):
        with up(assets, tmp_path / "run") as command:
            eventually(lambda: len(command.children()) >= PROCESSES.total(), within_s=60)
            children = command.children()
            command.process.kill()
            command.ended()
            eventually(lambda: all(map(is_gone, children)))

    def test_refuses_a_port_that_is_taken_and_starts_nothing(self, assets, tmp_path, valkey_url):
        port = valkey_url.rpartition(":")[2].partition("/")[0]
        with fashiondpo(assets, "up", "--run", tmp_path / "run", "--base-port", port) as command:
            assert command.ended() == 1
            assert f"generator cannot listen on 127.0.0.1:{port}" in command.output
            assert not (tmp_path / "run" / "valkey").exists()

    def test_says_so_if_its_folder_cannot_be_written(self, assets, tmp_path):
        (tmp_path / "file").write_text("no folder")
        for run in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/nothing/run")):
            with fashiondpo(assets, "up", "--run", run, "--base-port", 0) as command:
                assert command.ended() == 1
                assert f"error: the run's folder {run} cannot be written: " in command.output
                assert "Traceback" not in command.output

    def test_listens_to_the_whole_network_only_with_keys(self, assets, tmp_path):
        options = ("--run", tmp_path / "run", "--host", "0.0.0.0", "--base-port", 0)
        with fashiondpo(assets, "up", *options) as command:
            assert command.ended() == 1
            assert "without API keys" in command.output
