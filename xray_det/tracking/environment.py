"""What a run ran on: commit, source digest, versions, processors; as tags of the tracked run."""

import getpass
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlparse

from xray_det.tracking.address import without_password

PACKAGES: Final = ("xray_det", "torch", "torchvision", "ray", "mlflow", "numpy", "pyarrow", "hotcoco")
ROOT: Final = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The git commit of the code, with ``-dirty`` when files differ from it; ``unknown`` where nothing tells.

    ``XRAY_DET_COMMIT`` if set. Else that of the checkout the code lies in. A submitted job runs in a copy without
    ``.git``: there, that of the checkout the package was installed from, if the copy holds the same source.
    """
    if given := os.environ.get("XRAY_DET_COMMIT"):
        return given
    for root in (ROOT, *_installed_from()):
        if root == ROOT or source_digest(root) == source_digest():
            revision = _revision(root)
            if revision is not None:
                return revision
    return "unknown"


def source_digest(root: Path | None = None) -> str:
    """Twelve hex digits over the Python files of a checkout: equal code has equal digests, with or without git."""
    root = root or ROOT
    digest = hashlib.sha256()
    for folder in ("xray_det", "experiments"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _installed_from() -> list[Path]:
    """Checkouts that the environment's editable installs of this package point to."""
    folders = []
    for distribution in metadata.distributions(name="xray_det"):
        url = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "")
        if url.startswith("file://"):
            folders.append(Path(unquote(urlparse(url).path)))
    return folders


def _revision(root: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        # A copy of the code inside another project's checkout must not report that project's commit.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        # Tables of studies are written while trainings run: they are no code.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!experiments/results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def environment_tags() -> dict[str, str]:
    """Tags of this process's environment; MLflow's own names where it has them."""
    revision = commit()
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "command": without_password(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))[:2000],
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
