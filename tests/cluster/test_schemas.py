"""Every file against the schema of what reads it. A misspelt field is ignored there, or fails on somebody's cluster."""

import copy
import json
import re
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from manifests import CLUSTER, COMPOSE, KUBERNETES, Document, documents, load, of_kind
from referencing import Registry, Resource

SCHEMAS = Path(__file__).parent / "schemas"
#: Not the newest: what this one knows, the newer ones know too.
KUBERNETES_VERSION = "v1.31.0"


@cache
def published() -> Document:
    """Kubernetes' own schemas, in the form where a field that is not there is an error."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"{KUBERNETES_VERSION}-local-strict"
    schema: Document = json.loads((folder / "_definitions.json").read_text())
    return schema


@cache
def kuberay() -> Document:
    schema: Document = json.loads((SCHEMAS / "kuberay.json").read_text())
    return schema


def check(document: Document) -> None:
    """Raise what is wrong with a Kubernetes object."""
    registry: Registry[Any] = Registry().with_resources(
        [(schema["$id"], Resource.from_contents(schema)) for schema in (published(), kuberay())]
    )
    group, kind = document["apiVersion"].rpartition("/")[0], document["kind"]
    if group == "ray.io":
        reference = f"{kuberay()['$id']}#/$defs/{kind}"
    else:
        area = group.removesuffix(".k8s.io") or "core"
        version = document["apiVersion"].rpartition("/")[2]
        reference = f"{published()['$id']}#/$defs/io.k8s.api.{area}.{version}.{kind}"
    validator = jsonschema.Draft202012Validator({"$ref": reference}, registry=registry)
    validator.validate(document)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_objects(path: Path) -> None:
    for document in documents(path):
        check(document)


def test_compose() -> None:
    jsonschema.validate(load(COMPOSE), json.loads((SCHEMAS / "compose.json").read_text()))


def test_no_yaml_is_left_out() -> None:
    checked = {*KUBERNETES, COMPOSE, *(CLUSTER / "launcher").glob("*.yaml")}
    assert {*CLUSTER.rglob("*.yaml"), *CLUSTER.rglob("*.yml")} == checked


def changed(kind: str, change: Callable[[Document], None]) -> Document:
    document = copy.deepcopy(of_kind(kind)[0])
    change(document["spec"])
    return document


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("RayJob", lambda spec: spec.update(backOffLimit=0), "'backOffLimit' was unexpected"),
        ("RayJob", lambda spec: spec.update(backoffLimit="0"), "'0' is not of type 'integer'"),
        ("RayJob", lambda spec: spec["submitterConfig"].update(retries=0), "'retries' was unexpected"),
        ("RayJob", lambda spec: spec.update(submissionMode="K8sJob"), "'K8sJob' is not one of"),
        ("RayJob", lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"), "'headGroupSpec' is a required property"),
        ("RayCluster", lambda spec: spec["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        ("RayCluster", lambda spec: spec.update(rayVersion=2.6), "2.6 is not of type 'string'"),
        ("RayCluster", lambda spec: spec["autoscalerOptions"].update(idleTimeout=60), "'idleTimeout' was unexpected"),
        (
            "RayCluster",
            lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="4"),
            "'4' is not of type 'integer'",
        ),
        (
            "RayCluster",
            lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            "0 is not of type 'string'",
        ),
        (
            "RayCluster",
            lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"].update(toleration=[]),
            "'toleration' was unexpected",
        ),
        ("NetworkPolicy", lambda spec: spec.update(ingres=[]), "'ingres' was unexpected"),
        ("StatefulSet", lambda spec: spec.update(replicas="1"), "'1' is not of type 'integer'"),
        (
            "Deployment",
            lambda spec: spec["template"]["spec"]["containers"][0]["securityContext"].update(runAsRoot=False),
            "'runAsRoot' was unexpected",
        ),
    ],
)
def test_mistakes_are_refused(kind: str, change: Callable[[Document], None], message: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=re.escape(message)):
        check(changed(kind, change))


def test_mistakes_in_compose_are_refused() -> None:
    schema = json.loads((SCHEMAS / "compose.json").read_text())
    for key, value in (("port", ["127.0.0.1:5000:5000"]), ("mem_limit", "2 GB"), ("ports", [5000])):
        document = load(COMPOSE)
        document["services"]["mlflow"][key] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema)
