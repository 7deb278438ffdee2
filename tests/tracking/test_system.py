"""System metrics reach the journal with steps that rise across restarts."""

import time
from pathlib import Path

from xray_det.tracking.journal import Journal, read_points
from xray_det.tracking.system import SystemMetrics, sampler


def test_samples_are_what_the_machine_can_be() -> None:
    values = sampler()()
    assert 0 <= values["cpu_utilization_percentage"] <= 100
    assert 0 < values["system_memory_usage_percentage"] < 100
    assert values["process_memory_megabytes"] < values["system_memory_usage_megabytes"] + 1e3
    assert values["disk_available_megabytes"] > 0


def test_steps_are_seconds_since_the_run_was_created(tmp_path: Path) -> None:
    with Journal(tmp_path, "driver") as journal:
        with SystemMetrics(journal, started=time.time() - 1000, interval_s=1.0, node="n1"):
            deadline = time.time() + 30
            while not read_points(tmp_path) and time.time() < deadline:
                time.sleep(0.1)
        SystemMetrics(journal, started=time.time()).stop()  # never started
    points = read_points(tmp_path)["system/n1/cpu_utilization_percentage"]
    assert min(points) >= 1000
