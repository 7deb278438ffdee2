"""Says in seconds what would fail a training in hours: storage, data, versions, resources, tracking, disks, upload.

Each node looks for itself (inspection.py, survey.py); what was seen is judged by verdicts.py.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from xray_det import storage
from xray_det.data.cluster import connect
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError
from xray_det.orchestrate import inspection, verdicts
from xray_det.orchestrate.experiment import Experiment, prepare
from xray_det.orchestrate.inspection import CACHE, DataSample, Orders, Seen, first_line, sample_dataset
from xray_det.orchestrate.reach import check_tracking
from xray_det.orchestrate.resources import WORKER_CPUS, Share, cluster_resources, share
from xray_det.orchestrate.survey import Later, alive_nodes, ask
from xray_det.orchestrate.upload import measure_upload
from xray_det.orchestrate.verdicts import Finding, bad, good, warn

__all__ = ["CHECKS", "Finding", "preflight", "require"]

#: The order in which findings are told.
CHECKS: Final = (
    "nodes",
    "experiment",
    "resources",
    "gpus",
    "storage",
    "data",
    "home",
    "versions",
    "tracking",
    "clocks",
    "disk",
    "upload",
)


def preflight(
    experiment: Experiment,
    *,
    tracking: str | None,
    trials: int = 1,
    cpus: float | None = None,
    gpus_per_worker: float = 1.0,
    working_dir: Path | None = None,
    patience_s: float = 20.0,
) -> tuple[Finding, ...]:
    """Look whether an experiment can run on the cluster: Ray's on this machine, unless one is connected.

    Nothing is trained, and nothing is left behind but empty folders of the project's home and of an object store.

    Args:
        tracking: address of MLflow; None: the default, ``off``: none.
        trials: trainings of this kind at the same time.
        cpus: how many CPUs they may use together, None: all.
        gpus_per_worker: below 1 where trials share a GPU.
        working_dir: folder that `ray job submit` would upload, None where none is.
        patience_s: how long a node, a storage or a server has to answer.
    """
    connect()
    experiment = experiment.absolute()
    nodes, driver = alive_nodes()
    beside = [
        Later(
            "tracking",
            lambda: check_tracking(tracking, driver=driver, nodes=len(nodes), trials=trials, patience_s=patience_s),
        )
    ]
    if working_dir is not None and RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ:  # not in a job: it was uploaded
        folder = working_dir.absolute()
        beside.append(Later("upload", lambda: verdicts.judge_upload(str(folder), measure_upload(folder))))
    allotted, findings = _resources(experiment, trials, cpus, gpus_per_worker)
    cuda = allotted is not None and allotted.device == "cuda"
    found = Later("data", lambda: _samples(experiment)).result(patience_s)
    samples, wrong = ((), [found]) if isinstance(found, Finding) else found
    out = experiment.out or str(storage.home() / "runs")
    with _tokens(out, patience_s) as (orders, problem):
        answers = ask(nodes, replace(orders, data=samples, files=_files(experiment), gpus=cuda), patience_s)
        seen = {name: _answered(name, there, orders) for name, there in answers.seen.items()}
    counted = {node.name: node.counted for node in nodes}
    findings += [*wrong, *answers.findings]
    findings += [problem] if problem is not None else verdicts.judge_storage(seen, out)
    if samples:
        findings += verdicts.judge_data(seen)
    findings += verdicts.judge_home(seen, counted)
    findings += verdicts.judge_versions(seen, inspection.versions(), inspection.source_files())
    if cuda:
        findings += verdicts.judge_gpus(seen, counted)
    findings += verdicts.judge_clocks(answers.ahead_s)
    findings += verdicts.judge_disks(seen, counted)
    findings += [check.result(patience_s + 5) for check in beside]
    return tuple(sorted(findings, key=lambda finding: CHECKS.index(finding.check)))


def require(findings: Sequence[Finding]) -> None:
    """Raise one InputError that says all failures and what mends them."""
    failed = [finding for finding in findings if finding.ok is False]
    if len(failed) == 1:
        raise InputError(f"{failed[0].check}, {failed[0].where}", failed[0].detail, failed[0].remedy)
    if failed:
        lines = [f"\n  {finding.check}, {finding.where}: {finding.detail}. {finding.remedy}" for finding in failed]
        raise InputError("preflight", f"{len(failed)} checks failed{''.join(lines)}\n", "Mend these first")


def _samples(experiment: Experiment) -> tuple[tuple[DataSample, ...], list[Finding]]:
    """What nodes should find of the datasets, and what the driver itself misses."""
    samples: list[DataSample] = []
    wrong: list[Finding] = []
    for folder in dict.fromkeys(s.folder for s in (*experiment.data.train, *experiment.data.val)):
        try:
            samples.append(sample_dataset(Manifest.load(folder)))
        except InputError as error:
            wrong.append(bad("data", "driver", f"{error.where}: {error.problem}", error.remedy))
        except OSError as error:
            remedy = "Correct the address, or its credentials"
            wrong.append(bad("data", "driver", f"{folder}: cannot be read ({first_line(error)})", remedy))
    if not wrong:
        try:
            prepare(experiment)
            experiment.built()
        except InputError as error:
            wrong.append(bad("experiment", error.where, error.problem, error.remedy))
    return tuple(samples), wrong


def _files(experiment: Experiment) -> tuple[str, ...]:
    """Weights that workers read."""
    weights, start = experiment.model.backbone.weights, experiment.start_from
    unread = start is not None and not experiment.start_partial
    files: tuple[str, ...] = () if weights in ("none", "library") or unread else (weights,)
    return files if start is None else (*files, storage.join(start, "config.json"))


def _resources(
    experiment: Experiment, trials: int, cpus: float | None, gpus_per_worker: float
) -> tuple[Share | None, list[Finding]]:
    cluster, kind = cluster_resources(), experiment.device
    try:
        got = share(
            experiment.workers,
            experiment.min_workers,
            kind,
            cluster,
            cpus=cpus,
            gpus_per_worker=gpus_per_worker,
            validation_cpus=1.0 if experiment.data.val else 0.0,
            trials=trials,
        )
    except InputError as error:
        return None, [bad("resources", error.where, error.problem, error.remedy)]
    if got.waits:
        return got, [warn("resources", "cluster", got.waits, "See that it may bring so much")]
    if kind == "auto" and got.device == "cpu" and cluster.total("GPU"):
        detail = f"device auto takes the CPU: {cluster.total('GPU'):g} GPUs for {got.min_workers} workers"
        return got, [warn("resources", "cluster", detail, "Lower workers, or set device cpu")]
    free, count = ray.available_resources(), got.min_workers * trials
    need = {"CPU": count * WORKER_CPUS, "GPU": count * got.gpus_per_worker}
    taken = [
        f"{free.get(n, 0.0):g} of {cluster.total(n):g} {n}s" for n, much in need.items() if free.get(n, 0.0) < much
    ]
    if taken:
        detail = f"only {' and '.join(taken)} are free now: the training waits until others end"
        return got, [warn("resources", "cluster", detail, "Wait, or end what runs there")]
    workers = f"{got.workers}" if got.workers == got.min_workers else f"{got.min_workers} to {got.workers}"
    at_once = f"{trials} trainings at once, each " if trials > 1 else ""
    detail = (
        f"{at_once}{workers} workers on {got.device}, {got.data_cpus:g} CPUs for the data of each; nodes: {cluster}"
    )
    return got, [good("resources", "cluster", detail)]


@contextmanager
def _tokens(out: str, patience_s: float) -> Iterator[tuple[Orders, Finding | None]]:
    """Files by which nodes tell whether they see the driver's storage and home, removed at the end.

    Yields:
        the orders that name them, and what keeps the driver from writing to the storage.
    """
    token = f"preflight-{uuid.uuid4().hex}"
    folder, mark = storage.join(out, f".{token}"), storage.home() / CACHE / token
    new = [] if "://" in out else [path for path in (Path(out), *Path(out).parents) if not path.exists()]
    with suppress(OSError):  # a home that cannot be written is told of by its node
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_bytes(b"")
    problem = Later("storage", lambda: _put(out, folder, token)).result(patience_s)
    try:
        yield Orders(token=token, storage="" if problem else folder), problem
    finally:
        with suppress(OSError):
            mark.unlink(missing_ok=True)
        if problem is None:
            Later("storage", lambda: _remove(folder)).result(patience_s)
        for made in new:
            with suppress(OSError):
                made.rmdir()


def _put(out: str, folder: str, token: str) -> Finding | None:
    try:
        storage.write_bytes(storage.join(folder, "driver"), token.encode())
    except (OSError, InputError) as error:
        what = error.problem if isinstance(error, InputError) else f"cannot be written ({first_line(error)})"
        remedy = "Give another folder with --out, or the right to write there (permissions, credentials)"
        return bad("storage", "driver", f"{out} {what}", remedy)
    return None


def _remove(folder: str) -> None:
    with suppress(OSError, InputError):
        storage.delete(folder)


def _answered(node: str, seen: Seen, orders: Orders) -> Seen:
    """The same, or ``unanswered`` where the driver does not see what the node says it has written."""
    if seen.storage or not orders.storage:
        return seen
    try:
        there = storage.read_bytes(storage.join(orders.storage, node)).decode() == orders.token
    except (OSError, InputError):
        there = False
    return seen if there else replace(seen, storage="unanswered")
