"""What a run ran on: commit, source digest, versions, processors; as tags of the tracked run."""

import getpass
import hashlib
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGES: Final = ("xray_det", "torch", "torchvision", "ray", "mlflow", "numpy", "pyarrow", "hotcoco")
ROOT: Final = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The git commit of the code: ``XRAY_DET_COMMIT``, else the checkout's (with ``-dirty``), else ``unknown``.

    A submitted job runs in a copy without ``.git``: whoever submits it sets ``XRAY_DET_COMMIT``.
    """
    if given := os.environ.get("XRAY_DET_COMMIT"):
        return given

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        # A copy of the code inside another project's checkout must not report that project's commit.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return "unknown"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def source_digest() -> str:
    """Twelve hex digits over the package's Python files: equal code has equal digests, with or without git."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "xray_det").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def environment_tags() -> dict[str, str]:
    """Tags of this process's environment; MLflow's own names where it has them."""
    revision = commit()
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:2000],
        "commit": revision,
        "source_digest": source_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": f"{os.cpu_count()} x {_processor()}",
        "gpu": ", ".join(_gpus()) or "none",
    }
    if revision != "unknown":
        tags["mlflow.source.git.commit"] = revision.removesuffix("-dirty")
    for package in PACKAGES:
        try:
            tags[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _gpus() -> list[str]:
    """Names as nvidia-smi prints them; asking torch would load CUDA into a process that may not want it."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
