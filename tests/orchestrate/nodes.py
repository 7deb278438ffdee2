"""A Ray cluster of several machines on one (namespaces.py). Storage is shared, as it is on a cluster."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from namespaces import Host, Network

PORT = 6379


class Node:
    """A Ray node on a machine of its own."""

    def __init__(
        self, host: Host, *, address: str | None, cpus: int, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.host, self.cpus = host, cpus
        self._address, self._environment, self._folder = address, environment, folder
        self.log = folder / f"{host.name}.log"
        self._starts = 0

    def start(self) -> None:
        """Also again, after it was killed: it comes as a new node."""
        if self._starts:
            self.host.boot()
        self._starts += 1
        place = self._folder / f"{self.host.ip.rsplit('.', 1)[1]}{self._starts}"  # sockets' paths must be short
        join = (
            ["--head", f"--port={PORT}", "--include-dashboard=true"]
            if self._address is None
            else [f"--address={self._address}"]
        )
        command = [
            _ray(), "start", "--block", *join, f"--node-ip-address={self.host.ip}", f"--num-cpus={self.cpus}",
            "--num-gpus=0", f"--object-store-memory={200 << 20}", f"--temp-dir={place}", "--disable-usage-stats",
        ]  # fmt: skip
        self.process = self.host.run(command, environment=self._environment, log=self.log)

    def kill(self) -> None:
        self.host.kill()
        self.process.wait()


class NodesOfOneMachine:
    """See the module.

    Attributes:
        head, workers: the nodes, together ``nodes``. The head offers no CPU: it runs drivers and what looks after
            trainings.
        environment: of a driver, which runs on the head's machine.
    """

    def __init__(self, folder: Path, *, workers: int, cpus: int) -> None:
        self.folder = folder
        self.network = Network(["head", *(f"node{i + 1}" for i in range(workers))])
        first, *others = self.network.hosts
        self.address = f"{first.ip}:{PORT}"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_"))}
        self.environment: dict[str, str] = {
            **own,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0",  # gloo would ask for the address of this machine's name
            "OMP_NUM_THREADS": "1",
            "RAY_memory_monitor_refresh_ms": "0",  # it would kill for what others use of this machine
            # A machine without power is missed after 15 to 20 s; by Ray's own settings after 65.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            # Ray ends idle processes after a second, and starting one costs a slow machine five.
            "RAY_idle_worker_killing_time_threshold_ms": "20000",
        }
        self.head = Node(first, address=None, cpus=0, environment=self.environment, folder=folder)
        self.workers = [
            Node(host, address=self.address, cpus=cpus, environment=self.environment, folder=folder) for host in others
        ]
        self.nodes = [self.head, *self.workers]
        self._drivers: list[subprocess.Popen[bytes]] = []

    def open(self, patience_s: float = 120.0) -> None:
        self.head.start()
        self._wait_for([self.head], patience_s)
        for node in self.workers:
            node.start()
        self.wait(patience_s)

    def close(self) -> None:
        self.network.close()

    def wait(self, patience_s: float = 120.0) -> None:
        """Until all nodes are there."""
        self._wait_for(self.nodes, patience_s)

    def _wait_for(self, nodes: Sequence[Node], patience_s: float) -> None:
        until, last = time.monotonic() + patience_s, "nothing"
        while True:
            for node in nodes:
                assert node.process.poll() is None, f"{node.host.name} ended: {node.log.read_text()[-3000:]}"
            try:
                last = self.ask("[n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']]")
                if {node.host.ip for node in nodes} <= set(last):
                    return
            except subprocess.CalledProcessError as error:
                last = error.stdout
            assert time.monotonic() < until, f"not all of {[n.host.ip for n in nodes]} came, but {last}: {self.folder}"

    def drive(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """A driver on the head's machine, connected by the environment."""
        environment = {**self.environment, "RAY_ADDRESS": self.address}
        driver = self.head.host.run([sys.executable, *command], environment=environment, log=log)
        self._drivers.append(driver)
        return driver

    def mend(self) -> None:
        """End the drivers and start the nodes that a test that failed has left."""
        while self._drivers:
            driver = self._drivers.pop()
            for process in psutil.Process(driver.pid).children() if driver.poll() is None else []:
                process.kill()
            driver.wait()
        for node in self.workers:
            if node.process.poll() is not None:
                node.start()
        self.wait()

    @contextmanager
    def smaller(self, cpus: int) -> Iterator[None]:
        """The nodes offer so many CPUs meanwhile."""
        before = [node.cpus for node in self.workers]
        try:
            for node in self.workers:
                node.kill()
                node.cpus = cpus
                node.start()
            self._wait_for_cpus(cpus * len(before))
            yield
        finally:
            for node, had in zip(self.workers, before, strict=True):
                node.kill()
                node.cpus = had
                node.start()
            self._wait_for_cpus(sum(before))

    def _wait_for_cpus(self, cpus: float, patience_s: float = 120.0) -> None:
        """Also until nodes that were killed are missed."""
        until = time.monotonic() + patience_s
        while (found := self.ask("ray.cluster_resources().get('CPU')")) != cpus:
            assert time.monotonic() < until, f"{found} CPUs instead of {cpus}"
            time.sleep(0.5)

    def ray(self, *words: str) -> None:
        """A command of Ray's on the head's machine."""
        command = self.head.host.enter([_ray(), *words])
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, expression: str, patience_s: float = 60.0) -> Any:
        """What a driver finds: the value of an expression, as JSON."""
        program_text = (
            "import json, logging, ray, ray.util\n"
            f"ray.init(address={self.address!r}, logging_level=logging.ERROR, log_to_driver=False)\n"
            f"print('\\nanswer:' + json.dumps({expression}, default=str))"
        )
        done = subprocess.run(
            self.head.host.enter([sys.executable, "-c", program_text]),
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=patience_s, check=True, text=True,
        )  # fmt: skip
        return json.loads(next(line[7:] for line in done.stdout.splitlines() if line.startswith("answer:")))


@contextmanager
def cluster(*, workers: int = 2, cpus: int = 2, **environment: str) -> Iterator[NodesOfOneMachine]:
    """A head and so many nodes of so many CPUs each, not started yet (``open``), so that servers can be relayed before.

    Nothing is left of them: no process, no namespace, no file.

    Args:
        environment: of every process of every node, set before it starts.
    """
    # Sockets' paths have at most 107 characters: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="xd-"))
    nodes = NodesOfOneMachine(folder, workers=workers, cpus=cpus)
    nodes.environment.update(environment)
    try:
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


def _ray() -> str:
    return str(Path(sys.executable).with_name("ray"))
