"""What the preflight concludes from what the nodes saw, and what a job would upload."""

import logging
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xray_det.errors import InputError
from xray_det.orchestrate import verdicts
from xray_det.orchestrate.inspection import Disk, Seen
from xray_det.orchestrate.preflight import Finding, require
from xray_det.orchestrate.survey import Later
from xray_det.orchestrate.upload import LIMIT_BYTES, Upload, measure_upload
from xray_det.orchestrate.verdicts import Node

GB = 10**9


def seen(**changes: Any) -> Seen:
    """A node where all is well."""
    sound = Seen(
        host="a",
        storage="",
        data={"squares": ""},
        home="/home/xray_det",
        home_problem="",
        home_shared=True,
        versions={"python": "3.11", "torch": "2.9.0"},
        source={"xray_det/a.py": "1", "xray_det/b.py": "2"},
        disks=(Disk(uses=("runs",), folder="/runs", free=500 * GB, total=900 * GB),),
        gpus=None,
        clock=0.0,
        seconds=0.1,
    )
    return replace(sound, **changes)


def told(findings: Any) -> list[tuple[str, bool | None, str]]:
    return [(finding.where, finding.ok, finding.detail) for finding in findings]


def test_storage_that_is_not_shared_is_told_from_what_may_not_be_written() -> None:
    nodes = {
        "a": seen(),
        "b": seen(storage="unseen"),
        "c": seen(storage="unreadable: cannot be read (Permission denied)"),
        "d": seen(storage="unwritable: cannot be written (Read-only file system)"),
        "e": seen(storage="unanswered"),
    }
    findings = list(verdicts.judge_storage(nodes, "/runs"))
    assert told(findings) == [
        ("a", True, "/runs is read and written"),
        ("b", False, "/runs is not shared: this node does not see what the driver writes"),
        ("c", False, "/runs is shared, but cannot be read (Permission denied) on this node"),
        ("d", False, "/runs is shared, but cannot be written (Read-only file system) on this node"),
        ("e", False, "/runs is not shared: the driver does not see what this node writes"),
    ]
    assert findings[1].remedy.startswith("Give --out s3://BUCKET/FOLDER, or a folder that every node mounts")
    assert findings[2].remedy.startswith("Give this node the right to read there")
    assert findings[3].remedy.startswith("Give this node the right to write there")


def test_a_home_must_be_writable_on_the_nodes_that_work() -> None:
    def judged(nodes: dict[str, tuple[float, Seen]]) -> list[bool | None]:
        counted = {name: Node(name=name, cpus=cpus, gpus=0.0) for name, (cpus, _) in nodes.items()}
        return [
            finding.ok for finding in verdicts.judge_home({name: there for name, (_, there) in nodes.items()}, counted)
        ]

    full = seen(home_problem="No space left on device")
    assert judged({"a": (2, seen()), "b": (2, seen(home_shared=False))}) == [True, True]
    assert judged({"a": (0, full), "b": (2, full)}) == [True, False]


def test_versions_and_source_that_differ_are_named() -> None:
    own = seen()
    nodes = {
        "same": own,
        "old": replace(own, versions={"python": "3.12", "torch": "2.8.0"}),
        "none": replace(own, versions={"python": "3.11"}),
        "build": replace(own, versions={"python": "3.11", "torch": "2.9.0+cpu"}),
        "edited": replace(own, source={"xray_det/a.py": "1", "xray_det/b.py": "3"}),
        "other": replace(own, source={"xray_det/c.py": "1"}),
    }
    findings = list(verdicts.judge_versions(nodes, own.versions, own.source))
    assert told(findings) == [
        ("same", True, "python 3.11, torch 2.9.0, xray_det 2 files"),
        ("old", False, "python 3.12 (the driver: 3.11); torch 2.8.0 (the driver: 2.9.0)"),
        ("none", False, "torch none (the driver: 2.9.0)"),
        ("build", None, "another build: torch 2.9.0+cpu (the driver: 2.9.0)"),
        ("edited", False, "another xray_det than the driver's: xray_det/b.py"),
        ("other", False, "another xray_det than the driver's: xray_det/a.py and 2 more"),
    ]
    assert findings[1].remedy == "Install the same on every node: one image, or the lock file and one commit"


def test_gpus_that_ray_hands_out_but_are_not_there() -> None:
    gpus = {"cpu": 0, "sound": 2, "half": 2, "none": 2, "build": 1}
    counted = {name: Node(name=name, cpus=8, gpus=count) for name, count in gpus.items()}
    nodes = {
        "cpu": seen(gpus=0),
        "sound": seen(gpus=2),
        "half": seen(gpus=1),
        "none": seen(gpus=None),
        "build": seen(gpus=1, versions={"torch": "2.9.0+cpu"}),
    }
    assert told(verdicts.judge_gpus(nodes, counted)) == [
        ("sound", True, "2"),
        ("half", False, "Ray hands out 2 GPUs, nvidia-smi lists 1"),
        ("none", False, "Ray hands out 2 GPUs, nvidia-smi does not run"),
        ("build", False, "torch 2.9.0+cpu cannot use the 1 GPUs"),
    ]


def test_clocks_that_differ_are_a_warning() -> None:
    assert [finding.ok for finding in verdicts.judge_clocks({"a": 0.0, "b": -4.0})] == [True, True]
    findings = list(verdicts.judge_clocks({"a": -0.1, "b": 7.0}))
    assert told(findings)[1] == ("b", None, "+7.0 s against the driver; nodes differ by 7.1 s")
    assert "NTP" in findings[0].remedy
    assert list(verdicts.judge_clocks({})) == []


def test_disks_with_little_room_are_told_with_numbers() -> None:
    def judged(*disks: Disk, object_store: float = 0.0) -> tuple[str, bool | None, str]:
        counted = {"a": Node(name="a", cpus=1, gpus=0, object_store=object_store)}
        return told(verdicts.judge_disks({"a": seen(disks=disks)}, counted))[0]

    runs = Disk(uses=("runs", "temporary files"), folder="/runs", free=500 * GB, total=900 * GB)
    assert judged(runs) == ("a", True, "500 GB free on /runs")
    little = replace(runs, free=2 * GB)
    assert judged(little) == ("a", None, "2.0 GB free of 900 GB on /runs (runs, temporary files)")
    assert judged(replace(runs, free=10**7))[1] is False
    full = replace(runs, uses=("Ray's session",), free=30 * GB)
    assert judged(full) == ("a", None, "/runs is 96.7% full: Ray writes no objects to a disk over 95%")
    shm = Disk(uses=("shared memory",), folder="/dev/shm", free=64 * 10**6, total=64 * 10**6)
    assert judged(shm, object_store=8 * GB) == (
        "a",
        None,
        "/dev/shm has 64 MB for Ray's 8.0 GB of objects, which lie on a disk then and are slow "
        "(containers: --shm-size 8g)",
    )


def test_failures_are_one_error_that_says_them_all() -> None:
    fine, warning = verdicts.good("clocks", "a", "+0.0 s"), verdicts.warn("disk", "a", "2 GB", "Free space")
    require([fine, warning])
    storage_fails = verdicts.bad("storage", "b", "/runs is not shared", "Give --out s3://")
    with pytest.raises(InputError, match=r"^storage, b: /runs is not shared\. Give --out s3://$"):
        require([fine, storage_fails])
    data_fails = verdicts.bad("data", "c", "/data: gone", "Mount it")
    with pytest.raises(InputError) as caught:
        require([storage_fails, warning, data_fails])
    assert str(caught.value) == (
        "preflight: 2 checks failed\n  storage, b: /runs is not shared. Give --out s3://"
        "\n  data, c: /data: gone. Mount it\n. Mend these first"
    )


def test_a_look_that_hangs_is_a_failure_after_a_while() -> None:
    began = time.monotonic()
    found = Later("storage", lambda: time.sleep(30)).result(0.1)
    assert isinstance(found, Finding)
    assert (found.ok, found.detail) == (False, "no answer within 0.1 s")
    assert time.monotonic() - began < 10
    with pytest.raises(ZeroDivisionError):
        Later("data", lambda: 1 // 0).result(10)


# Upload


def test_an_upload_is_what_ray_would_send(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path / "work"
    for name, length in {
        "train.py": 100,
        "notes/big.bin": 5000,
        "runs/weights.bin": 10**6,
        "deep/.gitignore": 0,
        "deep/kept.txt": 10,
        "deep/left.tmp": 10**6,
        ".git/objects/a": 10**6,
        ".venv/lib.so": 10**6,
        "data.raw": 10**6,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * length)
    (folder / ".gitignore").write_text("runs/\n")
    (folder / ".rayignore").write_text("*.raw\n")
    (folder / "deep" / ".gitignore").write_text("*.tmp\n")
    found = measure_upload(folder)
    package = tmp_path / "package.zip"
    excludes = [".git", ".venv", "venv", "__pycache__"]
    create_package(str(folder), package, include_gitignore=True, excludes=excludes, logger=logging.getLogger("quiet"))
    sent = [info for info in zipfile.ZipFile(package).infolist() if not info.is_dir()]
    assert found.files == len(sent)
    assert found.bytes == sum(info.file_size for info in sent)
    assert found.largest[0] == (5000, "notes/big.bin")
    assert verdicts.judge_upload("work", found).ok is True
    assert not measure_upload(folder, patience_s=-1.0).whole


def test_an_upload_that_is_large_names_the_largest_files() -> None:
    upload = Upload(bytes=6 * 10**6, files=3, largest=((5 * 10**6, "a.bin"), (9 * 10**5, "b.bin")), whole=True)
    finding = verdicts.judge_upload("work", upload)
    assert (finding.ok, finding.detail) == (None, "6.0 MB in 3 files; largest: a.bin (5.0 MB), b.bin (900 kB)")
    assert ".gitignore" in finding.remedy
    finding = verdicts.judge_upload("work", replace(upload, bytes=LIMIT_BYTES))
    assert finding.ok is False
    assert finding.detail.startswith("537 MB in 3 files, Ray takes 537 MB; largest: a.bin")
    assert verdicts.judge_upload("work", replace(upload, bytes=10, whole=False)).ok is None
