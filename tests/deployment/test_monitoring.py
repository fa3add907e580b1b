"""Dashboard and alerts ask only for figures that the services export.

Grafana itself does not run here. Prometheus' own checker is asked where it is installed (`apt-get install prometheus`).
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from fashiondpo.serving.judge_metrics import JudgeMetrics
from fashiondpo.serving.metrics import ServiceMetrics
from services.generator.metrics import GeneratorMetrics
from services.trainer.round_metrics import RoundMetrics
from services.trainer.settings import TrainerSettings
from services.trainer.stores import open_stores
from services.trainer.worker_metrics import WorkerMetrics
from tests.deployment.composition import GPU, LISTENING, ROOT, environment

DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/fashiondpo.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"up": set()}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def expressions() -> Iterator[tuple[str, str]]:
    """Every query, by what it is for."""
    for panel in PANELS:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for group in ALERTS["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


def exported() -> dict[str, set[str]]:
    """Labels by the name of a figure, of all services."""
    registries = [ServiceMetrics().registry, JudgeMetrics().service.registry, WorkerMetrics().registry]
    registries += [CollectorRegistry(), CollectorRegistry()]
    GeneratorMetrics(registries[-2])
    RoundMetrics(open_stores(TrainerSettings()), registries[-1])
    figures: dict[str, set[str]] = {}
    for registry in registries:
        for collector in set(registry._collector_to_names):  # the only place that knows labels before a first value
            for metric in collector.collect():
                figures |= names_and_labels(metric, set(getattr(collector, "_labelnames", ())))
    return figures


def names_and_labels(metric: Metric, labels: set[str]) -> dict[str, set[str]]:
    """Of every series of a metric; those of families that are made when asked have labels of their own."""
    labels = labels | set(getattr(metric, "_labelnames", ())) | {"job", "instance"}
    labels |= {"le"} if metric.type == "histogram" else set()
    return {f"{metric.name}{suffix}": labels for suffix in SUFFIXES.get(metric.type, ())}


FIGURES = exported() | OF_PROMETHEUS


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Figures of a query, each with the labels by which it selects."""
    pattern = r"\b((?:fashiondpo|process|python)_\w+|up)\b(?:\{([^}]*)\})?"
    for name, selectors in re.findall(pattern, expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selectors))


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
class TestEveryQuery:
    def test_asks_for_figures_that_are_exported(self, title, expression):
        names = {name for name, _ in asked(expression)}
        assert names
        assert names - set(FIGURES) == set()

    def test_selects_and_groups_by_labels_that_they_have(self, title, expression):
        common = set.intersection(*(FIGURES[name] | {"job", "instance"} for name, _ in asked(expression)))
        groups = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
        assert groups - common == set()
        for name, labels in asked(expression):
            assert labels - FIGURES[name] - {"job", "instance"} == set()


class TestDashboard:
    def test_shows_every_figure_of_ours(self):
        shown = {name for _, expression in expressions() for name, _ in asked(expression)}
        bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
        ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in FIGURES if name.startswith("fashiondpo_")}
        assert ours - bases == set()

    def test_takes_its_figures_from_the_source_that_is_provided(self):
        source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
        provided = {each["uid"] for each in source["datasources"]}
        assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == provided
        address = urlsplit(source["datasources"][0]["url"])
        assert address.hostname in GPU["services"]

    def test_lies_where_grafana_looks_for_it(self):
        provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/fashiondpo.yml").read_text())
        path = provider["providers"][0]["options"]["path"]
        assert f"./deploy/grafana/dashboards:{path}:ro" in GPU["services"]["grafana"]["volumes"]

    def test_has_panels_that_do_not_overlap(self):
        covered = [
            (x, y)
            for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(covered) == len(set(covered))
        assert max(x for x, _ in covered) < 24
        assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


class TestPrometheus:
    def test_asks_every_service_of_ours_at_its_port(self):
        scraped = {
            (job["job_name"], tuple(source["names"]), source["port"])
            for job in PROMETHEUS["scrape_configs"]
            for source in job["dns_sd_configs"]
        }
        listening = set()
        for name in LISTENING:
            told = environment(GPU["services"][name])
            port = told.get("TRAINER_WORKER_METRICS_PORT") or next(v for k, v in told.items() if k.endswith("_PORT"))
            listening.add((name, (name,), int(port)))
        assert scraped == listening

    def test_watches_for_jobs_that_there_are(self):
        named = {job for _, expression in expressions() for job in re.findall(r'job="([^"]*)"', expression)}
        assert named <= set(LISTENING)

    @pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
    def test_itself_finds_nothing_wrong_in_queries_and_configuration(self, tmp_path):
        queries = [
            {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "1m")}
            for number, (_, expression) in enumerate(expressions())
        ]
        (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": queries}]}))
        for command in (["config", ROOT / "deploy/prometheus.yml"], ["rules", tmp_path / "queries.yml"]):
            answer = subprocess.run(["promtool", "check", *command], capture_output=True, text=True, check=False)
            assert answer.returncode == 0, answer.stderr
