"""System metrics: what processor, memory, disk, network and GPUs do while a run goes on.

MLflow's own monitor writes straight to the server, so a dead server loses its points; ours go through the journal.
Names are MLflow's (``system/cpu_utilization_percentage``), which its UI gathers under "System metrics".
"""

import subprocess
import threading
import time
from collections.abc import Callable
from typing import Self

import psutil

from xray_det import display
from xray_det.tracking.journal import Journal

log = display.logger(__name__)


class SystemMetrics:
    """Samples the machine in a daemon thread.

    The step of a point is whole seconds since ``started``, so a restarted run goes on where it was and a sample of
    the restarted run never meets a point of the first.

    Args:
        journal: where points go.
        started: seconds since 1970 at which the run was created (``Tracker.created``).
        interval_s: seconds between samples, at least 1.
        node: put into the names (``system/NODE/...``) when several machines are sampled.
    """

    def __init__(self, journal: Journal, *, started: float, interval_s: float = 10.0, node: str | None = None) -> None:
        self._journal, self._started, self._interval_s = journal, started, max(1.0, interval_s)
        self._prefix = f"system/{node}/" if node else "system/"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="system-metrics")

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the sampling; harmless when it never began."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        sample = sampler()
        while not self._stop.wait(self._interval_s):
            try:
                values = sample()
                step = int(time.time() - self._started)
                self._journal.log({self._prefix + key: value for key, value in values.items()}, step)
            except Exception as error:  # a vanished /proc entry or driver must never end a training
                log.warning("system metrics end: %s", error)
                return


def sampler() -> Callable[[], dict[str, float]]:
    """A function that measures since its last call: percentages, megabytes (10^6), GPU use where there is one."""
    psutil.cpu_percent()  # the first call has no earlier one to compare with
    process = psutil.Process()
    network = psutil.net_io_counters()
    gpus = bool(_gpu_values())

    def sample() -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_megabytes": process.memory_info().rss / 1e6,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / 1e6,
        }
        if network is not None:  # a namespace without interfaces has no counters
            now = psutil.net_io_counters()
            values["network_receive_megabytes"] = (now.bytes_recv - network.bytes_recv) / 1e6
            values["network_transmit_megabytes"] = (now.bytes_sent - network.bytes_sent) / 1e6
        return values | (_gpu_values() if gpus else {})

    return sample


def _gpu_values() -> dict[str, float]:
    # name -> what one unit of nvidia-smi's is; its memory is in MiB
    fields = {"utilization_percentage": 1.0, "memory_usage_megabytes": 1.048576, "power_usage_watts": 1.0}
    query = "--query-gpu=utilization.gpu,memory.used,power.draw"
    try:
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            check=True,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values: dict[str, float] = {}
    for index, line in enumerate(answer.stdout.splitlines()):
        for (name, unit), text in zip(fields.items(), line.split(","), strict=False):
            try:
                values[f"gpu_{index}_{name}"] = float(text) * unit
            except ValueError:  # "[N/A]" where a card does not measure it
                continue
    return values
