"""The launchers' YAML: Ray's schema and defaults, then each cloud's own description of the machines it is to start."""

import copy
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from manifests import CLUSTER, LAUNCHERS, Document, load
from ray.autoscaler._private.util import prepare_config, validate_config

AWS, GCP = CLUSTER / "launcher" / "aws.yaml", CLUSTER / "launcher" / "gcp.yaml"


@pytest.fixture(params=LAUNCHERS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Document:
    path: Path = request.param
    return load(path)


def test_ray_accepts_it(config: Document) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "cpu", "gpu"}
    # Ray's defaults install Ray from elsewhere.
    assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ((), "max_worker", 8),
        ((), "max_workers", "8"),
        (("docker",), "images", "x"),
        (("auth",), "user", "ubuntu"),
        (("available_node_types", "gpu"), "max_worker", 4),
        (("available_node_types", "gpu", "resources"), "GPU", "1"),
    ],
)
def test_mistakes_are_refused(config: Document, where: tuple[str, ...], key: str, value: Any) -> None:
    place = config
    for name in where:
        place = place[name]
    place[key] = value
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config))


def test_workers_are_spot_and_go(config: Document) -> None:
    assert config["idle_timeout_minutes"] <= 15
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    for name in ("cpu", "gpu"):
        assert types[name]["min_workers"] == 0 < types[name]["max_workers"]
    assert sum(types[name]["max_workers"] for name in ("cpu", "gpu")) == config["max_workers"]
    assert types["gpu"]["docker"]["worker_run_options"] == ["--gpus all"]


def test_the_launchers_differ_only_by_cloud() -> None:
    aws, gcp = load(AWS), load(GCP)
    for config in (aws, gcp):
        config.pop("provider")
        for kind in config["available_node_types"].values():
            kind.pop("node_config")
    assert aws == gcp


@pytest.fixture
def ec2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A simulated EC2; Ray keeps the key pair that it makes in the home."""
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    monkeypatch.setenv("HOME", str(tmp_path))
    with mock_aws():
        yield boto3.client("ec2", region_name=load(AWS)["provider"]["region"])


def start_machines(ec2: Any, config: Document) -> list[Document]:
    """Prepare the account as aws.yaml says, and let Ray's own code start one machine of each type."""
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

    group = ec2.create_security_group(GroupName="xray-det", Description="test")["GroupId"]
    boto3.client("iam").create_instance_profile(InstanceProfileName="xray-det")
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]
        kind["node_config"]["SecurityGroupIds"] = [group]
    config = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        tags = {TAG_RAY_NODE_NAME: name, TAG_RAY_USER_NODE_TYPE: name}
        provider.create_node(kind["node_config"], tags, 1)
    # Only ours: Ray has made no group of its own, which would open ssh to everyone.
    groups = [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]]
    assert set(groups) == {"default", "xray-det"}
    return [i for reservation in ec2.describe_instances()["Reservations"] for i in reservation["Instances"]]


@pytest.mark.medium
def test_ray_starts_amazons_machines(ec2: Any) -> None:
    machines = start_machines(ec2, load(AWS))  # the simulation takes any word for spot, Amazon one
    for name in ("cpu", "gpu"):
        assert load(AWS)["available_node_types"][name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    found = {machine["InstanceType"]: machine.get("InstanceLifecycle") for machine in machines}
    assert found == {"m5.xlarge": None, "m5.2xlarge": "spot", "g5.2xlarge": "spot"}


@pytest.mark.medium
def test_mistakes_in_amazons_machines_are_refused(ec2: Any) -> None:
    """boto3 knows each parameter of EC2."""
    from botocore.exceptions import ParamValidationError

    config = load(AWS)
    config["available_node_types"]["gpu"]["node_config"]["InstanceMarketOption"] = {"MarketType": "spot"}
    with pytest.raises(ParamValidationError, match='Unknown parameter in input: "InstanceMarketOption"'):
        start_machines(ec2, config)


def refusals(types: Document, name: str, value: Any, where: str) -> Iterator[str]:
    """What Google's description of an API type, as its client library has it, says against a value."""
    properties = types[name]["properties"]
    for key, item in value.items():
        if key not in properties:
            yield f"{where}.{key}: {name} has no such field"
        else:
            yield from _refusals(types, properties[key], item, f"{where}.{key}")


def _refusals(types: Document, schema: Document, value: Any, where: str) -> Iterator[str]:
    python = {"string": str, "boolean": bool, "integer": int, "array": list}
    if "$ref" in schema or "properties" in schema:
        if not isinstance(value, dict):
            yield f"{where}: not an object"
        elif "$ref" in schema:
            yield from refusals(types, schema["$ref"], value, where)
        else:
            yield from refusals({where: schema, **types}, where, value, where)
    elif schema["type"] == "array" and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _refusals(types, schema["items"], item, f"{where}.{number}")
    # Google writes 64-bit integers as strings and reads both.
    elif not isinstance(value, int if schema.get("format") == "int64" else python[schema["type"]]):
        yield f"{where}: {value!r} is not of type {schema['type']}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is not one of {schema['enum']}"


@pytest.fixture(scope="module")
def google() -> Document:
    document = resources.files("googleapiclient") / "discovery_cache" / "documents" / "compute.v1.json"
    types: Document = json.loads(document.read_text())["schemas"]
    return types


@pytest.mark.parametrize("kind", ["head", "cpu", "gpu"])
def test_googles_machines(google: Document, kind: str) -> None:
    node = load(GCP)["available_node_types"][kind]["node_config"]
    assert list(refusals(google, "Instance", node, kind)) == []
    assert (node.get("scheduling", {}).get("provisioningModel") == "SPOT") is (kind != "head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machinetype": "g2-standard-8"}, "gpu.machinetype: Instance has no such field"),
        ({"scheduling": [{"preemptible": True}]}, "gpu.scheduling: not an object"),
        ({"scheduling": {"provisioningModel": "spot"}}, "gpu.scheduling.provisioningModel: 'spot' is not one of"),
        ({"disks": [{"boot": "yes"}]}, "gpu.disks.0.boot: 'yes' is not of type boolean"),
        ({"metadata": {"items": [{"name": "x"}]}}, "name: "),
    ],
)
def test_mistakes_in_googles_machines_are_refused(google: Document, change: Document, message: str) -> None:
    (refusal,) = refusals(google, "Instance", change, "gpu")
    assert message in refusal
