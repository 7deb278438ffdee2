"""Whatever fails on a cluster changes no bit: processes, nodes, drivers, tracking and storage, in one sweep.

The cluster is three machines in network namespaces of their own (nodes.py), the head without CPUs, two nodes with
two each. Run folders lie in an S3 bucket, runs are tracked by an MLflow server over PostgreSQL, which only the head's
machine reaches. The time line that is printed tells what was done when and how long until the training had gone on.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import plain_trainings
import pytest
from cluster_runs import (
    Sweeping,
    TimeLine,
    Training,
    alive,
    frozen,
    left,
    newest,
    node_of,
    steps,
    training_workers,
    wait_until,
)
from drive_cluster import EPOCHS, IMAGES, LAM, LAMBDAS, STEPS, made, score
from made_dataset import write_dataset
from mlflow.tracking import MlflowClient
from nodes import NodesOfOneMachine, cluster
from servers.mlflow_server import MlflowServer
from servers.object_store import ObjectStore

from xray_det.orchestrate.search import chosen
from xray_det.tracking.journal import read_points

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def printed(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    return printed


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares", images=IMAGES)


@pytest.fixture(scope="module")
def machines(object_store_server: ObjectStore, show: Callable[[str], None]) -> Iterator[NodesOfOneMachine]:
    """The cluster of this file's tests. Each leaves it as it found it."""
    with object_store_server.reachable(), cluster(**object_store_server.environment) as nodes:
        nodes.network.open()
        port = urlsplit(object_store_server.proxy.endpoint).port
        assert port is not None
        nodes.environment["AWS_ENDPOINT_URL"] = f"http://{nodes.network.relay(port)}"
        nodes.environment["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "1"
        began = time.monotonic()
        nodes.open()
        show(f"\na head and two nodes up in {time.monotonic() - began:.1f} s")
        yield nodes
        hosts = nodes.network.hosts
    assert not any(process.is_running() for host in hosts for process in host.seen)


@pytest.fixture(autouse=True)
def _mended(request: pytest.FixtureRequest, machines: NodesOfOneMachine) -> Iterator[None]:
    """A test that fails must not fail the next one."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        machines.mend()


@pytest.fixture(scope="module")
def tracking(machines: NodesOfOneMachine, mlflow_server: MlflowServer) -> str:
    """The tracking address, known to the head's machine alone."""
    port = urlsplit(mlflow_server.uri).port
    assert port is not None
    return f"http://{machines.network.relay(port, host=machines.head.host)}"


@pytest.fixture(scope="module")
def bucket(object_store_server: ObjectStore) -> str:
    return object_store_server.new_bucket()


@pytest.fixture(scope="module")
def undisturbed(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[float, str], bytes]:
    """Lambda, weights or ema: the bytes of the model that plain processes train, without Ray."""
    folder = tmp_path_factory.mktemp("plain")
    arms = {lam: chosen(made(dataset, str(folder), name=str(lam)), {LAM: lam}) for lam in LAMBDAS}
    plain_trainings.train(list(arms.values()), folder)
    return {
        (lam, kind): Path(arm.folder, "phases", "0", kind, "model.safetensors").read_bytes()
        for lam, arm in arms.items()
        for kind in ("weights", "ema")
    }


def test_a_sweep_survives_all_faults_in_a_row(
    machines: NodesOfOneMachine,
    object_store_server: ObjectStore,
    mlflow_server: MlflowServer,
    bucket: str,
    tracking: str,
    dataset: str,
    undisturbed: dict[tuple[float, str], bytes],
    show: Callable[[str], None],
) -> None:
    line = TimeLine("The disturbed sweep", show)
    sweeping = Sweeping(machines, bucket, "disturbed", tracking, dataset)
    before = sweeping.wait_for_a_checkpoint()
    mlflow_server.kill()
    tracking_down = line.note(f"MLflow's server killed; checkpoints: {sorted(before.values())}")

    def track_again() -> None:
        mlflow_server.start()
        line.note(f"MLflow's server is back, {time.monotonic() - tracking_down:.0f} s after it was killed")

    sweeping.later(30, track_again)
    worker = training_workers(machines)[0]
    worker.kill()
    killed = line.note("a worker killed")
    sweeping.wait_until_gone_on(before)
    line.note(f"all trainings have newer checkpoints, {time.monotonic() - killed:.0f} s after")

    before = sweeping.wait_for_a_checkpoint()
    object_store_server.proxy.refuse_writes(10)
    refused = line.note(f"the object store refuses writes for 10 s; checkpoints: {sorted(before.values())}")
    sweeping.wait_until_gone_on(before)
    line.note(f"newer checkpoints, {time.monotonic() - refused:.0f} s after")
    assert object_store_server.proxy.refused["PUT"] > 0

    before = sweeping.wait_for_a_checkpoint()
    orphans = training_workers(machines)
    sweeping.kill()
    killed = line.note(f"the driver killed; checkpoints: {sorted(before.values())}")
    sweeping.start()
    line.note("the driver started again")
    wait_until("the first driver's workers end", lambda: not any(orphan.is_running() for orphan in orphans))
    before = sweeping.steps()
    line.note(f"the first driver's workers are gone; checkpoints: {sorted(before.values())}")
    sweeping.wait_until_gone_on(before)
    line.note(f"newer checkpoints, {time.monotonic() - killed:.0f} s after")

    before = sweeping.wait_for_a_checkpoint()
    node = node_of(machines, training_workers(machines)[0])
    node.kill()
    killed = line.note(f"a node lost its power; checkpoints: {sorted(before.values())}")
    wait_until("a lost node is missed", lambda: node.host.ip not in alive(machines))
    line.note("Ray misses it; it is switched on again")
    node.start()
    sweeping.wait_until_gone_on(before)
    line.note(f"newer checkpoints, {time.monotonic() - killed:.0f} s after")
    sweeping.wait()
    ended = line.note("the sweep ended")

    assert sweeping.weights() == undisturbed
    scores = {lam: score(undisturbed[lam, "ema"]) for lam in LAMBDAS}
    assert sweeping.scores() == sorted(scores.items(), key=lambda item: -item[1])
    _all_is_tracked_once(sweeping, mlflow_server)
    line.note("weights and scores are those of undisturbed plain processes, the curves have every point once")
    _all_is_given_back(machines)
    line.note(f"nothing of the trainings is left, at most {time.monotonic() - ended:.0f} s after the end")


def _all_is_tracked_once(sweeping: Sweeping, server: MlflowServer) -> None:
    """A parent and a child a training, all finished, with each point of each curve once."""
    client = MlflowClient(tracking_uri=server.uri)
    (experiment,) = client.search_experiments(filter_string="name = 'faults'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["run_folder"] == sweeping.folder]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(child.data.tags["run_folder"] for child in children) == sweeping.runs()
    statuses = {run.data.tags["run_folder"]: run.info.status for run in (parent, *children)}
    assert set(statuses.values()) == {"FINISHED"}, f"{statuses}\n{sweeping.tail()}"
    for child in children:
        points = read_points(child.data.tags["run_folder"])
        assert list(points["train/loss"]) == list(range(1, STEPS + 1)), child.data.tags["run_folder"]
        for key in ("train/loss", "train/lr", "val/AP", "cost/cpu_hours"):
            tracked = client.get_metric_history(child.info.run_id, key)
            assert {point.step: point.value for point in tracked} == points[key], key
            assert len(tracked) == len(points[key]), f"{key} has points twice"
        assert list(points["val/AP"]) == [STEPS]


def _all_is_given_back(machines: NodesOfOneMachine) -> None:
    """No placement group, no CPU, no process is kept."""
    program = "[ray.available_resources().get('CPU'), [g['state'] for g in ray.util.placement_group_table().values()]]"

    def given_back() -> bool:
        cpus, groups = machines.ask(program)
        return cpus == 4.0 and set(groups) <= {"REMOVED"}

    wait_until("all CPUs and placement groups are given back", given_back, 120)
    wait_until("no process of a training is left", lambda: not left(machines), 120)


def test_a_notice_of_preemption_makes_a_checkpoint_at_once_and_costs_no_failure(
    machines: NodesOfOneMachine,
    dataset: str,
    undisturbed: dict[tuple[float, str], bytes],
    tmp_path: Path,
    show: Callable[[str], None],
) -> None:
    line = TimeLine("A node is preempted", show)
    training, run = Training(machines, "preempted", dataset, tmp_path), tmp_path / "run"
    training.wait_for_step(run, 2)
    workers = training_workers(machines)
    node = node_of(machines, workers[0])
    with frozen(workers):
        at = max(steps(run))
        node_id = machines.ask(
            f"[n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == {node.host.ip!r}][0]"
        )
        machines.ray(
            "drain-node", f"--address={machines.address}", f"--node-id={node_id}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test", "--deadline-remaining-seconds=12",
        )  # fmt: skip
        noticed = line.note(f"a notice at step {at} of {STEPS}: the node goes in 12 s")
        time.sleep(3)  # Ray Train asks every second
    training.wait_for("a checkpoint is made", lambda: newest(run) > 0)
    step = newest(run)
    line.note(f"a checkpoint of step {step}, {time.monotonic() - noticed:.1f} s after the notice")
    assert at < step < STEPS // EPOCHS, "checkpoints without a notice are made at the ends of epochs"
    with frozen(training_workers(machines)):  # they would be ready before the node goes
        time.sleep(max(0.0, noticed + 12 - time.monotonic()))
        node.kill()
        killed = line.note("the node is gone")
    training.wait_for("it has gone on elsewhere", lambda: newest(run) > step)
    line.note(f"a newer checkpoint, {time.monotonic() - killed:.1f} s after")
    training.wait()
    line.note("ended; no failure was allowed")
    for kind in ("weights", "ema"):
        assert (run / "phases" / "0" / kind / "model.safetensors").read_bytes() == undisturbed[0.7, kind]
    assert list(read_points(run)["train/loss"]) == list(range(1, STEPS + 1))
    node.start()
    machines.wait()
    _all_is_given_back(machines)


def test_an_elastic_training_goes_on_with_the_workers_that_are_left(
    machines: NodesOfOneMachine,
    dataset: str,
    tmp_path: Path,
    show: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Ray Train first tries to start as many workers as before, for a minute unless it is told
    monkeypatch.setitem(machines.environment, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    with machines.smaller(cpus=1):
        line = TimeLine("An elastic training loses one of its two nodes, each with room for one worker", show)
        training, run = Training(machines, "elastic", dataset, tmp_path), tmp_path / "run"
        training.wait_for("a checkpoint is made", lambda: newest(run) > 0)
        assert {node_of(machines, worker).host.ip for worker in training_workers(machines)} == {
            node.host.ip for node in machines.workers
        }
        before = newest(run)
        machines.workers[1].kill()
        killed = line.note(f"a node lost its power; newest checkpoint: {before}")
        training.wait_for("it has gone on", lambda: newest(run) > before)
        line.note(f"a newer checkpoint by one worker, {time.monotonic() - killed:.1f} s after")
        assert len(training_workers(machines)) == 1
        training.wait()
        line.note("ended")
    result = json.loads((run / "finished.json").read_text())
    assert result["steps"] == STEPS
    assert math.isfinite(result["metrics"]["loss"])
    # the loader has compared the images of each step with the plan
    assert list(read_points(run)["train/loss"]) == list(range(1, STEPS + 1))


def test_a_stopped_trial_gives_back_what_it_had(
    machines: NodesOfOneMachine, dataset: str, tmp_path: Path, show: Callable[[str], None]
) -> None:
    line = TimeLine("Trainings are stopped in their midst", show)
    training = Training(machines, "stopped", dataset, tmp_path / "stopped")
    said = training.wait()
    line.note(f"stopped by Ray Tune; {said.rpartition('free: ')[2].strip()}")
    assert "free: 4.0 of 4.0" in said
    assert steps(tmp_path / "stopped" / "endless")
    stopped = time.monotonic()
    _all_is_given_back(machines)
    line.note(f"no process is left, at most {time.monotonic() - stopped:.0f} s after its driver ended")
