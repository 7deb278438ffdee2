"""Workers and drivers killed with SIGKILL in mid-epoch: the weights at the end are those of an undisturbed run."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import plain_trainings
import psutil
import pytest
from made_dataset import experiment, write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS = 24  # of made_dataset.experiment
PATIENCE_S = 600.0


class Driver:
    """A driver process with the Ray cluster it started; nothing of it is left after ``close``."""

    def __init__(self, dataset: str, out: Path) -> None:
        self.run = out / "run"
        self._since_ms = time.time_ns() // 1_000_000
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self._log = open(out.with_suffix(".log"), "ab")  # noqa: SIM115
        command = [sys.executable, str(Path(__file__).with_name("drive.py")), dataset, str(out)]
        self.process = subprocess.Popen(
            command, start_new_session=True, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        self._family: dict[int, psutil.Process] = {}

    def _steps(self) -> Iterator[int]:
        """The steps that rank 0 noted since the start or the last kill."""
        for file in (self.run / "tracking" / "journal").glob("*.jsonl"):
            for line in file.read_text().splitlines():
                with contextlib.suppress(ValueError):  # half a line, as it is written
                    record = json.loads(line)
                    if "step" in record and record["t"] > self._since_ms:
                        yield record["step"]

    def family(self) -> list[psutil.Process]:
        """The processes below the driver, also those seen earlier that have another parent by now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._family[child.pid] = child
        return [process for process in self._family.values() if process.is_running()]

    def wait_for_step(self, step: int) -> None:
        """Until this driver's training has made the step (again)."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            self.family()
            if any(made >= step for made in self._steps()):
                return
            assert self.process.poll() is None, f"the driver ended before step {step}: see {self._log.name}"
            time.sleep(0.02)
        raise AssertionError(f"step {step} was not reached: see {self._log.name}")

    def kill_worker(self, rank: int) -> None:
        workers = [p for p in self.family() if "RayTrainWorker" in " ".join(p.cmdline())]
        assert len(workers) == 2, workers
        workers[rank].kill()
        psutil.wait_procs([workers[rank]], timeout=10)
        self._since_ms = time.time_ns() // 1_000_000

    def kill(self) -> None:
        self.family()
        self.process.kill()
        self.close()

    def wait(self) -> None:
        assert self.process.wait(PATIENCE_S) == 0, f"see {self._log.name}"
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(self.family(), timeout=15)  # Ray's own reaper is given a chance
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(alive, timeout=10)
        self._log.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def undisturbed(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Trained by plain processes, without Ray."""
    out = tmp_path_factory.mktemp("undisturbed")
    plain_trainings.train([experiment(dataset, out)], out)
    return weights(out)


@contextlib.contextmanager
def started(dataset: str, out: Path) -> Iterator[Driver]:
    driver = Driver(dataset, out)
    try:
        yield driver
    finally:
        driver.close()


def weights(out: Path) -> dict[str, bytes]:
    """The bytes of each phase's models, plain and averaged."""
    files = sorted((out / "run" / "phases").rglob("model.safetensors"))
    assert len(files) == 4
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def test_a_killed_worker_and_a_killed_driver_change_no_bit(
    dataset: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with started(dataset, tmp_path) as driver:
        driver.wait_for_step(9)  # the second epoch; the last checkpoint is of step 6
        driver.kill_worker(1)
        driver.wait_for_step(15)  # the second phase's first epoch, after the checkpoint of step 12
        driver.kill()
    with started(dataset, tmp_path) as driver:
        driver.wait()
    assert weights(tmp_path) == undisturbed
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()]  # nor a killed worker's


def test_killed_at_ten_points(dataset: str, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    rng = random.Random(20)
    points = sorted(rng.sample(range(1, STEPS), 10))
    drivers = set(rng.sample(range(10), 4))  # which of the kills hit the driver, the others a worker drawn by the seed
    driver = Driver(dataset, tmp_path)
    try:
        for number, step in enumerate(points):
            driver.wait_for_step(step)
            if number in drivers:
                driver.kill()
                driver = Driver(dataset, tmp_path)
            else:
                driver.kill_worker(rng.randrange(2))
        driver.wait()
    finally:
        driver.close()
    assert weights(tmp_path) == undisturbed
