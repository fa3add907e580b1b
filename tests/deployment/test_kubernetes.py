"""The manifests against the schemas of Kubernetes, against the settings, and against what a deployment must not do.

No cluster runs here: that Kubernetes itself starts these pods is not shown by tests. Overlays are put together by kubectl or
kustomize where one is installed.
"""

import re
from functools import reduce

import kubernetes_validate
import pytest
import yaml

from fashiondpo.serving.run import check_exposure
from tests.deployment.cluster import (
    FOLDER,
    OVERLAYS,
    SCHEMAS,
    base,
    container,
    documents,
    environment,
    kustomizations,
    kustomize,
    named,
    pod,
    rendered,
)
from tests.deployment.composition import BUILT, GPU, LISTENING, OURS, ROOT, settings_class
from tests.deployment.test_compose import STATE, of_entry

BASE = base()
DEPLOYMENTS = named(BASE, "Deployment")
COMPUTING = {"generator", "judge-quality", "judge-compat", "judge-personal", "worker"}
WITH_A_MODEL_SERVER = ("JUDGE_QUALITY_BACKEND", "JUDGE_QUALITY_VLM_")
POD_MAKERS = {**DEPLOYMENTS, **named(BASE, "StatefulSet")}

needs_kustomize = pytest.mark.skipif(kustomize() is None, reason="neither kubectl nor kustomize is installed")


def prefix(name: str) -> str:
    return str(settings_class(OURS[name]).model_config["env_prefix"])


def port_of(name: str) -> int:
    told = environment(DEPLOYMENTS[name])
    return int(told["TRAINER_WORKER_METRICS_PORT" if name == "worker" else f"{prefix(name)}PORT"])


def follows_the_schema(manifest: dict) -> None:
    kubernetes_validate.validate(manifest, SCHEMAS, strict=True)


class TestFiles:
    @pytest.mark.parametrize("manifest", BASE, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
    def test_of_the_base_follow_the_schema_without_an_unknown_field(self, manifest):
        follows_the_schema(manifest)

    def test_that_are_wrong_would_be_noticed(self):
        with pytest.raises(kubernetes_validate.ValidationError):
            follows_the_schema(
                {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"porst": []}}
            )

    @pytest.mark.parametrize("folder", kustomizations(), ids=lambda f: str(f.relative_to(FOLDER)))
    def test_that_a_kustomization_names_are_there_and_no_other(self, folder):
        (content,) = documents(folder / "kustomization.yaml")
        named_here = [*content.get("resources", []), *content.get("components", [])]
        named_here += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
        assert all((folder / name).exists() for name in named_here)
        assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} == {
            n for n in named_here if n.endswith(".yaml")
        }

    def test_of_an_overlay_patch_what_is_there(self):
        there = {(m["kind"], m["metadata"]["name"]) for m in BASE}
        patches = [
            d
            for path in (FOLDER / "overlays").rglob("*.yaml")
            if path.name != "kustomization.yaml"
            for d in documents(path)
        ]
        assert patches
        assert {(p["kind"], p["metadata"]["name"]) for p in patches} <= there

    def test_of_the_prometheus_are_yaml_with_one_job(self):
        (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
        assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == ["fashiondpo"]


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
class TestOverlay:
    def test_is_put_together_to_what_follows_the_schema(self, overlay):
        for manifest in rendered(overlay):
            if manifest["kind"] != "ScaledObject":
                follows_the_schema(manifest)

    def test_lies_in_the_namespace_as_a_whole(self, overlay):
        assert {m["metadata"].get("namespace") for m in rendered(overlay)} == {"fashiondpo"}

    def test_asks_for_gpus_where_it_computes_on_them_and_only_there(self, overlay):
        for name, deployment in named(rendered(overlay), "Deployment").items():
            devices = {value for key, value in environment(deployment).items() if key.endswith("_DEVICE")}
            limits = container(deployment)["resources"]["limits"]
            on_gpu = overlay.startswith("gpu") and name in COMPUTING
            assert devices == (set() if name == "beat" else {"cuda"} if on_gpu else {"cpu"})
            assert limits.get("nvidia.com/gpu", 0) == int(on_gpu)

    def test_takes_images_of_the_right_variant(self, overlay):
        images = {container(d)["image"] for d in named(rendered(overlay), "Deployment").values()}
        assert {image.split(":")[0] for image in images} == {f"fashiondpo/{name}" for name in BUILT}
        assert {image.endswith("-cpu") for image in images} == {overlay == "cpu"}

    def test_mounts_only_volumes_and_maps_that_there_are(self, overlay):
        manifests = rendered(overlay)
        maps, claims = named(manifests, "ConfigMap"), named(manifests, "PersistentVolumeClaim")
        for deployment in named(manifests, "Deployment").values():
            volumes = {volume["name"]: volume for volume in pod(deployment)["volumes"]}
            assert {mount["name"] for mount in container(deployment)["volumeMounts"]} == set(volumes)
            asked = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
            assert asked <= set(claims)
            for value in environment(deployment).values():
                if value.endswith("/url") and "://" not in value:
                    assert value.split("/")[0] in maps


@needs_kustomize
class TestScaledOverlay:
    def test_keeps_artifacts_in_s3_and_claims_no_disk_for_them(self):
        manifests = rendered("gpu-scaled")
        (url,) = (m["data"]["url"] for name, m in named(manifests, "ConfigMap").items() if name.startswith("artifacts"))
        assert url.startswith("s3://")
        assert set(named(manifests, "PersistentVolumeClaim")) == {"training", "models", "features"}

    def test_leaves_the_number_of_pods_to_the_scaler_that_names_them(self):
        manifests = rendered("gpu-scaled")
        scaled = {s["spec"]["scaleTargetRef"]["name"] for s in named(manifests, "ScaledObject").values()}
        fixed = {name for name, d in named(manifests, "Deployment").items() if "replicas" in d["spec"]}
        assert scaled == COMPUTING
        assert fixed == set(DEPLOYMENTS) - COMPUTING


def of_keda() -> list[dict]:
    return documents(FOLDER / "components" / "keda" / "scaledobjects.yaml")


@pytest.mark.parametrize("scaled", of_keda(), ids=lambda s: s["metadata"]["name"])
class TestScaledObject:
    """KEDA's definition is not among the schemas: held against the fields of its documentation, keda.sh/docs, 2.17."""

    def test_has_no_field_that_keda_does_not_know(self, scaled):
        assert scaled["apiVersion"] == "keda.sh/v1alpha1" and scaled["kind"] == "ScaledObject"
        spec = scaled["spec"]
        assert set(spec) <= {
            "scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount",
            "minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers",
        }  # fmt: skip
        assert set(spec["scaleTargetRef"]) == {"name"}
        for trigger in spec["triggers"]:
            assert set(trigger) == {"type", "metadata"} and trigger["type"] == "prometheus"
            assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
            assert float(trigger["metadata"]["threshold"]) > 0

    def test_scales_down_by_rules_that_the_autoscaler_knows(self, scaled):
        behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        autoscaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "made-by-keda"},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": scaled["spec"]["scaleTargetRef"]["name"]},
                "minReplicas": scaled["spec"]["minReplicaCount"],
                "maxReplicas": scaled["spec"]["maxReplicaCount"],
                "behavior": behavior,
            },
        }
        follows_the_schema(autoscaler)
        assert 1 <= autoscaler["spec"]["minReplicas"] < autoscaler["spec"]["maxReplicas"]

    def test_asks_for_figures_that_the_service_shows(self, scaled):
        asked = set(re.findall(r"fashiondpo_\w+", scaled["spec"]["triggers"][0]["metadata"]["query"]))
        page = (ROOT / "docs" / "operations.md").read_text()
        shown = dict(re.findall(r"^\| `(fashiondpo_\w+)` \| (\w+) \|", page, re.MULTILINE))
        of = {"worker": "trainer"}.get(scaled["metadata"]["name"], scaled["metadata"]["name"].split("-")[0])
        assert asked and {shown[name].rstrip("s") for name in asked} == {of}

    def test_names_jobs_as_the_prometheus_does(self, scaled):
        jobs = re.findall(r'job="([\w-]+)"', scaled["spec"]["triggers"][0]["metadata"]["query"])
        assert jobs == [scaled["metadata"]["name"]] * len(jobs)


def test_deployments_are_those_of_compose():
    assert set(DEPLOYMENTS) == set(OURS)


@pytest.mark.parametrize("name", DEPLOYMENTS)
class TestEveryDeployment:
    def test_is_told_only_what_its_settings_know(self, name):
        known = {f"{prefix(name)}{field.upper()}" for field in settings_class(OURS[name]).model_fields}
        known |= {f"{setting}_FILE" for setting in of_entry() & known}
        assert set(environment(DEPLOYMENTS[name])) <= known

    def test_is_told_what_compose_tells_it_but_for_what_differs(self, name):
        here, there = environment(DEPLOYMENTS[name]), dict(GPU["services"][name].get("environment", {}))
        for key in [key for key in there if key.startswith(WITH_A_MODEL_SERVER)]:
            del there[key]  # Compose runs a model server, the base judges with the mini model
        assert set(there) <= set(here)
        same = [key for key in there if key.endswith(("_HOST", "_FOLDER", "_URLS", "_GENERATOR_URL", "_CACHE"))]
        assert {key: here[key] for key in same} == {key: str(there[key]) for key in same}

    def test_finds_every_folder_that_it_is_told_in_a_volume(self, name):
        mounts = [mount["mountPath"] for mount in container(DEPLOYMENTS[name])["volumeMounts"]]
        told = [value for value in environment(DEPLOYMENTS[name]).values() if value.startswith(("/var", "/run"))]
        assert [value for value in told if not any(value.startswith(mount) for mount in mounts)] == []

    def test_runs_what_compose_runs(self, name):
        assert container(DEPLOYMENTS[name]).get("args") == GPU["services"][name].get("command")

    def test_has_time_to_finish_what_it_has_accepted_after_requests_have_stopped_coming(self, name):
        before = container(DEPLOYMENTS[name]).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        longest = settings_class(OURS[name]).model_fields["shutdown_timeout_s"].default
        compose = int(GPU["services"][name]["stop_grace_period"].rstrip("s"))
        grace = pod(DEPLOYMENTS[name])["terminationGracePeriodSeconds"]
        assert grace >= compose and grace > before + longest


@pytest.mark.parametrize("name", POD_MAKERS)
class TestEveryPod:
    def test_gains_no_rights_and_writes_nothing_but_its_volumes(self, name):
        outer, inner = pod(POD_MAKERS[name])["securityContext"], container(POD_MAKERS[name])["securityContext"]
        assert (
            outer["runAsNonRoot"] and outer["runAsUser"] > 0 and outer["seccompProfile"] == {"type": "RuntimeDefault"}
        )
        assert inner == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod(POD_MAKERS[name])["automountServiceAccountToken"] is False

    def test_has_room_in_tmp_and_a_bound_on_memory(self, name):
        assert "/tmp" in {mount["mountPath"] for mount in container(POD_MAKERS[name])["volumeMounts"]}
        assert {"requests", "limits"} == set(container(POD_MAKERS[name])["resources"])
        assert "memory" in container(POD_MAKERS[name])["resources"]["limits"]

    def test_is_matched_by_its_own_selector(self, name):
        spec = POD_MAKERS[name]["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", LISTENING)
class TestEveryListeningPod:
    def test_opens_the_port_of_its_settings_and_says_so_to_the_prometheus(self, name):
        (opened,) = container(DEPLOYMENTS[name])["ports"]
        annotations = DEPLOYMENTS[name]["spec"]["template"]["metadata"]["annotations"]
        assert opened["containerPort"] == port_of(name) == int(annotations["prometheus.io/port"])

    def test_has_half_an_hour_to_start_and_is_then_asked_whether_it_lives(self, name):
        startup, liveness = (container(DEPLOYMENTS[name])[f"{kind}Probe"] for kind in ("startup", "liveness"))
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800
        if name == "worker":
            assert startup["httpGet"]["path"] == liveness["httpGet"]["path"] == "/metrics"
        else:
            assert (startup["httpGet"]["path"], liveness["httpGet"]["path"]) == ("/readyz", "/livez")
            assert container(DEPLOYMENTS[name])["readinessProbe"]["httpGet"]["path"] == "/readyz"

    def test_starts_with_what_it_is_told_and_asks_for_keys(self, name, monkeypatch, tmp_path):
        secrets = {"api_keys": f"operator:admin:sha256-{'0' * 64}", "redis_url": "redis://:word@redis:6379/0"}
        for secret, content in secrets.items():
            (tmp_path / secret).write_text(content)
        for variable, value in environment(DEPLOYMENTS[name]).items():
            monkeypatch.setenv(variable, value)
        for variable, secret in (("API_KEYS_FILE", "api_keys"), ("REDIS_URL_FILE", "redis_url")):
            if f"{prefix(name)}{variable}" in environment(DEPLOYMENTS[name]):
                monkeypatch.setenv(f"{prefix(name)}{variable}", str(tmp_path / secret))
        monkeypatch.setenv(f"{prefix(name)}API_KEYS_FILE", str(tmp_path / "api_keys"))
        settings = settings_class(OURS[name])()
        assert not settings.is_loopback
        check_exposure(settings)

    def test_loses_at_most_one_pod_to_maintenance(self, name):
        budget = named(BASE, "PodDisruptionBudget")[name]["spec"]
        assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": name}}}


class TestJobThatFetchesModels:
    (JOB,) = documents(FOLDER / "components" / "models" / "job.yaml")

    def test_follows_the_schema_and_gains_no_rights(self):
        follows_the_schema(self.JOB)
        assert container(self.JOB)["securityContext"] == container(DEPLOYMENTS["trainer"])["securityContext"]
        assert pod(self.JOB)["securityContext"] == pod(DEPLOYMENTS["trainer"])["securityContext"]

    def test_alone_writes_what_all_services_only_read(self):
        def is_read_only(manifest: dict) -> list[bool]:
            mounts = container(manifest)["volumeMounts"]
            return [mount.get("readOnly", False) for mount in mounts if mount["name"] == "models"]

        assert is_read_only(self.JOB) == [False]
        assert all(is_read_only(deployment) == [True] for name, deployment in DEPLOYMENTS.items() if name != "beat")

    def test_runs_the_command_that_compose_runs(self):
        there = GPU["services"]["models"]
        assert container(self.JOB)["command"] == there["entrypoint"]
        told = {entry["name"]: entry["value"] for entry in container(self.JOB)["env"]}
        assert told == there["environment"]


class TestSecrets:
    def test_are_referred_to_and_never_written_down(self):
        assert "Secret" not in {manifest["kind"] for manifest in BASE}
        for name, deployment in DEPLOYMENTS.items():
            volumes = {volume["name"]: volume for volume in pod(deployment)["volumes"]}
            given = {item["key"] for item in volumes.get("secrets", {}).get("secret", {}).get("items", [])}
            assert given == set(GPU["services"][name].get("secrets", []))
            assert all(
                value.startswith("/run/secrets/fashiondpo/") and value.rsplit("/", 1)[1] in given
                for key, value in environment(deployment).items()
                if "KEY" in key
            )


class TestServices:
    @pytest.mark.parametrize("name", BUILT)
    def test_lead_to_the_port_of_the_pod(self, name):
        service = named(BASE, "Service")[name]["spec"]
        assert service["selector"] == {"app.kubernetes.io/name": name}
        assert service["ports"] == [{"name": "http", "port": port_of(name), "targetPort": "http"}]
        assert "type" not in service  # inside the cluster only


class TestRedis:
    def test_is_set_up_as_in_compose(self):
        here, there = container(POD_MAKERS["redis"]), GPU["services"]["redis"]
        options = [dict(zip(told[::2], told[1::2], strict=True)) for told in (here["args"], there["command"])]
        for name in ("--appendonly", "--appendfsync", "--maxmemory-policy"):
            assert options[0][name] == options[1][name]
        (claim,) = POD_MAKERS["redis"]["spec"]["volumeClaimTemplates"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container(POD_MAKERS["redis"])["volumeMounts"]}
        assert mounts[claim["metadata"]["name"]] == options[0]["--dir"] == "/data"

    def test_takes_its_password_from_a_file_as_in_compose(self):
        here, there = container(POD_MAKERS["redis"]), GPU["services"]["redis"]
        places = {"$$": "$", "/run/secrets/": "/run/secrets/fashiondpo/"}
        expected = [
            reduce(lambda text, place: text.replace(*place), places.items(), word) for word in there["entrypoint"]
        ]
        assert [" ".join(word.split()) for word in here["command"]] == [" ".join(word.split()) for word in expected]
        asked = [here[f"{kind}Probe"]["exec"]["command"][-1] for kind in ("startup", "liveness", "readiness")]
        assert (
            asked == ['REDISCLI_AUTH="$(cat /run/secrets/fashiondpo/redis_password)" redis-cli ping | grep -q PONG'] * 3
        )

    def test_is_one(self):
        assert POD_MAKERS["redis"]["spec"]["replicas"] == 1


class TestNetwork:
    def test_lets_nobody_in_who_is_not_named(self):
        assert named(BASE, "NetworkPolicy")["nobody"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}

    def test_lets_those_to_redis_who_are_told_its_address(self):
        (rule,) = named(BASE, "NetworkPolicy")["redis"]["spec"]["ingress"]
        (who,) = rule["from"][0]["podSelector"]["matchExpressions"]
        told = {
            name for name in DEPLOYMENTS if any(k.endswith("REDIS_URL_FILE") for k in environment(DEPLOYMENTS[name]))
        }
        assert set(who["values"]) == told

    def test_opens_every_listening_pod_at_its_port(self):
        opened: dict[str, set[int]] = {}
        for policy in named(BASE, "NetworkPolicy").values():
            ports = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
            selector = policy["spec"]["podSelector"]
            names = list(selector.get("matchLabels", {}).values())
            names += [n for e in selector.get("matchExpressions", []) for n in e["values"]]
            for name in names:
                opened.setdefault(name, set()).update(ports)
        assert all(port_of(name) in opened[name] for name in LISTENING)

    def test_leads_callers_from_outside_to_generator_and_trainer_only(self):
        open_to_callers = {
            name for name, policy in named(BASE, "NetworkPolicy").items() if "fashiondpo/callers" in str(policy["spec"])
        }
        assert open_to_callers == {"generator", "trainer"}


def test_state_lies_where_the_images_have_it():
    mounts = {m["mountPath"] for d in DEPLOYMENTS.values() for m in container(d)["volumeMounts"]}
    made = set(re.findall(r"/image/state/(\w+)", (ROOT / "deploy/image/install-torch").read_text()))
    assert {mount for mount in mounts if mount.startswith(STATE)} == {f"{STATE}/{folder}" for folder in made}
