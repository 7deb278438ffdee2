"""Ingest: the same folder whatever disturbs it, everything found is named, and what cannot be trusted is refused."""

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_source import IMAGES, MadeSource, jpeg

from xray_det.data import ingest as ingest_module
from xray_det.data.ingest import How, each, ingest, ingest_published
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError

QUIET = {"progress": False, "rows": 4}


@pytest.fixture(autouse=True)
def _without_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are examined in this process unless a test asks for the cluster: the other way is tested there."""
    if "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr(ingest_module, "_WORTH_RAY", 10**9)
        monkeypatch.setattr(ingest_module, "_ray_is_up", lambda: False)


@pytest.fixture
def source(tmp_path: Path) -> MadeSource:
    return MadeSource(tmp_path / "published")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_counts_names_and_keeps(source: MadeSource, tmp_path: Path) -> None:
    manifest = ingest(source, str(tmp_path / "out"), phash=True, **QUIET)
    assert manifest == Manifest.load(str(tmp_path / "out"))
    assert manifest.quarantined == {"missing_image": 1, "truncated_image": 1}
    assert manifest.repaired == {
        "alike_in_two_splits": 1,
        "duplicate_image": 2,
        "greyscale": 1,
        "in_two_splits": 1,
        "no_area": 1,
        "outside": 1,
        "repeat": 1,
        "several_labels": 1,
    }
    kept = [k for k in range(IMAGES) if k not in (3, 5)]
    assert manifest.images == len(kept) == sum(s.rows for s in manifest.shards)
    assert manifest.boxes == sum(len(source.boxes[k]) for k in kept)
    assert manifest.splits == {"train": 14, "val": 7}
    trained = {k: source.labels[k] for k in kept} | {9: [0], 10: []}
    assert manifest.instances_of().tolist() == [sum(labels.count(c) for labels in trained.values()) for c in range(3)]
    assert manifest.images_of().tolist() == [sum(c in labels for labels in trained.values()) for c in range(3)]
    assert manifest.unused_classes == ("unused",)

    rows = [row for uri in manifest.shard_uris for row in pq.read_table(uri).to_pylist()]
    assert [row["image_id"] for row in rows] == [f"image/{k}" for k in kept]
    assert [row["image"]["path"] for row in rows] == [str(source.root / f"{k}.jpg") for k in kept]
    found = {
        (r["kind"], r["image_id"]): r["detail"] for r in pq.read_table(tmp_path / "out/findings.parquet").to_pylist()
    }
    assert found["duplicate_image", "image/7"] == "the same bytes as 2.jpg (train)"
    assert found["in_two_splits", "image/17"] == "the same bytes as 1.jpg (train)"
    assert found["alike_in_two_splits", "image/18"].endswith("looks like 4.jpg (train)")
    lost = pq.read_table(tmp_path / "out/quarantine.parquet").to_pylist()
    assert [(r["path"], r["kind"]) for r in lost] == [("3.jpg", "truncated_image"), ("5.jpg", "missing_image")]
    digests = pq.read_table(tmp_path / "out/digests.parquet").to_pylist()
    assert [d["bytes"] for d in digests] == [len(source.files[k]) for k in kept]
    assert not (tmp_path / "out/work").exists()


def test_the_fingerprint_is_of_the_content(source: MadeSource, tmp_path: Path) -> None:
    def of(made: MadeSource, out: str, **options: object) -> str:
        return ingest(made, str(tmp_path / out), **{**QUIET, **options}).fingerprint

    same = of(source, "a")
    elsewhere = MadeSource(tmp_path / "another place")
    assert {
        of(source, "b", rows=5),
        of(source, "c", rows=100),
        of(source, "d", pack=True, pack_bytes=3000),
        of(source, "e", phash=True),
        of(source, "f", name="other"),
        of(elsewhere, "g"),
    } == {same}
    moved = MadeSource(tmp_path / "moved")
    moved.boxes[20][0][2] += 0.25
    relabelled = MadeSource(tmp_path / "relabelled")
    relabelled.labels[20][0] = 2
    repainted = MadeSource(tmp_path / "repainted")
    (repainted.root / "21.jpg").write_bytes(jpeg(99))
    incomplete = MadeSource(tmp_path / "incomplete", exhaustive=False)
    changed = [of(m, m.root.name + "-out") for m in (moved, relabelled, repainted, incomplete)]
    assert len({same, *changed}) == 5


def test_a_finished_folder_is_not_read_again(source: MadeSource, tmp_path: Path) -> None:
    first = ingest(source, str(tmp_path / "out"), **QUIET)

    def never(rows: int = 0) -> Iterator[None]:
        raise AssertionError("read again")

    source.batches = never  # type: ignore[assignment]
    assert ingest(source, str(tmp_path / "out"), **QUIET) == first


def test_another_source_or_other_options_are_refused(source: MadeSource, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    ingest(source, out, **QUIET)
    with pytest.raises(InputError, match="pack was False and is True"):
        ingest(source, out, pack=True, **QUIET)
    with pytest.raises(InputError, match="paths was"):
        ingest(MadeSource(tmp_path / "other"), out, **QUIET)
    os.utime(source.root / "notes.txt", (1, 1))
    assert ingest(source, out, **QUIET).images == 21  # a new time, the same bytes
    (source.root / "notes.txt").write_text("annotations!")
    with pytest.raises(InputError, match=r"annotation files in .* have changed"):
        ingest(source, out, **QUIET)


def test_a_link_to_nothing_among_the_annotations_is_none(source: MadeSource, tmp_path: Path) -> None:
    (source.root / "lost.txt").symlink_to("gone.txt")
    first = ingest(source, str(tmp_path / "out"), **QUIET)
    (source.root / "lost.txt").unlink()
    assert ingest(source, str(tmp_path / "out"), **QUIET) == first


def test_a_published_path_is_not_opened_again(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its folder, or by one of its annotation files: then others beside it do not matter."""
    for file in (shared_data / "coco_tiny").rglob("*.*"):  # not copytree: the shared data may be read-only
        copy = tmp_path / "coco" / file.relative_to(shared_data / "coco_tiny")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (validation,) = (tmp_path / "coco/annotations").glob("*val*")
    whole, part = tmp_path / "whole", tmp_path / "part"
    monkeypatch.chdir(tmp_path)
    assert ingest_published([Path("coco")], str(whole), progress=False).images == 38
    assert ingest_published([validation], str(part), How(name="val"), progress=False).images == 6
    with monkeypatch.context() as patch:
        patch.setattr("xray_det.data.formats.source.open_source", None)
        assert ingest_published([tmp_path / "coco"], str(whole), format="coco", progress=False).images == 38
        assert ingest_published([validation], str(part), How(name="val", max_quarantined=0), progress=False).images == 6
    with pytest.raises(InputError, match="name was 'val'"):
        ingest_published([validation], str(part), progress=False)
    (other,) = set((tmp_path / "coco/annotations").iterdir()) - {validation}
    other.write_text(other.read_text() + " ")
    with pytest.raises(InputError, match="have changed"):
        ingest_published([tmp_path / "coco"], str(whole), progress=False)
    with monkeypatch.context() as patch:
        patch.setattr("xray_det.data.formats.source.open_source", None)
        assert ingest_published([validation], str(part), How(name="val"), progress=False).images == 6


@pytest.mark.parametrize("bad", [{"max_quarantined": 1.5}, {"max_quarantined": -0.1}, {"rows": 0}, {"pack_bytes": 0}])
def test_impossible_options_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        How(**bad)


def test_strict_names_file_and_kind_and_publishes_nothing(source: MadeSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"3\.jpg: truncated_image .*; in all .*duplicate_image 2.*missing_image 1"):
        ingest(source, str(out), strict=True, **QUIET)
    assert not (out / "manifest.json").exists()
    ingest(source, str(out), **QUIET)
    with pytest.raises(InputError, match="truncated_image"):
        ingest(source, str(out), strict=True, **QUIET)
    clean = MadeSource(tmp_path / "clean", clean=True)
    assert ingest(clean, str(tmp_path / "clean-out"), strict=True, phash=True, **QUIET).images == IMAGES


@pytest.mark.parametrize("pack", [False, True])
def test_after_a_refusal_mended_images_are_looked_at_again(source: MadeSource, tmp_path: Path, pack: bool) -> None:
    out = str(tmp_path / "out")
    for k in (9, 10, 11, 12):  # what stands in the annotations cannot be mended without changing these
        source.boxes[k], source.labels[k] = [[1, 1, 9, 9]], [0]
    with pytest.raises(InputError, match="truncated_image"):
        ingest(source, out, strict=True, pack=pack, **QUIET)
    for k in (3, 5, 6, 7, 17, 18):
        (source.root / f"{k}.jpg").write_bytes(jpeg(k))
    manifest = ingest(source, out, strict=True, pack=pack, **QUIET)
    assert (manifest.images, manifest.repaired, manifest.quarantined) == (IMAGES, {}, {})
    assert manifest.fingerprint == ingest(source, str(tmp_path / "fresh"), **QUIET).fingerprint


def test_too_many_quarantined_images_are_refused(source: MadeSource, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 of 23 annotated images .* for example 3\.jpg: truncated_image"):
        ingest(source, str(tmp_path / "out"), max_quarantined=0.05, **QUIET)
    assert ingest(source, str(tmp_path / "out"), max_quarantined=0.1, **QUIET).images == 21
    for k in range(10, 23):
        (source.root / f"{k}.jpg").unlink()
    (tmp_path / "a file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        ingest(source, str(tmp_path / "a file/out"), **QUIET)
    with pytest.raises(InputError, match="15 of 23"):  # more than ten, and than a tenth
        ingest(source, str(tmp_path / "half"), **QUIET)
    for k in range(10):
        (source.root / f"{k}.jpg").unlink(missing_ok=True)
    with pytest.raises(InputError, match="not one image can be used"):
        ingest(source, str(tmp_path / "none"), max_quarantined=1.0, **QUIET)
    (source.root / "images.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"images\.zip: it is packed"):
        ingest(source, str(tmp_path / "none"), max_quarantined=1.0, **QUIET)


def test_an_empty_source_is_refused(source: MadeSource, tmp_path: Path) -> None:
    source.batches = lambda rows=0: iter(())  # type: ignore[assignment]
    with pytest.raises(InputError, match="holds no image"):
        ingest(source, str(tmp_path / "out"), **QUIET)


def test_a_worker_process_imports_what_it_needs_alone() -> None:
    """Importing torch costs each worker process seconds, Ray and readers it gets or never needs."""
    heavy = "{'torch', 'torchvision', 'ray', 'matplotlib', 'scipy', 'msgspec', 'datasets'}"
    said = f"import sys, xray_det.data.ingest, xray_det.data.statistics; sys.exit(str({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True)
    assert ended.stderr.strip() == "set()"


KILLED = """
import os, random, signal, sys
from pathlib import Path
import pandas, pyarrow.dataset  # imported on first use otherwise, by every child anew
from PIL import Image
Image.init()
sys.path.insert(0, sys.argv[1])
from made_source import MadeSource
from xray_det.data import ingest

ingest._WORTH_RAY = 10**9  # examined in this process, so that one signal ends all of it
rng, runs = random.Random(7), 0
source, out = MadeSource(Path(sys.argv[2])), sys.argv[3]
replace = os.replace
while runs < 100:
    after, before_rename = rng.randint(2, 6), rng.random() < 0.5
    child = os.fork()
    if child == 0:
        left = after
        def dying(a, b):
            global left
            left -= 1
            if left == 0 and before_rename:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(a, b)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = dying
        ingest.ingest(source, out, rows=4, pack=True, pack_bytes=4000, progress=False)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    runs += 1
    if os.WIFEXITED(status):
        sys.exit("failed" if status else f"runs {runs}")
    assert os.WTERMSIG(status) == signal.SIGKILL
"""


@pytest.mark.medium
def test_killed_again_and_again_it_ends_with_the_same_folder(source: MadeSource, tmp_path: Path) -> None:
    """SIGKILL after every 2 to 6 files written, before or after the last one's rename, until a run comes through."""
    options = {"pack": True, "pack_bytes": 4000, **QUIET}
    undisturbed = ingest(source, str(tmp_path / "undisturbed"), **options)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(source.root), str(tmp_path / "killed")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    runs = int(ended.stderr.split("runs ")[1])
    assert runs >= 8, "it was hardly disturbed"
    assert Manifest.load(str(tmp_path / "killed")).fingerprint == undisturbed.fingerprint
    killed, calm = contents(tmp_path / "killed"), contents(tmp_path / "undisturbed")
    partial = [name for name in killed if name.endswith(".partial")]
    assert {name for name in killed if name not in partial} == set(calm)
    placed = {"source.json"} | {name for name in calm if name.startswith("shards/")}  # these name the folder
    assert all(killed[name] == calm[name] for name in set(calm) - placed)


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from made_source import MadeSource
from xray_det.data.ingest import ingest
ingest(MadeSource(Path(sys.argv[2])), sys.argv[3], rows=1, progress=False)
"""


@pytest.mark.slow
def test_a_killed_driver_of_ray_data_is_gone_on_with(source: MadeSource, tmp_path: Path) -> None:
    """SIGKILL ends the driver while its tasks run; the tasks' half-written files do no harm."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(source.root), str(out)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished = out / "work/findings"
    while driver.poll() is None and len(list(finished.glob("*.parquet"))) < 4:
        time.sleep(0.002)
    driver.kill()
    driver.wait()
    assert not (out / "manifest.json").exists(), "it was too late"
    undisturbed = ingest(source, str(tmp_path / "undisturbed"), **{**QUIET, "rows": 1})
    assert ingest(source, str(out), **{**QUIET, "rows": 1}).fingerprint == undisturbed.fingerprint
    shards_of = [
        {n: b for n, b in contents(f).items() if n.startswith("shards")} for f in (out, tmp_path / "undisturbed")
    ]
    assert shards_of[0] == shards_of[1]


def test_a_full_disk_is_said_clearly(source: MadeSource, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the end of the disk: writes fail with an errno the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(InputError, match=r"cannot be written .* Free space"):
            ingest(source, str(tmp_path / "out"), **{**QUIET, "rows": 23})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out/manifest.json").exists()
    assert ingest(source, str(tmp_path / "out"), **{**QUIET, "rows": 23}).images == 21  # space was made


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [8, 36, 60, 80])
def test_a_disk_that_fills_up_on_the_way(source: MadeSource, tmp_path: Path, kilobytes: int) -> None:
    """Full while reading, while examining, while packing."""
    with small_disk(tmp_path / "disk", kilobytes):
        with pytest.raises(InputError, match=r"cannot be written .*No space left"):
            ingest(source, str(tmp_path / "disk/out"), pack=True, **QUIET)
        assert not (tmp_path / "disk/out/manifest.json").exists()


@pytest.mark.medium
def test_each_yields_all_and_brings_errors_home(ray_cluster: None) -> None:
    def echo_or_refuse(job: int) -> int:  # here, so that it travels by value: workers do not import tests
        if job == 17:
            raise InputError("job 17", "is unlucky", "Leave it out")
        return job

    assert Counter(each(echo_or_refuse, [*range(17), 5])) == Counter([*range(17), 5])
    with pytest.raises(InputError, match="job 17: is unlucky"):
        list(each(echo_or_refuse, list(range(20))))


@pytest.mark.medium
def test_ray_data_makes_the_same_folder(source: MadeSource, tmp_path: Path, ray_cluster: None) -> None:
    """Parallel tasks end in any order; the folder is that of one process, byte for byte."""
    options = {"pack": True, "pack_bytes": 4000, **QUIET}
    parallel = ingest(source, str(tmp_path / "out"), **options)
    (tmp_path / "out").rename(tmp_path / "parallel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_module, "_WORTH_RAY", 10**9)
        patch.setattr(ingest_module, "_ray_is_up", lambda: False)
        alone = ingest(source, str(tmp_path / "out"), **options)
    assert parallel == alone
    assert contents(tmp_path / "parallel") == contents(tmp_path / "out")


FIELD: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "coco_fractions": (3, {"fractions": 3}, {}),
    "cvat_custom_subset": (4, {}, {}),
    "deep_images": (12, {"deep_image": 3, "greyscale": 3}, {"unreadable_image": 1}),
    "labelstudio_url": (3, {"wrong_file_name": 3}, {}),
    "oi_classes_latin1": (8, {}, {}),
    "roboflow_root_same_name": (9, {}, {}),
    "seg_only": (2, {"from_segmentation": 2}, {}),
}


@pytest.mark.parametrize("name", FIELD)
def test_datasets_as_people_have_them(shared_data: Path, tmp_path: Path, name: str) -> None:
    images, repaired, quarantined = FIELD[name]
    manifest = ingest_published([shared_data / "field_cases" / name / "d"], str(tmp_path), How(), progress=False)
    assert (manifest.images, manifest.repaired, manifest.quarantined) == (images, repaired, quarantined)
    unused = {"roboflow_root_same_name": {"fish (id 0)"}, "coco_fractions": {"cat", "dog"}}
    assert unused.get(name, set()) <= set(manifest.unused_classes)
