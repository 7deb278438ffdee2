"""Being connected to a Ray cluster: the caller's, the one a job was submitted to, or a new one on this machine.

Everything that uses Ray comes through here, so that it is quiet and set up alike whoever comes first.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from xray_det.errors import InputError

#: Read by Ray Train's controller and Ray Data in every process they start; the user's own settings win.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
}
#: Ray ends processes that have had no task for a second, and every epoch would begin with new ones and their imports.
#: Read by a node when it starts.
IDLE = "RAY_idle_worker_killing_time_threshold_ms"
IDLE_MS = "300000"


#: The longest path of a socket below Ray's temporary folder, and the longest that Linux takes.
_SOCKET, _SOCKET_BYTES = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead", 107

#: The Ray that was started for this process alone, without a dashboard: its address, and what else it was told.
_bare: tuple[str, dict[str, Any]] = "", {}


def connect(*, include_dashboard: bool = False, **options: Any) -> None:
    """Connect this process, unless it is connected.

    Args:
        include_dashboard: of a cluster that is started here, even in place of one without, with the options of that
            one. It takes 3 s to start and 6 % of a core, and is for trials that are stopped or die while their cluster
            goes on: Ray Train's placement group cleaner asks it whether a training's controller still lives, and else
            frees what its workers held.
        options: for ``ray.init`` where a cluster is started on this machine (``num_cpus``, ...).
    """
    global _bare
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # ray.data may have been imported before, and read its settings then
    logging.getLogger("ray.data").setLevel(os.environ["RAY_DATA_LOG_LEVEL"])
    if ray.is_initialized():
        if not (include_dashboard and is_bare()):
            return
        options = {**_bare[1], **options}
        ray.shutdown()
    options = {"logging_level": logging.ERROR, **options}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=options["logging_level"])
    else:
        # a machine of one's own announces no preemption: one process less to start
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        start(include_dashboard=include_dashboard, **options)
        if not include_dashboard:
            _bare = ray.get_runtime_context().gcs_address, options


def is_bare() -> bool:
    """Whether Ray was started for this process alone, without a dashboard: what a training leaves ends with it."""
    return bool(ray.is_initialized() and ray.get_runtime_context().gcs_address == _bare[0])


def start(**options: Any) -> None:
    """Start a cluster on this machine whose processes know its address.

    ``ray.init`` leaves them without. Ray Train's placement group cleaner then looks for a cluster on the machine, and
    where there is another one it asks that one for the training's controller, does not find it, takes it for dead
    and removes the training's workers (Ray 2.60).

    Raises:
        InputError: the temporary folder's path is too long for Ray's sockets.
    """
    _check_sockets()
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    address = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}"}
    with _environment(address | {IDLE: os.environ.get(IDLE, IDLE_MS)}):
        ray.init(address="local", **options)


def _check_sockets() -> None:
    """Refuse a temporary folder below which the paths of Ray's sockets are longer than a kernel takes."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, "/tmp")
    over = len(os.fsencode(os.path.join(folder, _SOCKET))) - _SOCKET_BYTES
    if over > 0:
        most = len(os.fsencode(folder)) - over
        problem = f"its path is too long by {over} bytes: a socket's path may have {_SOCKET_BYTES}, and Ray's lie in it"
        raise InputError(f"{name}={folder}", problem, f"Set RAY_TMPDIR to a folder of at most {most} bytes, as /tmp is")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
