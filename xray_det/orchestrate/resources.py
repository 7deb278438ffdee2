"""What a training may use of a cluster: how many workers, on what device, and how many CPUs decode for each.

Numbers in, numbers out, so that a training that cannot run is an error at once: Ray would wait for ever. A worker lies
on one node, as does a task, so nodes are counted, not their sum. Which of the nodes Ray takes for the workers is not
known before; what is promised here holds wherever they go.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from xray_det.errors import InputError

#: A worker asks for a little less than a CPU, so that some is left for Ray Data on a machine as small as the world.
WORKER_CPUS: Final = 0.9
#: With less a worker has no data tasks at all.
LEAST_DATA_CPUS: Final = 0.01
#: Says whether an autoscaler adds nodes (1) or not (0), where Ray does not know.
AUTOSCALER: Final = "XRAY_DET_AUTOSCALER"

Device = Literal["cpu", "cuda"]

_UNIT = 10_000  # Ray counts in ten-thousandths of a CPU
_STEP = 10  # of them: shares of CPUs are cut to thousandths


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What Ray hands out.

    Attributes:
        nodes: resources of each node that is alive, Ray's names: ``CPU``, ``GPU``. A head that runs no tasks has none.
        grows: an autoscaler brings nodes when something waits for them.
    """

    nodes: tuple[Mapping[str, float], ...]
    grows: bool = False

    @classmethod
    def of(cls, cluster: "Cluster | Mapping[str, float]") -> "Cluster":
        """A mapping of totals is taken for a cluster of one node."""
        return cluster if isinstance(cluster, Cluster) else cls(nodes=(cluster,))

    def total(self, name: str) -> float:
        return sum(node.get(name, 0.0) for node in self.nodes)

    def __str__(self) -> str:
        shapes = Counter(
            f"{node.get('CPU', 0.0):g} CPUs" + (f" and {gpus:g} GPUs" if (gpus := node.get("GPU", 0.0)) else "")
            for node in self.nodes
        )
        return ", ".join(f"{count} x ({shape})" for shape, count in shapes.items()) or "none"


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one training gets.

    Attributes:
        workers: greatest number of workers.
        min_workers: least number; equal to ``workers`` unless the world is elastic.
        device: of the workers.
        gpus_per_worker: 0 on CPU, a fraction where trials share a GPU.
        data_cpus: CPUs of each worker's data tasks, at the greatest world that there is room for now. A task takes
            one, or all of a share below one. However Ray places the workers, the tasks of all of them fit beside.
        validation_cpus: CPUs left for a validation beside the training; 0: it waits until the training has ended.
        waits: what an autoscaler has yet to bring, in words; empty where everything is there.
        trials: how many such trainings run at the same time.
    """

    workers: int
    min_workers: int
    device: Device
    gpus_per_worker: float
    data_cpus: float
    validation_cpus: float = 0.0
    waits: str = ""
    trials: int = 1

    def data_cpus_on(self, cluster: Cluster, world: int) -> float:
        """``data_cpus`` on what the cluster has become: where a node is lost and the workers fit on the others, a task
        must ask for no more than is left beside them, or it would wait for ever.

        Args:
            world: workers that there are now.
        """
        gpus = self.gpus_per_worker or 1.0
        trials = min(self.trials, concurrent_trials(world, self.device, cluster, gpus_per_worker=gpus))
        try:
            now = share(world, None, self.device, cluster, gpus_per_worker=gpus, trials=trials)
        except InputError:  # nodes have yet to come, and the workers with them
            return self.data_cpus
        return min(self.data_cpus, now.data_cpus)


def cluster_resources() -> Cluster:
    """The cluster that this process is connected to."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(nodes=tuple(node["Resources"] for node in nodes), grows=_grows())


def share(
    workers: int,
    min_workers: int | None,
    device: Literal["auto", "cpu", "cuda"],
    cluster: Cluster | Mapping[str, float],
    *,
    cpus: float | None = None,
    gpus_per_worker: float = 1.0,
    validation_cpus: float = 0.0,
    trials: int = 1,
) -> Share:
    """What a training of so many workers gets of a cluster.

    An elastic training is allotted fewer workers than it asks for only where Ray would start so many that nothing is
    left for their data, or where ``cpus`` allows no more.

    Args:
        workers: greatest number of workers.
        min_workers: least number of an elastic training, else None or ``workers``.
        device: auto: cuda where there is a GPU for each of the least workers.
        cluster: nodes, or the totals of one node.
        cpus: how many CPUs the trainings may use together, None for all.
        gpus_per_worker: of a worker on cuda: below 1 where trials share a GPU, else whole.
        validation_cpus: CPUs wanted for a validation beside each training, on one node.
        trials: how many such trainings run at the same time.

    Raises:
        InputError: the cluster, which no autoscaler enlarges, has too little for the least workers.
    """
    there = Cluster.of(cluster)
    least = workers if min_workers is None else min_workers
    _check(workers, least, gpus_per_worker, trials)
    if device == "auto":
        device = "cuda" if _Room.of(there.nodes, gpus_per_worker).places >= least else "cpu"
    gpus = gpus_per_worker if device == "cuda" else 0.0
    room = _Room.of(there.nodes, gpus, cpus)
    fitting = next((count for count in range(workers, least - 1, -1) if room.data(count * trials)), 0)
    if not fitting:
        error = _too_few(least, trials, gpus, there, room)
        if not there.grows:
            raise error
        waits = f"{error.problem.split(_FOR_EVER)[0].removesuffix(' and')}; an autoscaler has to bring what is missing"
        return Share(
            workers=workers,
            min_workers=least,
            device=device,
            gpus_per_worker=gpus,
            data_cpus=1.0,
            waits=waits,
            trials=trials,
        )
    # Ray takes as many workers as it has places for: not more than have data, and not more than are allowed.
    started = room.places >= (fitting + 1) * trials
    greatest = fitting if fitting < workers and (started or room.limited(fitting + 1, trials)) else workers
    kept = room.without(validation_cpus, trials) if validation_cpus > 0 else None
    beside = kept is not None and bool(kept.data(fitting * trials))
    data = (kept if kept is not None and beside else room).data(fitting * trials)
    return Share(
        workers=greatest,
        min_workers=least,
        device=device,
        gpus_per_worker=gpus,
        data_cpus=data / _UNIT,
        validation_cpus=validation_cpus if beside else 0.0,
        trials=trials,
    )


def concurrent_trials(
    workers: int,
    device: Literal["auto", "cpu", "cuda"],
    cluster: Cluster | Mapping[str, float],
    *,
    cpus: float | None = None,
    gpus_per_worker: float = 1.0,
) -> int:
    """How many trainings of so many workers run side by side, their data tasks with them; at least 1.

    The controller of a trial asks for no CPU. Where not one fits, ``share`` says what is missing.
    """
    there = Cluster.of(cluster)
    _check(workers, workers, gpus_per_worker, 1)
    cuda = device == "cuda" or (device == "auto" and _Room.of(there.nodes, gpus_per_worker).places >= workers)
    room = _Room.of(there.nodes, gpus_per_worker if cuda else 0.0, cpus)
    return next((count for count in range(room.places // workers, 1, -1) if room.data(count * workers)), 1)


def _check(workers: int, least: int, gpus_per_worker: float, trials: int) -> None:
    if not 1 <= least <= workers:
        raise InputError("min_workers", f"{least} is not in 1 to {workers}", "Give at most workers")
    if trials < 1:
        raise InputError("trials", f"{trials} is less than one", "Give at least 1")
    if not gpus_per_worker > 0 or (gpus_per_worker > 1 and gpus_per_worker % 1):
        remedy = "Give a fraction between 0 and 1, or a whole number"
        raise InputError("gpus_per_worker", f"{gpus_per_worker:g} GPUs are none that Ray hands out", remedy)


@dataclass(frozen=True, kw_only=True)
class _Room:
    """The nodes as a training of identical workers sees them. CPUs are whole numbers of Ray's unit.

    Attributes:
        cpus: of each node.
        by_gpu: how many workers the GPUs of each node serve, None where they need none.
        allowed: CPUs that may be used.
    """

    cpus: tuple[int, ...]
    by_gpu: tuple[int | None, ...]
    allowed: int

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, float]], gpus: float, allowed: float | None = None) -> "_Room":
        """Nodes' resources, GPUs of a worker (0: none), CPUs that may be used (None: all)."""
        cpus = tuple(_units(node.get("CPU", 0.0)) for node in nodes)
        by_gpu = tuple(_by_gpu(node.get("GPU", 0.0), gpus) if gpus else None for node in nodes)
        return cls(cpus=cpus, by_gpu=by_gpu, allowed=sum(cpus) if allowed is None else min(sum(cpus), _units(allowed)))

    @property
    def slots(self) -> list[int]:
        """How many workers each node holds."""
        worker = _units(WORKER_CPUS)
        pairs = zip(self.cpus, self.by_gpu, strict=True)
        return [cpus // worker if gpus is None else min(cpus // worker, gpus) for cpus, gpus in pairs]

    @property
    def places(self) -> int:
        return sum(self.slots)

    def limited(self, workers: int, trials: int) -> bool:
        """So many workers need more than is allowed, though it may be there."""
        return self.allowed < sum(self.cpus) and self.each(workers * trials) < _units(LEAST_DATA_CPUS)

    def each(self, workers: int) -> int:
        """CPUs for the data of each worker if nodes were one."""
        left = self.allowed - workers * _units(WORKER_CPUS)
        return left // workers // _STEP * _STEP

    def data(self, workers: int) -> int:
        """The most CPUs for the data tasks of each worker, 0 where there are too few or the workers do not fit.

        Whatever nodes the workers lie on, the tasks of all of them fit beside at the same time: a rank whose tasks
        wait for those of a rank that waits for it would wait for ever.
        """
        each = self.each(workers)
        if workers > self.places or each < _units(LEAST_DATA_CPUS):
            return 0
        whole = min(each // _UNIT, self._tasks(workers, _UNIT) // workers)
        if whole:
            return min(each, (whole + 1) * _UNIT - _STEP)
        low, high = 0, min(each, _UNIT - _STEP) // _STEP  # in steps; low fits, high may
        while low < high:
            middle = (low + high + 1) // 2
            if self._tasks(workers, middle * _STEP) >= workers:
                low = middle
            else:
                high = middle - 1
        return low * _STEP if low * _STEP >= _units(LEAST_DATA_CPUS) else 0

    def _tasks(self, workers: int, cpus: int) -> int:
        """The fewest tasks of this size that fit at the same time beside the workers, over all places of these."""
        never = 2**40
        fewest = np.full(workers + 1, never)  # by how many workers the nodes so far hold
        fewest[0] = 0
        for there, slots in zip(self.cpus, self.slots, strict=True):
            after = np.full(workers + 1, never)
            for held in range(min(slots, workers) + 1):
                tasks = (there - held * _units(WORKER_CPUS)) // cpus
                after[held:] = np.minimum(after[held:], fewest[: workers + 1 - held] + tasks)
            fewest = after
        return int(fewest[workers])

    def without(self, cpus: float, times: int) -> "_Room | None":
        """The same after so many CPUs were taken so many times, each time of the node with the most; None: too few."""
        left = list(self.cpus)
        for _ in range(times):
            node = max(range(len(left)), key=left.__getitem__)
            left[node] -= _units(cpus)
            if left[node] < 0:
                return None
        return replace(self, cpus=tuple(left), allowed=self.allowed - times * _units(cpus))


_FOR_EVER: Final = " would wait for ever"


def _too_few(workers: int, trials: int, gpus: float, cluster: Cluster, room: _Room) -> InputError:
    """What is missing for so many workers: GPUs, CPUs, or nodes that have both."""
    wanted = workers * trials
    times = f" of {trials} trials at once" if trials > 1 else ""
    if gpus and sum(count or 0 for count in room.by_gpu) < wanted:
        named = f"{wanted} GPU workers" if gpus == 1 else f"{wanted} workers with {gpus:g} GPUs each"
        problem = f"{named}{times} on a cluster of {cluster.total('GPU'):g} GPUs{_FOR_EVER}"
        return InputError("workers", problem, "Lower workers, set device cpu, or use a larger cluster")
    fit = next((count for count in range(wanted - 1, 0, -1) if room.data(count)), 0) // trials
    remedy = f"Use at most {fit} workers, or a larger cluster" if fit else "Use a larger cluster, or give Ray more CPUs"
    if room.each(wanted) < _units(LEAST_DATA_CPUS):
        problem = f"{wanted}{times} and their data tasks need more than {room.allowed / _UNIT:g} CPUs"
    else:
        one = f"{WORKER_CPUS} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        problem = f"{wanted} workers{times} of {one}, each on one node, and their data tasks do not fit on {cluster}"
    return InputError("workers", f"{problem} and{_FOR_EVER}", remedy)


def _units(cpus: float) -> int:
    """Ray rounds to the nearest; a share of ours never does."""
    return round(cpus * _UNIT)


def _by_gpu(there: float, each: float) -> int:
    """Workers that the GPUs of a node serve: a worker with a part of one has it of one."""
    return int(there // each) if each >= 1 else int(there) * int(1 / each + 1e-9)


def _grows() -> bool:
    """Whether an autoscaler may bring nodes: by the variable AUTOSCALER, else by the names of node types.

    Ray has no question for it. Where nobody but a person starts nodes, the autoscaler that runs all the same calls
    each node's type after the node; one that starts nodes has names for its types. Its second version is asked only
    where it is the one that runs: Kubernetes names the types of nodes also where nothing grows.
    """
    if (told := os.environ.get(AUTOSCALER)) is not None:
        if told not in ("0", "1"):
            raise InputError(AUTOSCALER, f"{told!r} says nothing", "Set 1 where an autoscaler adds nodes, else 0")
        return told == "1"
    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return named_types({n.node_id: n.ray_node_type_name for n in (*status.active_nodes, *status.idle_nodes)})
    report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report") or {}
    return named_types(report.get("node_type_mapping") or {})


def named_types(types: Mapping[str, Any]) -> bool:
    """Some node has a type that is not called after it."""
    return any(name and not str(name).startswith("node_") for name in types.values())
