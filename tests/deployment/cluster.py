"""The manifests of deploy/kubernetes as they lie there, and as kustomize puts them together."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deployment.composition import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
SCHEMAS = "1.33"
"""Version of Kubernetes whose schemas manifests are held against."""

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    """Manifests of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kustomizations() -> list[Path]:
    """Every folder that kustomize can be pointed at."""
    return sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))


def kustomize() -> list[str] | None:
    """The command that puts an overlay together, if this machine has one."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else None


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """What would be applied to a cluster."""
    command = kustomize()
    assert command is not None, "neither kubectl nor kustomize is installed"
    answer = subprocess.run([*command, FOLDER / "overlays" / overlay], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return tuple(document for document in yaml.safe_load_all(answer.stdout) if document)


def base() -> tuple[Manifest, ...]:
    """The manifests of the base, as they lie there."""
    return tuple(
        document
        for path in sorted((FOLDER / "base").glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in documents(path)
    )


def named(manifests: tuple[Manifest, ...], kind: str) -> dict[str, Manifest]:
    """Those of a kind by their names."""
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}


def pod(manifest: Manifest) -> Manifest:
    """The pod that a Deployment or StatefulSet makes."""
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: Manifest) -> Manifest:
    """Its only container."""
    (only,) = pod(manifest)["containers"]
    return only


def environment(manifest: Manifest, maps: dict[str, Manifest] | None = None) -> dict[str, str]:
    """What the container is told; values out of maps as `<map>/<key>`."""
    told = {}
    for entry in container(manifest).get("env", []):
        reference = entry.get("valueFrom", {}).get("configMapKeyRef", {})
        told[entry["name"]] = entry["value"] if "value" in entry else f"{reference['name']}/{reference['key']}"
    return told
