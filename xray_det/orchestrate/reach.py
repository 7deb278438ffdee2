"""Whether MLflow can be reached at a tracking address, without waiting for its import where all is well."""

import json
import os
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from xray_det.errors import InputError
from xray_det.orchestrate.inspection import first_line
from xray_det.orchestrate.verdicts import Finding, bad, good, warn
from xray_det.tracking.address import check_uri, database_file, default_uri, without_password
from xray_det.tracking.tracker import SENDER_ENVIRONMENT

#: File systems on which SQLite's locks are not to be relied on.
NETWORK: Final = ("nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "glusterfs", "fuse", "9p", "afs")

#: Asked in a process of its own: MLflow's import takes 3 to 6 s, and a database's driver may hang.
_ASK: Final = """
import json, sys
from xray_det.errors import InputError
uri = sys.stdin.read()
if uri.startswith("http"):
    from xray_det.tracking.mlflow_run import check_server as check
else:
    from xray_det.tracking.database import check_database as check
try:
    check(uri)
    said = {}
except InputError as error:
    said = {"problem": error.problem, "remedy": error.remedy}
except Exception as error:
    said = {"away": (str(error).strip().splitlines() or [type(error).__name__])[0][:300]}
print(json.dumps(said))
"""


def check_tracking(uri: str | None, *, driver: str, nodes: int, trials: int = 1, patience_s: float = 20.0) -> Finding:
    """A finding on a tracking address, which this process asks: only the driver and controllers of trials talk to it.

    Args:
        uri: as Tracker takes it; None: the default.
        driver: name of this node.
        nodes: of the cluster.
        trials: how many trainings are tracked at the same time.
        patience_s: for an answer of MLflow or a database.
    """
    uri = uri or default_uri()
    where = without_password(uri)
    try:
        uri = check_uri(uri)
    except InputError as error:
        return bad("tracking", where, error.problem, error.remedy)
    if uri == "off":
        return good("tracking", where, "nothing is sent")
    if uri.startswith("sqlite"):
        return _check_file(database_file(uri), where, driver=driver, several=nodes > 1 and trials > 1)
    if uri.startswith("http") and _answers_at_once(uri):
        return good("tracking", where, f"answers {driver}")
    said = _ask(uri, patience_s)
    if "problem" in said:
        return bad("tracking", where, said["problem"], said["remedy"])
    if "away" in said:
        detail = f"does not answer {driver} ({said['away']}); a training's records would wait in its run folder"
        return warn("tracking", where, detail, "Start it, or mend the way to it")
    return good("tracking", where, f"answers {driver}")


def _answers_at_once(uri: str) -> bool:
    """A server that asks for no credentials and is MLflow."""
    if os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return False
    try:
        address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
        with urllib.request.urlopen(address, timeout=5) as answer:
            return isinstance(json.loads(answer.read()), dict)
    except (OSError, ValueError):
        return False


def _ask(uri: str, patience_s: float) -> dict[str, str]:
    environment = {
        **os.environ,
        **SENDER_ENVIRONMENT,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _ASK],
            input=uri,
            env=environment,
            capture_output=True,
            text=True,
            timeout=patience_s,
        )
        said: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"away": f"no answer in {patience_s:g} s"}
    except (OSError, ValueError, IndexError) as error:
        return {"away": first_line(error)}
    return said


def _check_file(path: Path, where: str, *, driver: str, several: bool) -> Finding:
    """A SQLite database: a file of the driver's node."""
    if path.exists():
        try:
            with sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=2) as database:
                database.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as error:
            return bad("tracking", where, f"is no database that can be read ({error})", "Give another file")
    kind = _file_system(path)
    if kind.startswith(NETWORK):
        detail = f"lies on a network file system ({kind}), where SQLite's locks cannot be relied on"
        return warn("tracking", where, detail, "Give a server, or a file on the driver's own disk")
    if several:
        detail = f"a file of {driver}: a trial whose controller runs on another node would have a file of its own"
        return warn("tracking", where, detail, "Give a server (http://HOST:5000), or keep controllers on that node")
    return good("tracking", where, f"a file that {driver} alone writes")


def _file_system(path: Path) -> str:
    """Type of the file system a path lies on."""
    place = str(path.absolute())
    mounts = [m for m in psutil.disk_partitions(all=True) if f"{place}/".startswith(m.mountpoint.rstrip("/") + "/")]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else ""
