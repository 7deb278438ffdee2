"""Which Ray a process is connected to: one without a dashboard, until something asks for it."""

import json
import os
import subprocess
import sys

import pytest

from xray_det.data import cluster
from xray_det.errors import InputError

CONNECTS = """
import json
import psutil, ray
from xray_det.data.cluster import connect, is_bare

def seen():
    commands = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
    (server,) = [command for command in commands if "dashboard/dashboard.py" in command]
    dashboard, cpus = "--disable-frontend" not in server, ray.cluster_resources()["CPU"]
    return [ray.get_runtime_context().gcs_address, is_bare(), dashboard, cpus]

found = [[None, is_bare(), False]]
for options in ({"num_cpus": 3, "log_to_driver": False}, {}, {"include_dashboard": True}, {}):
    connect(**options)
    found.append(seen())
print(json.dumps(found))
"""


@pytest.mark.medium
def test_the_dashboard_comes_with_the_first_that_needs_it_and_stays() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", CONNECTS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, first, again, watched, after = json.loads(done.stdout.splitlines()[-1])
    assert before == [None, False, False]
    assert first == again
    assert first[1:] == [True, False, 3]
    assert watched == after
    assert watched[1:] == [False, True, 3]
    assert watched[0] != first[0]


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_too_long_for_sockets_is_refused_before_anything_starts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setenv(name, "/tmp/" + "x" * 200)
    with pytest.raises(InputError, match=rf"^{name}=/tmp/x+: .* Set RAY_TMPDIR to a folder of at most") as said:
        cluster.start()
    most = int(str(said.value).split("at most ")[1].split()[0])
    started: list[bool] = []
    monkeypatch.setattr(cluster.ray, "init", lambda **_: started.append(True))
    monkeypatch.setenv(name, "/" + "x" * (most - 1))
    cluster.start()
    monkeypatch.setenv(name, "/" + "x" * most)
    with pytest.raises(InputError):
        cluster.start()
    assert started == [True]
