"""Machines on one: network namespaces with an address of their own, on a switch, with processes that see one another.

The switch lies in a namespace too, so that nothing of this machine's own network is touched and nothing of theirs
leaves it. They all see this machine's disk. Servers of a test are reached by relays, which listen in a namespace and
talk to a port of this machine's own.

Needs root, or whatever else allows ``ip netns``.
"""

import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from servers.programs import program

#: Of the namespaces' names; the process that made them follows, so that what a killed one left is found.
PREFIX = "xray-det"
NETWORK = "10.217.0"
SWITCH = f"{NETWORK}.1"
NAME_SERVICES = Path("/etc/netns")
CLONE_NEWNET = 0x40000000


class Host:
    """A machine: namespaces with one interface, ``eth0``, and with processes of its own, which see only one another."""

    def __init__(self, name: str, ip: str) -> None:
        self.name, self.ip = name, ip
        self.seen: set[psutil.Process] = set()
        self._init: psutil.Process | None = None

    def boot(self) -> None:
        """Its first process, with which all others end. It ends with the tests, even when these are killed."""
        command = [
            program("setpriv"), "--pdeathsig=SIGKILL", program("ip", "/usr/sbin", "/sbin"), "netns", "exec", self.name,
            program("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc",
            program("sh"), "-c", "while :; do sleep 3600; done",
        ]  # fmt: skip
        self._unshare = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until = time.monotonic() + 10
        while not (children := psutil.Process(self._unshare.pid).children()):
            assert time.monotonic() < until, f"{self.name} does not boot"
            time.sleep(0.01)
        self._init = children[0]
        self.connect()

    def connect(self) -> None:
        """The cable is in."""
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "route", "replace", "default", "via", SWITCH)  # processes look for their address by it

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command that runs ``command`` there."""
        assert self._init is not None, f"{self.name} is off"
        return [program("nsenter"), f"--target={self._init.pid}", "--net", "--mount", "--pid", "--", *command]

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with open(log, "ab") as file:
            return subprocess.Popen(
                self.enter(command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """What runs there, its first process aside; ``seen`` keeps all that were ever found."""
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if process.status() != psutil.STATUS_ZOMBIE and process.ppid() != os.getpid():
                    found.append(process)
        family = [] if self._init is None else [self._init, *self._init.children()]
        found = [process for process in found if process not in family]
        self.seen.update(found)
        return found

    def kill(self) -> None:
        """As when the power fails: nobody there, and no connection, has a last word."""
        _ip("-n", self.name, "link", "set", "eth0", "down")
        self.end()

    def end(self) -> None:
        """The kernel kills all processes there with the first one."""
        if self._init is None:
            return
        self._init.kill()
        self._unshare.wait()
        self._init = None
        until = time.monotonic() + 30
        while left := self.processes():
            assert time.monotonic() < until, f"processes of {self.name} are left: {left}"
            time.sleep(0.02)


class Network:
    """A switch and machines at it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._mark = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        self.switch = f"{self._mark}-switch"
        self.hosts = [Host(f"{self._mark}-{name}", f"{NETWORK}.{i}") for i, name in enumerate(names, 2)]
        self._relays: list[Relay] = []

    def open(self) -> None:
        _remove_what_killed_tests_left()
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "set", "lo", "up")
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "address", "add", f"{SWITCH}/24", "dev", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts):
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
            pair = ("type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("-n", self.switch, "link", "add", f"port{number}", *pair)
            _ip("-n", self.switch, "link", "set", f"port{number}", "master", "bridge", "up")
            _ip("-n", host.name, "address", "add", f"{host.ip}/24", "dev", "eth0")
            self._name_service(host)
            host.boot()

    def _name_service(self, host: Host) -> None:
        """``ip netns exec`` shows these files as /etc's. Without, looking up a name waits 10 s for an answer."""
        folder = NAME_SERVICES / host.name
        folder.mkdir(parents=True)
        names = [f"{other.ip} {other.name}" for other in self.hosts]
        lines = ["127.0.0.1 localhost", f"{host.ip} {socket.gethostname()}", *names]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # refuses at once

    def close(self) -> None:
        for relay in self._relays:
            relay.close()
        for host in self.hosts:
            host.end()
        for name in (*(host.name for host in self.hosts), self.switch):
            with suppress(subprocess.CalledProcessError):
                _remove(name)

    def relay(self, port: int, *, host: Host | None = None) -> str:
        """An address, HOST:PORT, at which all machines reach what serves at a port of this machine; with ``host`` only
        that one does, at its 127.0.0.1."""
        namespace, ip = (self.switch, SWITCH) if host is None else (host.name, "127.0.0.1")
        relay = Relay(namespace, (ip, port), port)
        self._relays.append(relay)
        return f"{ip}:{port}"


class Relay:
    """Connections to an address in a namespace go on to a port of 127.0.0.1 of this machine's own."""

    def __init__(self, namespace: str, address: tuple[str, int], port: int) -> None:
        self._listening, self._port = _in_namespace(namespace, lambda: socket.create_server(address, backlog=64)), port
        threading.Thread(target=self._serve, daemon=True, name="relay").start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=[client], daemon=True, name="relay").start()

    def _connect(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return  # the client finds its connection closed
            with server:
                back = threading.Thread(target=_copy, args=[server, client], daemon=True, name="relay")
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RD if end is source else socket.SHUT_WR)


def _in_namespace(name: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket belongs to the namespace of the thread that made it, whoever uses it."""
    made: list[socket.socket] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{name}") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter {name}")
            made.append(make())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]


def _ip(*words: str) -> str:
    done = subprocess.run(
        [program("ip", "/usr/sbin", "/sbin"), *words], capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode:
        if "Operation not permitted" in done.stderr or "Permission denied" in done.stderr:
            pytest.skip(f"network namespaces are not permitted here: {done.stderr.strip()}")
        raise subprocess.CalledProcessError(done.returncode, ["ip", *words], done.stdout, done.stderr)
    return done.stdout


def _remove_what_killed_tests_left() -> None:
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{PREFIX}-") and not psutil.pid_exists(int(name.removeprefix(f"{PREFIX}-").split("-")[0])):
            _remove(name)  # its processes ended with the tests


def _remove(name: str) -> None:
    _ip("netns", "delete", name)
    shutil.rmtree(NAME_SERVICES / name, ignore_errors=True)
    with suppress(OSError):
        NAME_SERVICES.rmdir()  # if it is empty
