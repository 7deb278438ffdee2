"""Drivers on a cluster of namespaces, seen and killed from outside: sweeps and trainings of drive_cluster.py."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from drive_cluster import LAM, STEPS
from nodes import Node, NodesOfOneMachine

from xray_det import storage
from xray_det.orchestrate.results import ARM
from xray_det.orchestrate.run_folder import FINISHED, LATEST
from xray_det.tracking.journal import read_points

#: Bound of each wait: minutes on a machine that others keep busy.
PATIENCE_S = 900.0
DRIVER = str(Path(__file__).with_name("drive_cluster.py"))
#: Processes of a training or its driver, by what they call themselves.
OF_A_TRAINING = re.compile(
    "drive_cluster|tracking.sender|TrainController|RayTrainWorker|ImplicitFunc|PlacementGroupCleaner|PreemptionWatcher"
    "|SynchronizationActor|DatasetManager|run_validation|MapBatches"
)


class TimeLine:
    """What happened when; printed as it happens."""

    def __init__(self, title: str, show: Callable[[str], None]) -> None:
        self._began, self._show = time.monotonic(), show
        show(f"\n{title} (load of this machine {os.getloadavg()[0]:.0f}, {os.cpu_count()} cores)")

    def note(self, text: str) -> float:
        now = time.monotonic()
        self._show(f"{now - self._began:7.1f} s  {text}")
        return now


class Sweeping:
    """A sweep's driver, started again as often as it is killed, and what the sweep has come to."""

    def __init__(self, machines: NodesOfOneMachine, bucket: str, name: str, tracking: str, dataset: str) -> None:
        self.folder, self._machines = storage.join(bucket, name), machines
        self._command = [DRIVER, "sweep", dataset, bucket, name, tracking]
        self.log = machines.folder / f"{name}.log"
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.start()

    def start(self) -> None:
        self._driver = self._machines.drive(self._command, self.log)

    def kill(self) -> None:
        """The driver alone; what it started is left to itself."""
        (driver,) = psutil.Process(self._driver.pid).children()
        driver.kill()
        self._driver.wait()

    def runs(self) -> list[str]:
        """Folders of the trainings that have begun."""
        fs, path = storage.locate(self.folder)
        found = [info.path for info in fs.get_file_info(_below(path, recursive=True))]
        names = [file.removeprefix(path + "/") for file in found if file.endswith("/rung-0/experiment.json")]
        return sorted(storage.join(self.folder, name.removesuffix("/experiment.json")) for name in names)

    def steps(self) -> dict[str, int]:
        """Run -> the step of its newest checkpoint, 0 for none, of those that are under way."""
        return {run: newest(run) for run in self.runs() if not storage.exists(storage.join(run, FINISHED))}

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it then, in whatever is waited for."""
        self._later.append((time.monotonic() + seconds, action))

    def wait_for(self, what: str, condition: Callable[[], Any]) -> Any:
        until = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert self._driver.poll() is None, f"the driver ended before {what}:\n{self.tail()}"
            self._wait(what, until)
        return found

    def _wait(self, what: str, until: float) -> None:
        assert time.monotonic() < until, f"waited in vain for {what}: {self.steps()}\n{self.tail()}"
        if self._later and time.monotonic() >= self._later[0][0]:
            self._later.pop(0)[1]()
        time.sleep(0.2)

    def wait_for_a_checkpoint(self) -> dict[str, int]:
        """Until a run has one that is not its last; the newest of all that are under way."""

        def midst() -> dict[str, int]:
            steps = self.steps()
            under_way = any(0 < step < STEPS for step in steps.values()) and training_workers(self._machines)
            return steps if under_way else {}

        found = self.wait_for("a checkpoint", midst)
        assert isinstance(found, dict)
        return found

    def wait_until_gone_on(self, before: dict[str, int]) -> None:
        """Until all these runs have newer checkpoints, or are finished."""
        self.wait_for(f"more than {before}", lambda: all(self._now(run) > step for run, step in before.items()))

    def _now(self, run: str) -> int:
        return STEPS + 1 if storage.exists(storage.join(run, FINISHED)) else self.steps().get(run, -1)

    def wait(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while self._driver.poll() is None or self._later:
            self._wait("the end", until)
        assert self._driver.returncode == 0, self.tail()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def weights(self) -> dict[tuple[float, str], bytes]:
        """Lambda, weights or ema: the bytes of the models of all trainings."""
        return {
            (storage.read_json(storage.join(run, ARM))["values"][LAM], kind): storage.read_bytes(
                storage.join(run, "phases", "0", kind, "model.safetensors")
            )
            for run in self.runs()
            for kind in ("weights", "ema")
        }

    def scores(self) -> list[tuple[float, float]]:
        """Lambda and score, the best first."""
        return [(row[LAM], row["score"]) for row in storage.read_json(storage.join(self.folder, "results.json"))]


def newest(run: str | Path) -> int:
    """The step of a run's newest checkpoint, 0 for none."""
    address = storage.join(run, LATEST)
    return int(storage.read_json(address)["checkpoint"].rpartition("-")[2]) if storage.exists(address) else 0


def _below(path: str, *, recursive: bool) -> Any:
    import pyarrow.fs as pafs

    return pafs.FileSelector(path, recursive=recursive, allow_not_found=True)


class Training:
    """A driver of one training whose folder lies on a disk that all machines share, where a journal is read at once."""

    def __init__(self, machines: NodesOfOneMachine, kind: str, dataset: str, out: Path, *more: str) -> None:
        self.log, self._driver = (
            machines.folder / f"{kind}.log",
            machines.drive([DRIVER, kind, dataset, str(out), *more], machines.folder / f"{kind}.log"),
        )

    def wait_for_step(self, run: Path, step: int) -> None:
        wait_until(f"step {step} is made: {self.log}", lambda: self._runs() and step <= max(steps(run), default=0))

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        wait_until(f"{what}: {self.log}", lambda: self._runs() and condition())

    def _runs(self) -> bool:
        assert self._driver.poll() is None, f"the driver ended:\n{self.log.read_text()[-6000:]}"
        return True

    def wait(self) -> str:
        """What it said."""
        assert self._driver.wait(PATIENCE_S) == 0, self.log.read_text()[-6000:]
        return self.log.read_text()

    def kill(self) -> None:
        for process in psutil.Process(self._driver.pid).children():
            process.kill()
        self._driver.wait()


def steps(run: Path) -> list[int]:
    """The steps in the journal of rank 0."""
    try:
        return list(read_points(run).get("train/loss", {}))
    except FileNotFoundError:
        return []


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """They stand still, so that something happens between two of their steps however slow this machine is."""
    for process in processes:
        process.suspend()
    yield
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def left(machines: NodesOfOneMachine) -> list[str]:
    return [name for node in machines.nodes for name in map(_name, node.host.processes()) if OF_A_TRAINING.search(name)]


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def training_workers(machines: NodesOfOneMachine) -> list[psutil.Process]:
    return [p for node in machines.workers for p in node.host.processes() if "ray::RayTrainWorker" in _name(p)]


def node_of(machines: NodesOfOneMachine, process: psutil.Process) -> Node:
    (node,) = [node for node in machines.workers if process in node.host.processes()]
    return node


def alive(machines: NodesOfOneMachine) -> list[str]:
    found = machines.ask("[node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']]")
    assert isinstance(found, list)
    return found


def wait_until(what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until, f"waited {patience_s:g} s in vain until {what}"
        time.sleep(0.2)
