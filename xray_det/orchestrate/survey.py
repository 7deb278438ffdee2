"""Asks every node of the cluster to look for itself; one that does not answer is named, not waited for."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xray_det.orchestrate.inspection import Orders, Seen, inspect
from xray_det.orchestrate.verdicts import SAME, Finding, Node, bad, good

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Alive:
    """A node of the cluster: Ray's id of it, the folder of its session, and what Ray counts."""

    id: str
    session: str
    counted: Node

    @property
    def name(self) -> str:
        return self.counted.name


def alive_nodes() -> tuple[tuple[Alive, ...], str]:
    """The nodes that are alive, the head first, and the name of the driver's. Names are hosts', told apart where a host
    has several."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeManagerHostname"]))
    hosts = [re.sub(r"[^\w.-]", "_", node["NodeManagerHostname"]) for node in alive]
    nodes = tuple(
        Alive(
            id=node["NodeID"],
            session=str(Path(node["ObjectStoreSocketName"]).parents[1]),
            counted=Node(
                name=host if hosts.count(host) == 1 else f"{host}-{node['NodeID'][:6]}",
                cpus=node["Resources"].get("CPU", 0.0),
                gpus=node["Resources"].get("GPU", 0.0),
                object_store=node["Resources"].get("object_store_memory", 0.0),
            ),
        )
        for node, host in zip(alive, hosts, strict=True)
    )
    own = ray.get_runtime_context().get_node_id()
    return nodes, next(node.name for node in nodes if node.id == own)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """By name of the node: what it saw, and by how many seconds its clock is ahead; and a finding for each node."""

    seen: dict[str, Seen]
    ahead_s: dict[str, float]
    findings: list[Finding]


def ask(nodes: Sequence[Alive], orders: Orders, patience_s: float) -> Answers:
    """Let all nodes look at the same time. The only node of a cluster is this one: no task is started for it."""
    answers = Answers(seen={}, ahead_s={}, findings=[])
    if len(nodes) == 1:
        only = nodes[0]
        look = Later("nodes", lambda: inspect(only.name, orders, only.session))
        found = look.result(patience_s)
        if isinstance(found, Finding):
            answers.findings.append(found)
        else:
            _note(answers, only, found, 0.0)
        return answers
    task = ray.remote(num_cpus=0, max_retries=0)(inspect)
    waiting: dict[Any, Alive] = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node.id, soft=False)
        waiting[task.options(scheduling_strategy=here).remote(node.name, orders, node.session)] = node
    until = time.monotonic() + patience_s
    while waiting and (left := until - time.monotonic()) > 0:
        for answer in ray.wait(list(waiting), num_returns=1, timeout=left)[0]:
            arrived, node = time.time(), waiting.pop(answer)
            try:
                found = ray.get(answer)
            except Exception as error:  # Ray's, or one of the node's own packages
                answers.findings.append(_failed(node.name, error))
            else:
                _note(answers, node, found, found.clock - arrived)
    for answer, node in waiting.items():
        ray.cancel(answer, force=True)
        remedy = "Take it out of the cluster or mend it: a mount that hangs, no memory, a broken network"
        answers.findings.append(bad("nodes", node.name, f"has not answered within {patience_s:g} s", remedy))
    order = [node.name for node in nodes]  # not that of arrival
    return Answers(
        seen={name: answers.seen[name] for name in order if name in answers.seen},
        ahead_s={name: answers.ahead_s[name] for name in order if name in answers.ahead_s},
        findings=sorted(answers.findings, key=lambda finding: order.index(finding.where)),
    )


def _note(answers: Answers, node: Alive, seen: Seen, ahead_s: float) -> None:
    answers.seen[node.name], answers.ahead_s[node.name] = seen, ahead_s
    gpus = f", {node.counted.gpus:g} GPUs" if node.counted.gpus else ""
    answers.findings.append(
        good("nodes", node.name, f"{node.counted.cpus:g} CPUs{gpus}, looked for {seen.seconds:.1f} s")
    )


def _failed(name: str, error: Exception) -> Finding:
    """A task that could not run: most often for want of this package, or for another one of the name."""
    text = str(error).strip()
    detail = f"cannot run the check: {(text.splitlines() or [type(error).__name__])[-1].strip()[:300]}"
    if re.search(r"ModuleNotFoundError|ImportError|AttributeError", text):
        return bad("versions", name, detail, SAME)
    return bad("nodes", name, detail, "See Ray's logs of the node")


class Later(Generic[T]):
    """A look in a thread of its own: storage or a server that hangs must not hold up the other checks."""

    def __init__(self, check: str, look: Callable[[], T]) -> None:
        self._check, self._look = check, look
        self._found: list[T] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"preflight-{check}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._look())
        except Exception as error:  # raised where the result is asked for
            self._error = error

    def result(self, patience_s: float) -> T | Finding:
        """What was found; a failure where nothing was within the time."""
        self._thread.join(patience_s)
        if self._error is not None:
            raise self._error
        if self._found:
            return self._found[0]
        remedy = "See whether the storage or the server that is meant hangs"
        return bad(self._check, "driver", f"no answer within {patience_s:g} s", remedy)
