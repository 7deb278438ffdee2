"""What the preflight makes of what nodes have seen: pure functions from observations to findings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from xray_det.orchestrate.inspection import SESSION, SHARED, Disk, Seen
from xray_det.orchestrate.upload import LIMIT_BYTES, Upload

#: Seconds between the clocks of nodes, from where the curves of a run no longer fit together.
CLOCKS_S: Final = 5.0
#: Ray writes no objects to a disk that is fuller.
RAYS_FULL: Final = 0.95
#: Free bytes below which a disk is worth a word (some checkpoints of a detector and its optimizer), or is full.
LITTLE_BYTES, FULL_BYTES = 5 * 10**9, 10**8
#: The remedy for nodes that run different things.
SAME: Final = "Install the same on every node: one image, or the lock file and one commit"
#: An upload of sources alone is smaller.
UPLOAD_BYTES: Final = 5 * 10**6


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of a check.

    Attributes:
        check: its name: nodes, experiment, storage, data, home, versions, resources, gpus, tracking, clocks, disk,
            upload.
        where: the node, or what else was looked at.
        ok: None: a warning, the training can run.
        detail: what was found, with numbers.
        remedy: an instruction, where there is something to mend.
    """

    check: str
    where: str
    ok: bool | None
    detail: str
    remedy: str = ""


def good(check: str, where: str, detail: str) -> Finding:
    return Finding(check=check, where=where, ok=True, detail=detail)


def warn(check: str, where: str, detail: str, remedy: str) -> Finding:
    return Finding(check=check, where=where, ok=None, detail=detail, remedy=remedy)


def bad(check: str, where: str, detail: str, remedy: str) -> Finding:
    return Finding(check=check, where=where, ok=False, detail=detail, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Node:
    """What Ray counts of a node; ``object_store`` in bytes."""

    name: str
    cpus: float
    gpus: float
    object_store: float = 0.0


def judge_storage(seen: Mapping[str, Seen], out: str) -> Iterator[Finding]:
    """Every node reads what the driver wrote, and the driver has read every node's answer."""
    remedy = "Give --out s3://BUCKET/FOLDER, or a folder that every node mounts at the same path"
    for node, there in seen.items():
        kind, _, what = there.storage.partition(": ")
        if not kind:
            yield good("storage", node, f"{out} is read and written")
        elif kind == "unseen":
            yield bad("storage", node, f"{out} is not shared: this node does not see what the driver writes", remedy)
        elif kind == "unanswered":
            yield bad("storage", node, f"{out} is not shared: the driver does not see what this node writes", remedy)
        else:
            right = f"Give this node the right to {'read' if kind == 'unreadable' else 'write'} there"
            detail = f"{out} is shared, but {what} on this node"
            yield bad("storage", node, detail, f"{right} (mount options, permissions, credentials)")


def judge_data(seen: Mapping[str, Seen]) -> Iterator[Finding]:
    """The datasets and weights that each node reads."""
    remedy = "Mount it at the same path on every node, or move it (images: ingest.py --pack) to where all nodes read"
    for node, there in seen.items():
        wrong = {address: problem for address, problem in there.data.items() if problem}
        yield from (bad("data", node, f"{address}: {problem}", remedy) for address, problem in wrong.items())
        if not wrong:
            yield good("data", node, f"shards and images are read: {', '.join(there.data)}")


def judge_home(seen: Mapping[str, Seen], nodes: Mapping[str, Node]) -> Iterator[Finding]:
    """Annotations are mapped from the home of each node that works, and built there where they are not found."""
    remedy = "Set XRAY_DET_HOME to a folder of the node's disk, or to one that all nodes mount, for every `ray start`"
    for node, there in seen.items():
        if there.home_problem and nodes[node].cpus > 0:
            yield bad("home", node, f"{there.home} cannot be written ({there.home_problem})", remedy)
        else:
            yield good("home", node, there.home if there.home_shared else f"{there.home}, the node's own")


def judge_versions(
    seen: Mapping[str, Seen], versions: Mapping[str, str], source: Mapping[str, str]
) -> Iterator[Finding]:
    """Every node against the driver's versions and source."""
    for node, there in seen.items():
        packages = {name: (there.versions.get(name, "none"), version) for name, version in versions.items()}
        odd = [f"{p} {v} (the driver: {own})" for p, (v, own) in packages.items() if _public(v) != _public(own)]
        builds = [f"{p} {v} (the driver: {own})" for p, (v, own) in packages.items() if v != own]
        files = [f for f in sorted({*source, *there.source}) if source.get(f) != there.source.get(f)]
        if files:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            odd.append(f"another xray_det than the driver's: {files[0]}{more}")
        if odd:
            yield bad("versions", node, "; ".join(odd), SAME)
        elif builds:
            yield warn("versions", node, f"another build: {', '.join(builds)}", "Expected of nodes without a GPU alone")
        else:
            found = {**there.versions, "xray_det": f"{len(there.source)} files"}
            yield good("versions", node, ", ".join(f"{name} {value}" for name, value in found.items()))


def _public(version: str) -> str:
    """Without the build: ``2.9.0+cpu`` and ``2.9.0+cu130`` are one version."""
    return version.partition("+")[0]


def judge_gpus(seen: Mapping[str, Seen], nodes: Mapping[str, Node]) -> Iterator[Finding]:
    """The GPUs that Ray hands out are there, and torch can use them."""
    for node, there in seen.items():
        told, torch = nodes[node].gpus, there.versions.get("torch", "none")
        if not told:
            continue
        if there.gpus is None:
            remedy = "Install NVIDIA's driver, or start the node with --num-gpus 0"
            yield bad("gpus", node, f"Ray hands out {told:g} GPUs, nvidia-smi does not run", remedy)
        elif there.gpus < told:
            remedy = f"Start the node with --num-gpus {there.gpus}, or mend its driver"
            yield bad("gpus", node, f"Ray hands out {told:g} GPUs, nvidia-smi lists {there.gpus}", remedy)
        elif torch.endswith("+cpu"):
            yield bad("gpus", node, f"torch {torch} cannot use the {told:g} GPUs", "Install torch with CUDA there")
        else:
            yield good("gpus", node, f"{told:g}")


def judge_clocks(ahead_s: Mapping[str, float]) -> Iterator[Finding]:
    """Seconds by which nodes are ahead of the driver; the way of an answer makes them seem a little behind."""
    spread = max(ahead_s.values(), default=0.0) - min(ahead_s.values(), default=0.0)
    for node, ahead in ahead_s.items():
        if spread > CLOCKS_S:
            detail = f"{ahead:+.1f} s against the driver; nodes differ by {spread:.1f} s"
            yield warn("clocks", node, detail, "Run NTP on every node: the time axis of curves comes from its clock")
        else:
            yield good("clocks", node, f"{ahead:+.1f} s")


def judge_disks(seen: Mapping[str, Seen], nodes: Mapping[str, Node]) -> Iterator[Finding]:
    """Room on the disks that a training writes to, and shared memory for Ray's objects."""
    for node, there in seen.items():
        words = [word for disk in there.disks for word in _disk_words(disk, nodes[node])]
        if not words:
            yield good("disk", node, ", ".join(f"{size(d.free)} free on {d.folder}" for d in there.disks))
            continue
        full = any(disk.free < FULL_BYTES and SHARED not in disk.uses for disk in there.disks)
        yield (bad if full else warn)("disk", node, "; ".join(words), "Free space, or give another folder")


def _disk_words(disk: Disk, node: Node) -> Iterator[str]:
    if SHARED in disk.uses:
        if disk.total < node.object_store:
            yield (
                f"{disk.folder} has {size(disk.total)} for Ray's {size(node.object_store)} of objects, which lie on a "
                f"disk then and are slow (containers: --shm-size {node.object_store / 1e9:.0f}g)"
            )
        return
    if disk.free < LITTLE_BYTES:
        yield f"{size(disk.free)} free of {size(disk.total)} on {disk.folder} ({', '.join(disk.uses)})"
    used = 1 - disk.free / disk.total if disk.total else 0.0
    if SESSION in disk.uses and used > RAYS_FULL:
        yield f"{disk.folder} is {used:.1%} full: Ray writes no objects to a disk over {RAYS_FULL:.0%}"


def judge_upload(folder: str, upload: Upload) -> Finding:
    """What a submitted job would send."""
    amount = f"{'' if upload.whole else 'more than '}{size(upload.bytes)} in {upload.files} files"
    largest = ", ".join(f"{name} ({size(count)})" for count, name in upload.largest)
    remedy = "Name what the job does not need in .gitignore or .rayignore"
    if upload.bytes >= LIMIT_BYTES:
        return bad("upload", folder, f"{amount}, Ray takes {size(LIMIT_BYTES)}; largest: {largest}", remedy)
    if upload.bytes > UPLOAD_BYTES or not upload.whole:
        return warn("upload", folder, f"{amount}; largest: {largest}", remedy)
    return good("upload", folder, amount)


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
