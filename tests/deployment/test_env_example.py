""".env.example names everything that can be set, and nothing else."""

import re

import pytest

from tests.deployment.composition import GPU, OURS, ROOT, environment, settings_class, variables
from tests.deployment.scripts import load_script

EXAMPLE = (ROOT / ".env.example").read_text()
NAMED = dict(re.findall(r"^#?([A-Z]\w*)=(.*)$", EXAMPLE, re.MULTILINE))
COMPOSE = (ROOT / "docker-compose.yml").read_text() + (ROOT / "docker-compose.cpu.yml").read_text()


def settings_of(package: str) -> set[str]:
    settings = settings_class(package)
    return {f"{settings.model_config['env_prefix']}{name.upper()}" for name in settings.model_fields}


class TestEnvExample:
    def test_is_what_the_settings_say_now(self):
        """Otherwise: python deploy/env_example.py > .env.example"""
        assert load_script("deploy/env_example.py").env_example() == EXAMPLE

    @pytest.mark.parametrize("package", sorted(set(OURS.values())))
    def test_names_every_setting_that_compose_leaves_open(self, package):
        fixed = {name.removesuffix("_FILE") for service in GPU["services"].values() for name in environment(service)}
        fixed |= {name for service in GPU["services"].values() for name in environment(service)}
        assert settings_of(package) - fixed <= set(NAMED)

    def test_names_every_variable_of_the_compose_files_with_its_default(self):
        asked = variables(COMPOSE)
        assert {name: NAMED.get(name) for name in asked} == asked

    def test_names_nothing_that_nobody_reads(self):
        read = set(variables(COMPOSE)).union(*map(settings_of, OURS.values()))
        assert set(NAMED) - read == set()

    def test_explains_every_variable_once(self):
        names = re.findall(r"^#?([A-Z]\w*)=", EXAMPLE, re.MULTILINE)
        assert len(names) == len(set(names))

    def test_holds_no_key(self):
        assert [name for name in NAMED if re.search(r"API_KEYS|SERVICE_KEY|PASSWORD|TOKEN", name)] == []
