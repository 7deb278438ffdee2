"""What a run ran on is known with and without a checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xray_det.tracking import environment


def test_the_commit_given_by_whoever_submits_a_job_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAY_DET_COMMIT", "abc123")
    tags = environment.environment_tags()
    assert tags["commit"] == tags["mlflow.source.git.commit"] == "abc123"


def test_commit_of_a_checkout_a_changed_one_and_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XRAY_DET_COMMIT", raising=False)
    checkout = tmp_path / "checkout"
    (checkout / "xray_det").mkdir(parents=True)
    monkeypatch.setattr(environment, "ROOT", checkout)
    monkeypatch.setattr(environment, "_installed_from", list)
    assert environment.commit() == "unknown"

    def git(*arguments: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.check_output(["git", "-C", str(checkout), *options, *arguments], text=True).strip()

    git("init", "-q")
    module = checkout / "xray_det" / "a.py"
    module.write_text("1")
    table = checkout / "experiments" / "results" / "study.json"
    table.parent.mkdir(parents=True)
    table.write_text("{}")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert environment.commit() == head
    module.write_text("2")
    assert environment.commit() == f"{head}-dirty"
    module.write_text("1")
    table.write_text('{"written": "by a study"}')
    assert environment.commit() == head

    # A copy inside another checkout must not claim that one's commit...
    copy = checkout / "copy"
    shutil.copytree(checkout / "xray_det", copy / "xray_det")
    monkeypatch.setattr(environment, "ROOT", copy)
    assert environment.commit() == "unknown"
    # ... but knows the commit of the checkout it was installed from, as long as the source is the same.
    monkeypatch.setattr(environment, "_installed_from", lambda: [checkout])
    assert environment.commit() == head
    (copy / "xray_det" / "a.py").write_text("3")
    assert environment.commit() == "unknown"


def test_source_digest_follows_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    package = tmp_path / "xray_det"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    before = environment.source_digest()
    assert environment.source_digest() == before
    (package / "a.py").write_text("x = 2\n")
    changed = environment.source_digest()
    (package / "a.py").rename(package / "b.py")
    assert len({before, changed, environment.source_digest()}) == 3


def test_tags_name_versions_and_machine() -> None:
    tags = environment.environment_tags()
    assert tags["python"] == sys.version.split()[0]
    assert {"version.torch", "version.ray", "version.mlflow", "cpu", "gpu", "host"} <= set(tags)
    assert all(isinstance(value, str) and value for value in tags.values())
