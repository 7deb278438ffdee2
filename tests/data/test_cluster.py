"""Which Ray a process is connected to: one without a dashboard, until something asks for it."""

import json
import os
import subprocess
import sys

import pytest

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
