"""What the files of cluster/ promise beyond their schemas: who may reach what, who runs as whom, nothing runs twice."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import (
    CLUSTER,
    COMPOSE,
    LAUNCHERS,
    PODS_USER,
    ROOT,
    Document,
    Pod,
    clusters,
    environment,
    everything,
    job_spec,
    load,
    locked,
    of_kind,
    pods,
)

PODS = list(pods())
VERSION = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY")


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
class TestPod:
    def test_is_nobody_special(self, pod: Pod) -> None:
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        ours = any(container["image"].startswith("xray-det:") for container in pod.containers)
        user = (security["runAsUser"], security["runAsGroup"])
        assert user == PODS_USER if ours else min(user) > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
        assert not [volume for volume in pod.spec.get("volumes", []) if "hostPath" in volume]
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }

    def test_takes_what_it_asked_for_and_no_more(self, pod: Pod) -> None:
        for container in pod.containers:
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
            assert {"cpu", "memory"} <= set(resources["limits"])

    def test_has_no_variables_of_services(self, pod: Pod) -> None:
        """With them a Service named mlflow sets MLFLOW_PORT, and `mlflow server` does not start."""
        assert pod.spec["enableServiceLinks"] is False

    def test_talks_to_kubernetes_only_where_it_scales_a_cluster(self, pod: Pod) -> None:
        assert pod.spec.get("automountServiceAccountToken", True) is pod.name.endswith(" head")

    def test_mounts_what_is_there(self, pod: Pod) -> None:
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in of_kind("PersistentVolumeClaim")}
        maps = {config["metadata"]["name"] for config in of_kind("ConfigMap")}
        templates = {
            claim["metadata"]["name"]
            for set_ in of_kind("StatefulSet")
            for claim in set_["spec"]["volumeClaimTemplates"]
        }
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in {*volumes, *templates}, mount
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}
            assert volume.get("configMap", {}).get("name") in {None, *maps}

    def test_knows_secrets_by_reference(self, pod: Pod) -> None:
        for container in pod.containers:
            for name, variable in environment(container).items():
                if SECRET.search(name):
                    assert set(variable) == {"name", "valueFrom"}, name


def test_no_secret_is_written_down() -> None:
    assert not of_kind("Secret")
    for service in load(COMPOSE)["services"].values():
        for name, value in service["environment"].items():
            if SECRET.search(name) or name == "PGPASSWORD":
                assert re.fullmatch(r"\$\{\w+:\?write \.env first\}", value), name
    assert (CLUSTER / "mlflow" / ".gitignore").read_text().split() == [".env"]


def test_secrets_are_those_that_the_readme_makes() -> None:
    text = (CLUSTER / "README.md").read_text()
    made = {
        name: set(re.findall(r"--from-literal=([\w-]+)=", options))
        for name, options in re.findall(r"kubectl create secret generic ([\w-]+)(.*)", text)
    }
    for pod in PODS:
        for container in pod.containers:
            for variable in environment(container).values():
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["key"] in made[reference["name"]], reference
            for source in container.get("envFrom", []):
                assert source["secretRef"]["name"] in made
    assert {cluster["authOptions"]["secretName"] for cluster in clusters()} == {"ray-auth"}
    assert made["ray-auth"] == {"auth_token"}
    names = set(re.findall(r"^echo|for name in ([\w ]+);", text)[0].split())
    wanted = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert names == wanted


def test_everything_is_in_one_namespace() -> None:
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    for document in everything():
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_nothing_is_public() -> None:
    assert not of_kind("Ingress")
    for service in of_kind("Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    for cluster in clusters():
        head = cluster["headGroupSpec"]
        assert head["serviceType"] == "ClusterIP"
        assert not {"enableIngress", "headService"} & set(head)
    for service in load(COMPOSE)["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    for path in LAUNCHERS:
        (start,) = [command for command in load(path)["head_start_ray_commands"] if "--head" in command]
        assert "--dashboard-host=127.0.0.1" in start


def test_compose_runs_as_nobody_special() -> None:
    for service in load(COMPOSE)["services"].values():
        user, group = service["user"].split(":")
        assert int(user) > 0
        assert int(group) > 0
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["healthcheck"]


def test_ray_asks_for_a_token_everywhere() -> None:
    for cluster in clusters():
        assert cluster["authOptions"]["mode"] == "token"
    for path in LAUNCHERS:
        config = load(path)
        assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_mlflow_asks_for_a_password_beyond_localhost() -> None:
    (mlflow,) = [pod for pod in PODS if pod.name == "mlflow"]
    (container,) = mlflow.containers
    assert "--app-name=basic-auth" in container["command"]
    assert {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"} <= set(environment(container))


def test_a_job_runs_once() -> None:
    spec = job_spec()
    assert spec["backoffLimit"] == 0
    assert spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["submissionMode"] == "K8sJobMode"
    assert re.fullmatch(r"[a-z][a-z0-9-]*", spec["jobId"])
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def test_the_job_brings_the_standing_cluster() -> None:
    standing, job = clusters()
    assert standing == job


def test_groups_scale_from_nothing() -> None:
    for cluster in clusters():
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        cpu, gpu = cluster["workerGroupSpecs"]
        assert (cpu["groupName"], gpu["groupName"]) == ("cpu", "gpu")
        for group, devices in ((cpu, None), (gpu, 1)):
            assert group["minReplicas"] == 0 < group["maxReplicas"]
            (container,) = group["template"]["spec"]["containers"]
            assert container["resources"]["limits"].get("nvidia.com/gpu") == devices


@pytest.mark.medium
def test_trainings_wait_for_machines() -> None:
    """Ours refuses a training that a cluster has no room for, and Ray Train gives up after a minute, unless told."""
    from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR

    from xray_det.orchestrate.resources import AUTOSCALER

    told = {AUTOSCALER: "1", WORKER_GROUP_START_TIMEOUT_S_ENV_VAR: "1800"}
    for pod in PODS:
        if "ray.io/node-type" in pod.labels:
            (container,) = pod.containers
            assert told.items() <= {name: v.get("value") for name, v in environment(container).items()}.items()
    for path in LAUNCHERS:
        assert {f"--env {name}={value}" for name, value in told.items()} <= set(load(path)["docker"]["run_options"])


def test_workers_leave_in_time() -> None:
    """The node is told how long it has; that, the start of the command and the end of Ray fit into the pod's grace."""
    from ray.scripts.scripts import cli

    workers = [pod for pod in PODS if pod.labels.get("ray.io/node-type") == "worker"]
    assert len(workers) == 4
    for pod in workers:
        (container,) = pod.containers
        shell, flag, script = container["lifecycle"]["preStop"]["exec"]["command"]
        assert (shell, flag) == ("/bin/bash", "-c")
        drain, sleep = (shlex.split(command) for command in script.split("&&"))
        assert drain[:2] == ["ray", "drain-node"]
        options = cli.commands["drain-node"].make_context("drain-node", drain[2:]).params
        assert options["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
        assert options["deadline_remaining_seconds"] == int(sleep[1])
        assert int(sleep[1]) + 15 <= pod.spec["terminationGracePeriodSeconds"]


@pytest.mark.medium
def test_the_jobs_entrypoint_is_an_experiment() -> None:
    spec = job_spec()
    program, script, *arguments = shlex.split(spec["entrypoint"])
    assert program == "python"
    path = ROOT / Path(script).relative_to("/opt/xray_det")
    printed = subprocess.run([sys.executable, path, *arguments, "--show"], check=True, capture_output=True, text=True)
    experiment = json.loads(printed.stdout)
    gpus = next(g for g in spec["rayClusterSpec"]["workerGroupSpecs"] if g["groupName"] == "gpu")
    assert experiment["device"] == "cuda"
    assert experiment["workers"] <= gpus["maxReplicas"]


@pytest.mark.medium
def test_the_jobs_runtime_environment_is_one() -> None:
    from ray.runtime_env import RuntimeEnv

    settings: dict[str, Any] = yaml.safe_load(job_spec()["runtimeEnvYAML"])
    assert RuntimeEnv(**settings).env_vars() == settings["env_vars"]


def test_images_are_pinned() -> None:
    assert VERSION is not None
    named = [container["image"] for pod in PODS for container in pod.containers]
    named += [service["image"] for service in load(COMPOSE)["services"].values()]
    named += [load(path)["docker"]["image"] for path in LAUNCHERS]
    images: dict[str, set[str]] = {}
    for image in named:
        name, _, tag = image.rpartition(":")
        assert re.search(r"\d+\.\d+", tag), f"{image}: not a version"
        images.setdefault(name.rpartition("/")[2], set()).add(tag)
    assert images.pop("xray-det") == {VERSION[1]}
    assert all(len(tags) == 1 for tags in images.values()), images


def test_versions_are_those_of_the_lock() -> None:
    assert {cluster["rayVersion"] for cluster in clusters()} == {locked("ray")}
    # What the image must have besides the package's own dependencies: MLflow's server needs a driver for PostgreSQL, a
    # client for S3 and forms for its passwords, and the launchers' heads start machines at Amazon and Google.
    for package in ("psycopg", "psycopg-binary", "boto3", "flask-wtf", "google-api-python-client"):
        assert locked(package)


# Who reaches whom ----------------------------------------------------------------------------------------------------


def selects(selector: Document, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def reaches(source: dict[str, str], target: dict[str, str], port: int, namespace: str = "xray-det") -> bool:
    """Whether network policies let a pod of a namespace reach a port of a pod in ours."""
    policies = [policy["spec"] for policy in of_kind("NetworkPolicy") if selects(policy["spec"]["podSelector"], target)]
    if not policies:
        return True
    return any(
        port in [p["port"] for p in rule["ports"]] if "ports" in rule else True
        for policy in policies
        for rule in policy.get("ingress", [])
        if any(_is_peer(peer, source, namespace) for peer in rule["from"])
    )


def _is_peer(peer: Document, labels: dict[str, str], namespace: str) -> bool:
    if "namespaceSelector" in peer:
        there = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    else:
        there = namespace == "xray-det"
    return there and selects(peer.get("podSelector", {}), labels)


def labels_of(name: str) -> dict[str, str]:
    (labels,) = [pod.labels for pod in PODS if pod.name == name]
    return labels


HEAD, WORKER, SUBMITTER = "train cluster head", "train cluster gpu", "train submitter"
OPERATOR = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"}


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        (WORKER, HEAD, 6379, True),
        (HEAD, WORKER, 40001, True),
        (WORKER, WORKER, 40001, True),
        (SUBMITTER, HEAD, 8265, True),
        (SUBMITTER, HEAD, 6379, False),
        (SUBMITTER, WORKER, 8265, False),
        (WORKER, "mlflow", 5000, True),
        (HEAD, "mlflow", 5000, True),
        (SUBMITTER, "mlflow", 5000, False),
        ("mlflow", "postgres", 5432, True),
        (WORKER, "postgres", 5432, False),
        ("mlflow", HEAD, 8265, False),
        ("postgres", "mlflow", 5000, False),
    ],
)
def test_pods_reach_what_they_need(source: str, target: str, port: int, expected: bool) -> None:
    assert reaches(labels_of(source), labels_of(target), port) is expected


def test_strangers_reach_nothing() -> None:
    for pod in PODS:
        for port in (5000, 5432, 6379, 8265, 10001):
            assert not reaches({"app": "stranger"}, pod.labels, port)
            assert not reaches(labels_of(WORKER), pod.labels, port, namespace="another")
            assert not reaches({"app": "stranger"}, pod.labels, port, namespace="ray-system")
            head = pod.labels.get("ray.io/node-type") == "head"
            assert reaches(OPERATOR, pod.labels, port, namespace="ray-system") is (head and port == 8265)


def test_services_find_their_pods() -> None:
    for service in of_kind("Service"):
        (pod,) = [pod for pod in PODS if service["spec"]["selector"].items() <= pod.labels.items()]
        ports = {port["containerPort"] for container in pod.containers for port in container["ports"]}
        assert {port["port"] for port in service["spec"]["ports"]} == ports
    addresses = {
        environment(container)["MLFLOW_TRACKING_URI"]["value"]
        for pod in PODS
        if "ray.io/node-type" in pod.labels
        for container in pod.containers
    }
    assert addresses == {"http://mlflow:5000"}
    (server,) = [pod.containers[0]["command"] for pod in PODS if pod.name == "mlflow"]
    (hosts,) = [option.partition("=")[2].split(",") for option in server if option.startswith("--allowed-hosts")]
    assert {"mlflow:5000", "localhost:5000"} <= set(hosts)
