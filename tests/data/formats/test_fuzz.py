"""Two thousand damaged files: each is read as a slow reader reads it, or refused where that one refuses it."""

import io
import json
import shutil
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.formats import mutations, slow_readers
from tests.data.formats.fuzzing import REFUSED, check
from tests.data.formats.slow_readers import Bad, Dataset
from xray_det.data.formats.detections import read_detections
from xray_det.data.formats.source import Source, open_source
from xray_det.data.schema import DETECTIONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def slow(read: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(read)
    def outcome(*given: Any) -> Any:
        try:
            return read(*given)
        except Bad:
            return REFUSED

    return outcome


def rows(source: Source) -> Dataset:
    """What a source yields, as the slow readers say it."""
    ids = [each.source_id for each in source.space.classes]
    images = {}
    for batch in source.batches(7):
        batch.validate(full=True)
        for row in batch.to_pylist():
            areas = [None] * len(row["labels"]) if row["area"] is None else row["area"]
            boxes = [
                (ids[label], tuple(box), flag, area)
                for label, box, flag, area in zip(row["labels"], row["boxes"], row["flags"], areas, strict=True)
            ]
            verified = [
                [ids[label] for label in sorted({*row[f"verified_{sign}"]})] for sign in ("positive", "negative")
            ]
            assert row["image_id"] not in images
            images[row["image_id"]] = (row["width"], row["height"], row["split"], boxes, *verified)
    graph = None if source.hierarchy is None else (list(source.hierarchy.parents), list(source.hierarchy.parts))
    return Dataset([(each.source_id, each.name) for each in source.space.classes], images, graph)


def test_voc_xml(shared_data: Path, tmp_path: Path) -> None:
    names = [
        "fod_a/Annotations/000029.xml",
        "bccd/Annotations/BloodImage_00002.xml",
        "raccoon/annotations/raccoon-1.xml",
    ]
    defects = sorted((shared_data / "real_defects").rglob("*.xml"))[::4]
    files = [path.read_bytes() for path in [*(shared_data / name for name in names), *defects]]
    xml = tmp_path / "Annotations" / "p.xml"
    xml.parent.mkdir()
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages" / "p.jpg").touch()

    def fast(data: bytes) -> Dataset:
        xml.write_bytes(data)
        return rows(open_source(tmp_path, "voc"))

    check("voc xml", files, mutations.XML, 300, fast, slow(slow_readers.voc))


def small_coco(document: dict[str, Any], images: int) -> bytes:
    """The first images of a COCO document, the boxes of these and their classes."""
    kept = document["images"][:images]
    ids = {image["id"] for image in kept}
    boxes = [box for box in document["annotations"] if box["image_id"] in ids][:20]
    used = {box["category_id"] for box in boxes}
    classes = [one for one in document["categories"] if one["id"] in used]
    return json.dumps({**document, "images": kept, "annotations": boxes, "categories": classes}).encode()


def coco_files(folder: Path) -> list[bytes]:
    names = [
        "coco_tiny/annotations/instances_val2017.json",
        "coco_tiny/format_fixtures/coco_sample.json",
        "real_defects/taco_unofficial_slice.json",
        "wider_pedestrian/val.json",
        "objects365/format_fixtures/unsorted_obj365_sample.json",
    ]
    files = [small_coco(json.loads((folder / name).read_text()), 4) for name in names]
    lvis, drawn = json.loads(files[0]), json.loads(files[0])
    held = {box["category_id"] for box in lvis["annotations"]}
    for image in lvis["images"]:
        own = {box["category_id"] for box in lvis["annotations"] if box["image_id"] == image["id"]}
        image |= {"neg_category_ids": sorted(held - own)[:3], "not_exhaustive_category_ids": sorted(own)[:1]}
    for box in drawn["annotations"]:
        del box["bbox"]
        if isinstance(box["segmentation"], dict):
            box["segmentation"] = {"size": [4, 6], "counts": [5, 3, 16]}
    return [*files, json.dumps(lvis).encode(), json.dumps(drawn).encode()]


def test_coco_json(shared_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.json"

    def fast(data: bytes) -> Dataset:
        file.write_bytes(data)
        return rows(open_source(file, images=False))

    check("coco", coco_files(shared_data), mutations.JSON, 400, fast, slow(slow_readers.coco))


def open_images_files(folder: Path) -> dict[str, list[bytes]]:
    """Small files of a release, all of the same images and classes."""
    fixtures, sample = folder / "open_images/format_fixtures", folder / "open_images/challenge_sample"
    clicks = (fixtures / "datumaro/v6/annotations/oidv6-train-annotations-bbox.csv").read_bytes()
    human = (fixtures / "datumaro/v6/annotations/oidv6-train-annotations-human-imagelabels.csv").read_bytes()
    challenge = b"\n".join((sample / "annotations-bbox_expanded.csv").read_bytes().split(b"\n")[:12]) + b"\n"
    verified = b"\n".join((sample / "annotations-human-imagelabels_expanded.csv").read_bytes().split(b"\n")[:9]) + b"\n"
    used = {row.split(b",")[1] for row in challenge.split(b"\n")[1:-1]} | {b"/m/0", b"/m/1"}
    described = (folder / "open_images/class-descriptions-boxable.csv").read_bytes().splitlines(keepends=True)
    classes = b"".join(line for line in described if line.split(b",")[0] in used) + b"/m/0,Generic 0\n/m/1,Generic 1\n"
    tree = json.loads((folder / "open_images/bbox_labels_600_hierarchy.json").read_text())
    nested = [child for child in tree["Subcategory"] if "Part" in child or "Subcategory" in child]
    graph = json.dumps({**tree, "Subcategory": nested[:3]}, indent=1).encode()
    return {
        "train-annotations-bbox.csv": [clicks, challenge],
        "train-annotations-human-imagelabels.csv": [human, verified],
        "class-descriptions-boxable.csv": [classes, b"LabelName,DisplayName\n" + classes],
        "hierarchy.json": [graph],
    }


@pytest.mark.parametrize(
    ("damaged", "number"),
    [
        ("train-annotations-bbox.csv", 250),
        ("train-annotations-human-imagelabels.csv", 150),
        ("class-descriptions-boxable.csv", 150),
        ("hierarchy.json", 150),
    ],
)
def test_open_images(damaged: str, number: int, shared_data: Path, tmp_path: Path) -> None:
    files = open_images_files(shared_data)
    whole = {name: choices[-1] for name, choices in files.items()}

    def fast(data: bytes) -> Dataset:
        for name, text in (whole | {damaged: data}).items():
            (tmp_path / name).write_bytes(text)
        return rows(open_source(tmp_path, "open_images", images=False))

    def slowly(data: bytes) -> Dataset:
        return slow_readers.open_images(*(whole | {damaged: data}).values())

    kinds = mutations.JSON if damaged.endswith("json") else mutations.CSV
    check(damaged, files[damaged], kinds, number, fast, slow(slowly))


def test_voc_lists(shared_data: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in (shared_data / "fod_a/Annotations").iterdir())[:12]
    names[3], names[5] = "café", "B b"
    for name in names:
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        shutil.copy(shared_data / "fod_a/Annotations/000029.xml", tmp_path / "Annotations" / f"{name}.xml")
    folder = tmp_path / "ImageSets/Main"
    folder.mkdir(parents=True)
    some = names[:7]
    files = [
        "\n".join(some).encode(),
        "".join(f"JPEGImages/{name}.jpg\r\n" for name in some).encode(),
        "".join(f"{name}  1\n" for name in some if " " not in name).encode(),
        "".join(f'"C:\\data\\{name}.jpg"\n' for name in some).encode("utf-16"),
    ]

    def fast(data: bytes) -> Any:
        (folder / "train.txt").write_bytes(data)
        source = open_source(tmp_path, "voc", images=False)
        split = {
            i: s
            for batch in source.batches()
            for i, s in zip(*(batch[c].to_pylist() for c in ("image_id", "split")), strict=True)
        }
        return sorted(i for i in split if split[i]), sum(kind == "listed_without_image" for kind, *_ in source.findings)

    def slowly(data: bytes) -> Any:
        listed, lost = slow_readers.voc_list(data, names)
        return sorted(listed), lost

    check("voc lists", files, mutations.TEXT, 150, fast, slow(slowly))


def detections(suffix: str, folder: Path, data: bytes) -> list[Any]:
    file = folder / f"d{suffix}"
    file.write_bytes(data)
    read = read_detections(file)
    columns = zip(read.image.tolist(), read.label.tolist(), read.boxes.tolist(), read.scores.tolist(), strict=True)
    return [(read.image_ids[image], read.class_ids[label], tuple(box), score) for image, label, box, score in columns]


def test_detections_json(shared_data: Path, tmp_path: Path) -> None:
    some = json.loads((shared_data / "metric_refs/coco_val2014_100/dets.json").read_text())[:15]
    document = {
        "images": [{"id": one["image_id"], "file_name": f"{one['image_id']}.jpg"} for one in some],
        "categories": [{"id": one["category_id"], "name": f"c{one['category_id']}"} for one in some],
        "annotations": some,
    }
    files = [json.dumps(some).encode(), json.dumps(some, indent=1).encode(), json.dumps(document).encode()]
    check(
        "detections json",
        files,
        mutations.JSON,
        250,
        partial(detections, ".json", tmp_path),
        slow(slow_readers.detections_json),
    )


def test_detections_csv(tmp_path: Path) -> None:
    rng = Random(0)
    lines = ["ImageID,LabelName,Score,XMin,XMax,YMin,YMax"]
    lines += [
        f"i{n % 4},/m/0{n % 3},{rng.random():.4f},0.1,{rng.random():.3f},0.2,{rng.random():.6f}" for n in range(9)
    ]
    files = ["\n".join(lines).encode(), "\r\n".join([*lines, ""]).encode()]
    check(
        "detections csv",
        files,
        mutations.CSV,
        200,
        partial(detections, ".csv", tmp_path),
        slow(slow_readers.detections_csv),
    )


def detections_table() -> pa.Table:
    classes = [
        {"name": n, "source_id": f"/m/{n}", "super_category": None, "aliases": [], "frequency": None} for n in "ab"
    ]
    counts = (2, 0, 3, 1)
    lists = [
        {
            "image_id": f"i{n}",
            "dataset": "d",
            "boxes": [[k, 1.5, k + 2.25, 9] for k in range(count)],
            "scores": [0.5 - k / 8 for k in range(count)],
            "labels": [k % 2 for k in range(count)],
        }
        for n, count in enumerate(counts)
    ]
    metadata = {"classes": json.dumps({"name": "d", "classes": classes})}
    return pa.Table.from_pylist(lists, DETECTIONS.with_metadata(metadata))


def test_detections_parquet(tmp_path: Path) -> None:
    out = io.BytesIO()
    pq.write_table(detections_table(), out)
    fast, slowly = partial(detections, ".parquet", tmp_path), slow(slow_readers.detections_parquet)
    check("detections parquet", [out.getvalue()], mutations.PARQUET, 150, fast, slowly)
