"""The Dockerfile: a linter's rules, then ours. No image is built here."""

import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
from manifests import CLUSTER, PODS_USER, ROOT

from xray_det.data.cluster import IDLE, IDLE_MS

DOCKERFILE = CLUSTER / "Dockerfile"
HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str


def instructions() -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [Instruction(name, " ".join(value.split())) for name, value in lines]


def all_of(name: str) -> list[str]:
    return [instruction.value for instruction in instructions() if instruction.name == name]


def test_lint() -> None:
    result = subprocess.run([HADOLINT, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("line", ["FROM python:latest", "FROM python:3.11\nRUN pip install ray"])
def test_the_linter_finds_something(tmp_path: Path, line: str) -> None:
    (tmp_path / "Dockerfile").write_text(line + "\n")
    assert subprocess.run([HADOLINT, tmp_path / "Dockerfile"], capture_output=True).returncode != 0


def test_the_base_is_the_python_of_the_lock() -> None:
    (base,) = all_of("FROM")
    found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", base)
    assert found
    assert f"--python-version {found[1]} " in (ROOT / "Makefile").read_text()


def test_idle_processes_stay_as_long_as_on_a_machine_of_ones_own() -> None:
    assert any(f"{IDLE}={IDLE_MS}" in value for value in all_of("ENV"))


def test_it_ends_as_nobody_special() -> None:
    assert instructions()[-1].name == "USER"
    user, group = all_of("USER")[-1].split(":")
    assert (int(user), int(group)) == PODS_USER
    (setup,) = [run for run in all_of("RUN") if "useradd" in run]
    assert f"--uid {user}" in setup
    assert f"--gid {group}" in setup
    # The cloud launcher takes the home from the image's environment, and root's where there is none.
    assert any("HOME=/home/" in value for value in all_of("ENV"))


def test_only_the_lock_is_installed() -> None:
    assert not all_of("ADD")
    installs = [c.strip() for run in all_of("RUN") for c in run.split("&&") if re.search(r"\bpip install\b", c)]
    assert len(installs) == 3
    for command in installs[:2]:
        assert "--require-hashes" in command, command
    assert all("--no-deps" in command for command in installs)
    assert "--no-build-isolation" in installs[2]


def test_uv_is_taken_from_the_lock_as_the_makefile_does() -> None:
    (run,) = [run for run in all_of("RUN") if run.startswith("awk")]
    program = run.split("'")[1]
    assert program == re.search(r"awk '(.*?)'", (ROOT / "Makefile").read_text())[1].replace("$$", "$")  # type: ignore[index]
    uv = subprocess.run(["awk", program, ROOT / "requirements.lock"], check=True, capture_output=True, text=True).stdout
    assert re.match(r"uv==[\d.]+ \\\n( +--hash=sha256:\w{64}( \\)?\n)+$", uv)


def test_an_edit_of_the_code_installs_nothing_again() -> None:
    order = [f"{i.name} {i.value}" for i in instructions()]
    install = next(n for n, line in enumerate(order) if "--requirement requirements.lock" in line)
    copied = [line for line in order[:install] if line.startswith("COPY")]
    assert copied == ["COPY requirements.lock ./"]
    commit = next(n for n, line in enumerate(order) if line.startswith("ARG XRAY_DET_COMMIT"))
    assert all(not line.startswith(("RUN", "COPY")) for line in order[commit:])


def test_the_build_is_sent_what_it_copies_and_no_more() -> None:
    """Docker reads Dockerfile.dockerignore beside the Dockerfile; all but the named is left out."""
    first, *rest = [
        line
        for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    sent = {line[1:] for line in rest if line.startswith("!")}
    assert sent == {value.split()[0] for value in all_of("COPY")}
    assert all((ROOT / name).exists() for name in sent)


def test_the_commit_is_where_the_tracker_looks() -> None:
    assert "XRAY_DET_COMMIT=${XRAY_DET_COMMIT}" in all_of("ENV")[0]
    assert "XRAY_DET_COMMIT" in (ROOT / "xray_det" / "tracking" / "environment.py").read_text()
