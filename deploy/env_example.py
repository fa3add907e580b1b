"""Prints .env.example: what docker-compose.yml can be told, and every setting of every service that it leaves open.

    python deploy/env_example.py > .env.example

Names, defaults and meanings are those of the settings classes, so that none can be forgotten; a test compares.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

IN_IMAGE = Path("/app")
"""Where an image has what lies in ROOT here."""
SERVICES = ("generator", "judge_quality", "judge_compat", "judge_personal", "trainer")
HEAD = """\
# What the services can be told. Copy this file to .env beside docker-compose.yml and change what should be otherwise:
# a line #NAME=value shows the default. No keys belong here: deploy/make-secrets makes them as files.
#
# Printed by deploy/env_example.py; a test compares it with the settings.
"""
COMPOSE = """\
# -- Docker Compose --------------------------------------------------------------------------------------------------

# Names of the images: IMAGE_PREFIX/generator:IMAGE_TAG and so on.
#IMAGE_PREFIX=fashiondpo
#IMAGE_TAG=latest
# What the images are built on: anything with python3.11 and its venv module.
#BASE_IMAGE=python:3.11-slim-bookworm
# cuda, or cpu (docker-compose.cpu.yml says so by itself).
#TORCH_VARIANT=cuda
# Exact version; empty: the tested one. And a further package index for torch and torchvision: the one with builds for
# the CPU.
#TORCH_VERSION=
#TORCH_INDEX=
# Further Python packages in the images, e.g. s3fs for an ARTIFACTS_URL that starts with s3://
#EXTRA_PACKAGES=
# The GPU of the generator, of the worker and of the three judges: number or UUID, as nvidia-smi -L lists them. They may
# share one.
#GPU_GENERATOR=0
#GPU_WORKER=0
#GPU_JUDGES=0
# What judges quality: remote (the model server below), local (MiniCPM-V 4.6 in the judge's process) or mini; and without a
# GPU, with docker-compose.cpu.yml.
#JUDGE_QUALITY_BACKEND=remote
#CPU_QUALITY_BACKEND=mini
# The model server: its image, its GPU and share of that GPU's memory, the model and the revision of its repository. VLM_URL
# and VLM_DIALECT name another server: vllm, vllm-legacy, llama.cpp, ollama, transformers or none.
#VLM_IMAGE=vllm/vllm-openai:v0.12.0
#GPU_VLM=0
#VLM_GPU_MEMORY=0.4
#VLM_MODEL=openbmb/MiniCPM-Llama3-V-2_5
#VLM_REVISION=main
#VLM_URL=http://vlm:8000
#VLM_DIALECT=vllm
# Your own bundle, data set and judges' models; the containers see the folder as /models, read-only.
#MODELS_FOLDER=./models
#SECRETS_FOLDER=./secrets
# Where the host listens. A range of ports is for replicas: 127.0.0.1:8000-8003 with --scale generator=4.
#GENERATOR_PUBLISHED=127.0.0.1:8000
#TRAINER_PUBLISHED=127.0.0.1:8004
#PROMETHEUS_PUBLISHED=127.0.0.1:9090
#GRAFANA_PUBLISHED=127.0.0.1:3000
# Another place for pictures, trajectories and weights: a path or any fsspec URL. (Another Redis: secrets/redis_url.)
#ARTIFACTS_URL=/var/lib/fashiondpo/artifacts
# Beyond this Redis refuses to store more.
#REDIS_MAXMEMORY=4gb
#REDIS_IMAGE=redis:8-alpine
#PROMETHEUS_IMAGE=prom/prometheus:v3.5.0
#PROMETHEUS_RETENTION=30d
#GRAFANA_IMAGE=grafana/grafana:12.1.0
"""


def settings_classes() -> dict[str, type[BaseSettings]]:
    """The settings of each service, by the prefix of its variables."""
    classes = {}
    for service in SERVICES:
        module = import_module(f"services.{service}.settings")
        settings = getattr(module, "".join(part.title() for part in service.split("_")) + "Settings")
        classes[settings.model_config["env_prefix"]] = settings
    return classes


def fixed_by_compose() -> set[str]:
    """Variables that docker-compose.yml sets itself."""
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    return {name for service in composed for name in service.get("environment", {})}


def written(field: FieldInfo) -> str:
    """The default as the environment would say it; empty for none."""
    match field.get_default(call_default_factory=True):
        case None:
            return ""
        case SecretStr() as secret:
            return secret.get_secret_value()
        case Path() as path if path.is_relative_to(ROOT):
            return str(IN_IMAGE / path.relative_to(ROOT))
        case BaseModel() as request:
            return request.model_dump_json(exclude_unset=True)
        case str() | Path() as text:
            return str(text)
        case value:
            return json.dumps(value)


def lines_of(prefix: str, settings: type[BaseSettings], fixed: set[str], explained: set[str]) -> Iterator[str]:
    """A comment and a line for each setting; what services share is explained at the first of them."""
    title = f"# -- {prefix.strip('_').replace('_', ' ').lower().capitalize()} "
    yield title + "-" * (118 - len(title)) + "\n"
    for name, field in settings.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if variable in fixed or f"{variable}_FILE" in fixed:
            continue
        meaning = f"{name}: {field.description}"
        if field.description and meaning not in explained:
            explained.add(meaning)
            yield from textwrap.wrap(field.description, 118, initial_indent="# ", subsequent_indent="# ")
        yield f"#{variable}={written(field)}"


def env_example() -> str:
    """The whole file."""
    fixed, explained = fixed_by_compose(), set[str]()
    parts = ["\n".join(lines_of(*each, fixed, explained)) + "\n" for each in settings_classes().items()]
    return "\n".join([HEAD, COMPOSE, *parts])


if __name__ == "__main__":
    sys.stdout.write(env_example())
