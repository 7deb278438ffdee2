"""The files of cluster/ as data: documents, pods, containers, and the labels that KubeRay puts on what it makes."""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
COMPOSE = CLUSTER / "mlflow" / "compose.yaml"
LAUNCHERS = sorted((CLUSTER / "launcher").glob("*.yaml"))
KUBERNETES = [*sorted((CLUSTER / "kuberay").glob("*.yaml")), CLUSTER / "mlflow" / "kubernetes.yaml"]

#: User and group of the project's image, in it and in every pod.
PODS_USER = (1000, 1000)

Document = dict[str, Any]


def load(path: Path) -> Document:
    """The only document of a file."""
    (document,) = documents(path)
    return document


def documents(path: Path) -> list[Document]:
    """The documents of a file, to do with as one likes."""
    return copy.deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text()))


def everything() -> list[Document]:
    """All Kubernetes objects."""
    return [document for path in KUBERNETES for document in documents(path)]


def of_kind(kind: str) -> list[Document]:
    return [document for document in everything() if document["kind"] == kind]


def clusters() -> list[Document]:
    """The specs of Ray clusters: the standing one's and the job's."""
    return [cluster["spec"] for cluster in of_kind("RayCluster")] + [job_spec()["rayClusterSpec"]]


def job_spec() -> Document:
    (job,) = of_kind("RayJob")
    spec: Document = job["spec"]
    return spec


@dataclass(frozen=True)
class Pod:
    """A pod as it will run: the template, with the labels that a controller adds."""

    name: str
    spec: Document
    labels: dict[str, str]

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods() -> Iterator[Pod]:
    for document in everything():
        kind, spec, name = document["kind"], document.get("spec", {}), document["metadata"]["name"]
        if kind in ("Deployment", "StatefulSet"):
            yield Pod(name, spec["template"]["spec"], spec["template"]["metadata"]["labels"])
        elif kind == "RayCluster":
            yield from ray_pods(name, spec)
        elif kind == "RayJob":
            template = spec["submitterPodTemplate"]
            yield Pod(f"{name} submitter", template["spec"], template["metadata"]["labels"])
            yield from ray_pods(f"{name} cluster", spec["rayClusterSpec"])


def ray_pods(name: str, cluster: Document) -> Iterator[Pod]:
    """KubeRay labels a Ray node so (labelPod in its controllers/ray/common/pod.go)."""
    yield Pod(
        f"{name} head",
        cluster["headGroupSpec"]["template"]["spec"],
        {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "ray.io/group": "headgroup"},
    )
    for group in cluster["workerGroupSpecs"]:
        labels = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker", "ray.io/group": group["groupName"]}
        yield Pod(f"{name} {group['groupName']}", group["template"]["spec"], labels)


def environment(container: Document) -> dict[str, Document]:
    return {variable["name"]: variable for variable in container.get("env", [])}


def locked(package: str) -> str:
    """The version of a package in requirements.lock."""
    found = re.search(rf"^{re.escape(package)}==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found, f"{package} is not in requirements.lock"
    return found[1]
