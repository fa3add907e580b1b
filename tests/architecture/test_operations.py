"""docs/operations.md says what the code does: tests of faults, problem codes, figures, checks and log lines that exist."""

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from fashiondpo.errors import FashionDPOError
from fashiondpo.serving.judge_metrics import JudgeMetrics
from fashiondpo.serving.metrics import ServiceMetrics
from fashiondpo.serving.problems import _CODES
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.stores import memory_stores
from services.generator.app import create_app as generator_app
from services.generator.metrics import GeneratorMetrics
from services.generator.settings import GeneratorSettings
from services.judge_quality.app import create_app as judge_app
from services.judge_quality.settings import JudgeQualitySettings
from services.trainer.app import create_app as trainer_app
from services.trainer.round_metrics import RoundMetrics
from services.trainer.settings import TrainerSettings
from services.trainer.worker_metrics import WorkerMetrics
from tests.architecture.checkout import module_paths
from tests.architecture.pages import Row, names_of_tests, page_text, quoted, tables

PAGE = tables(page_text("operations.md"))
FAULTS: list[Row] = [row for rows in PAGE.values() for row in rows if "fault" in row]


def error_classes(root: type[FashionDPOError] = FashionDPOError) -> set[type[FashionDPOError]]:
    """The class and all below it."""
    return {root}.union(*(error_classes(kind) for kind in root.__subclasses__() if kind.__module__ == root.__module__))


def figures_of(*registries: CollectorRegistry) -> set[str]:
    """Names of our figures, as Prometheus sees them."""
    metrics = [metric for registry in registries for metric in registry.collect()]
    names = {f"{metric.name}{'_total' if metric.type == 'counter' else ''}" for metric in metrics}
    return {name for name in names if name.startswith("fashiondpo_")}


def exported_figures() -> dict[str, set[str]]:
    """Figures by the service that shows them."""
    generator, trainer, shared = CollectorRegistry(), CollectorRegistry(), figures_of(ServiceMetrics().registry)
    GeneratorMetrics(generator)
    RoundMetrics(memory_stores(MemoryArtifacts()), trainer)
    return {
        "all": shared,
        "generator": figures_of(generator),
        "judges": figures_of(JudgeMetrics().service.registry) - shared,
        "trainer": figures_of(trainer),
        "worker": figures_of(WorkerMetrics().registry),
    }


def checks_of(app: FastAPI) -> set[str]:
    """What /readyz looks at; the service is not opened, so that nothing has to be well."""
    return set(TestClient(app).get("/readyz").json()["checks"])


class TestFaults:
    def test_are_many(self):
        assert len(FAULTS) > 40

    @pytest.mark.parametrize("row", FAULTS, ids=lambda row: row["fault"])
    def test_are_proved_by_tests_that_exist(self, row):
        named = quoted(row["test"])
        assert named
        for test in named:
            path, _, name = test.partition("::")
            assert name in names_of_tests(path), test

    @pytest.mark.parametrize("row", FAULTS, ids=lambda row: row["fault"])
    def test_say_what_happens_and_what_to_do(self, row):
        assert all(row[column] for column in ("what users see", "what happens by itself", "what to do"))

    def test_name_only_statuses_and_codes_that_there_are(self):
        known = {row["code"].strip("`") for row in PAGE["Problem codes"]}
        for row in FAULTS:
            for _, code in re.findall(r"\b([45]\d\d) `(\w+)`", row["what users see"]):
                assert code in known, row["fault"]


class TestProblemCodes:
    def test_are_listed_with_their_status_and_no_others_are(self):
        listed = {(quoted(row["code"])[0], int(row["status"])) for row in PAGE["Problem codes"]}
        of_errors = {(kind.code, kind.status) for kind in error_classes()}
        assert listed == of_errors | {(code, status) for status, code in _CODES.items()}

    def test_have_a_meaning(self):
        assert all(len(row["means"]) > 4 and row["what to do"] for row in PAGE["Problem codes"])


class TestFigures:
    def test_are_listed_by_who_shows_them_and_no_others_are(self):
        listed: dict[str, set[str]] = {}
        for row in PAGE["Figures"]:
            listed.setdefault(row["of"], set()).update(quoted(row["figure"]))
        assert listed == exported_figures()


class TestHealth:
    def test_names_every_check(self, tmp_path):
        artifacts, redis = str(tmp_path), "redis://127.0.0.1:1"
        apps = {
            "generator": generator_app(GeneratorSettings(redis_url=redis, artifacts_url=artifacts)),
            "judges": judge_app(
                JudgeQualitySettings(artifacts_url=artifacts, backend="remote", vlm_url="http://127.0.0.1:1")
            ),
            "trainer": trainer_app(TrainerSettings(artifacts_url=artifacts)),
        }
        listed = {row["service"]: set(quoted(row["checks"])) for row in PAGE["Health"]}
        assert listed == {name: checks_of(app) for name, app in apps.items()}


class TestLogLines:
    def test_are_written_somewhere(self):
        sources = "\n".join(path.read_text() for path in module_paths())
        listed = [line for row in PAGE["Logs and traces"] for line in quoted(row["line"])]
        assert listed
        assert [line for line in listed if f'"{line}"' not in sources] == []
