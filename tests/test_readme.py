"""Every command of the README is run: the walk through one's own data here, the job and the make targets elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_commands_outside_the_walk_are_run_elsewhere() -> None:
    """What is not in a ```bash block is run by CI (make) or by tests/experiments/test_job.py (ray)."""
    elsewhere = [line.split("#")[0].strip() for kind, block in BLOCKS if kind != "bash" for line in block.splitlines()]
    commands = [line for line in elsewhere if line.startswith(("make", "ray", "python"))]
    assert commands
    makefile, job = (ROOT / "Makefile").read_text(), (ROOT / "tests/experiments/test_job.py").read_text()
    for command in commands:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
        else:
            for word in command.replace("ray ", "").split():
                assert word == "." or word in job, f"{command}: {word} is not in test_job.py"


def test_every_script_that_is_named_exists() -> None:
    for script in set(re.findall(r"experiments/[\w/]+\.py", (ROOT / "README.md").read_text())):
        assert (ROOT / script).is_file(), script


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_walk_through_ones_own_data(shared_data: Path, tmp_path: Path) -> None:
    """As it stands there, but for a quarter of the epochs."""
    (block,) = [block for kind, block in BLOCKS if kind == "bash"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fod_a").symlink_to(shared_data / "fod_a")
    environment = {k: v for k, v in os.environ.items() if k not in ("XRAY_DET_HOME", "RAY_ADDRESS")}
    environment |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "\n".join(line for line in block.splitlines() if not line.startswith("source "))
    assert "--epochs 12 4" in script
    script = script.replace("--epochs 12 4", "--epochs 3 1")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    rows = json.loads((tmp_path / "xray_det/runs/fod/result.json").read_text())["rows"]
    assert {row["phase"] for row in rows} == {1, 2}
    scores = json.loads((tmp_path / "fod_scores.json").read_text())["fod_a"]["voc"]
    assert scores["mAP"] == pytest.approx(
        next(r["mAP"] for r in rows if r["phase"] == 2 and r["protocol"] == "voc"), abs=0.001
    )
    assert len(scores["per_class"]) == 31
    print(done.stdout[-3000:])
