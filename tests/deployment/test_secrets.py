"""deploy/make-secrets makes what docker-compose.yml mounts, and what the services can read."""

import subprocess
from urllib.parse import urlsplit

import pytest

from fashiondpo.serving.keys import KeyRing
from tests.deployment.composition import GPU, ROOT


def make_secrets(folder, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [ROOT / "deploy/make-secrets", *arguments],
        env={"SECRETS_FOLDER": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "secrets"
    assert make_secrets(made).returncode == 0
    return made


class TestMakeSecrets:
    def test_makes_every_file_that_compose_mounts(self, folder):
        assert {path.name for path in folder.iterdir()} == set(GPU["secrets"])

    def test_lets_the_containers_read_them_and_nobody_else_of_the_host(self, folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}

    def test_gives_the_trainer_a_key_that_may_do_what_rounds_need(self, folder):
        caller = KeyRing.parse((folder / "api_keys").read_text()).caller((folder / "service_key").read_text())
        assert caller.name == "trainer"
        assert caller.may("generate") and caller.may("train") and not caller.may("admin")

    def test_gives_the_services_the_password_of_redis_in_a_url(self, folder):
        url = urlsplit((folder / "redis_url").read_text())
        assert (url.hostname, url.port, url.password) == ("redis", 6379, (folder / "redis_password").read_text())
        assert len(url.password) >= 40

    def test_leaves_the_url_of_another_redis_as_it_is(self, tmp_path):
        (tmp_path / "redis_url").write_text("rediss://:secret@elsewhere:6380/0")
        assert make_secrets(tmp_path).returncode == 0
        assert (tmp_path / "redis_url").read_text() == "rediss://:secret@elsewhere:6380/0"

    def test_shows_the_operator_a_key_that_may_do_everything(self, tmp_path):
        key = make_secrets(tmp_path / "new").stdout.split()[-1]
        assert KeyRing.parse((tmp_path / "new/api_keys").read_text()).caller(key).may("admin")

    def test_stores_no_key_of_a_caller(self, folder):
        key = make_secrets(folder, "add", "shop", "generate").stdout.strip()
        keys = (folder / "api_keys").read_text()
        assert key not in keys
        caller = KeyRing.parse(keys).caller(key)
        assert caller.name == "shop" and caller.may("generate") and not caller.may("train")

    def test_changes_nothing_that_is_there(self, folder):
        before = {path.name: path.read_text() for path in folder.iterdir()}
        assert make_secrets(folder).stdout == ""
        assert {path.name: path.read_text() for path in folder.iterdir()} == before

    def test_does_not_give_a_name_twice(self, folder):
        assert make_secrets(folder, "add", "trainer", "admin").returncode == 1
