"""Real datasets ingest with no option beyond the path, and hold what an independent count finds in their files."""

import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from xray_det.data import ingest as ingest_module
from xray_det.data.formats.source import open_source
from xray_det.data.ingest import How, ingest, ingest_published
from xray_det.data.manifest import Manifest
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.releases import write
from xray_det.data.report import examples, repair_report
from xray_det.data.schema import BoxFlag
from xray_det.data.statistics import measure
from xray_det.errors import InputError

#: Image file -> (class name, x1, y1, x2, y2) of its boxes, as published.
Boxes = dict[str, list[tuple[str, float, float, float, float]]]


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "_ray_is_up", lambda: False)


def of_xml(folder: Path) -> Boxes:
    found: Boxes = {}
    for file in sorted(folder.rglob("*.xml")):
        found[file.stem] = [
            (o.findtext("name"), *(float(o.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")))  # type: ignore[arg-type,misc]
            for o in ET.parse(file).iter("object")
        ]
    return found


def of_json(folder: Path) -> Boxes:
    found: Boxes = {}
    for file in sorted((folder / "annotations").glob("*.json")):
        document = json.loads(file.read_text())
        names = {c["id"]: c["name"] for c in document["categories"]}
        stems = {i["id"]: Path(i["file_name"]).stem for i in document["images"]}
        found |= {stem: [] for stem in stems.values()}
        for a in document["annotations"]:
            x, y, w, h = a["bbox"]
            found[stems[a["image_id"]]].append((names[a["category_id"]], x, y, x + w, y + h))
    return found


def of_shards(manifest: Manifest) -> Boxes:
    found: Boxes = {}
    for row in (row for uri in manifest.shard_uris for row in pq.read_table(uri).to_pylist()):
        found[Path(row["image"]["path"]).stem] = [
            (manifest.space.names[label], *box)
            for box, labels in zip(row["boxes"], row["labels"], strict=True)
            for label in labels
        ]
    return found


@pytest.mark.parametrize(
    ("name", "images", "boxes", "classes", "splits"),
    [
        ("raccoon", 85, 90, 1, {"": 85}),
        ("bccd", 212, 2895, 3, {"train": 126, "val": 45, "test": 41}),
        ("fod_a", 442, 451, 31, {"trainval": 342, "test": 99, "": 1}),
        ("playing_cards", 46, 78, 6, {"train": 34, "test": 12}),
        ("coco_tiny", 38, 424, 80, {"train": 32, "val": 6}),
        ("voc2012_100", 100, 273, 20, {"": 100}),
    ],
)
def test_counts_and_boxes_are_the_published_ones(
    shared_data: Path, tmp_path: Path, name: str, images: int, boxes: int, classes: int, splits: dict[str, int]
) -> None:
    manifest = ingest(open_source(shared_data / name), str(tmp_path), progress=False)
    assert (manifest.images, manifest.boxes, len(manifest.space), manifest.splits) == (images, boxes, classes, splits)
    assert manifest.quarantined == {}
    published = (of_json if manifest.format == "coco" else of_xml)(shared_data / name)
    ours = of_shards(manifest)
    assert set(ours) == set(published)
    for stem, expected in published.items():
        ordered, found = sorted(expected), sorted(ours[stem])
        assert [box[0] for box in found] == [box[0] for box in ordered]
        np.testing.assert_allclose([b[1:] for b in found], [b[1:] for b in ordered], rtol=1e-6, atol=1e-3)
    holding = Counter(c for held in published.values() for c in {box[0] for box in held})
    if not set(manifest.repaired) & {"no_area", "repeat"}:
        assert dict(zip(manifest.space.names, manifest.images_of(), strict=True)) == {
            c: holding[c] for c in manifest.space.names
        }
    statistics = measure(manifest)
    assert (int(statistics.images), int(statistics.published_boxes)) == (images, boxes)
    np.testing.assert_array_equal(statistics.image_counts, manifest.images_of())
    for split in splits:
        of_split = measure(manifest, split)
        np.testing.assert_array_equal(of_split.image_counts, manifest.images_of(split))
        np.testing.assert_array_equal(of_split.instance_counts, manifest.instances_of(split))
        assert int(of_split.images) == manifest.splits[split]


def test_real_copies_and_grey_images_are_found(shared_data: Path, tmp_path: Path) -> None:
    manifest = ingest(open_source(shared_data / "raccoon"), str(tmp_path), progress=False)
    assert manifest.repaired == {"duplicate_image": 4, "greyscale": 3}  # as the data's own notes say


#: What real_defects/manifest.json calls a defect -> our kind. An entry may name two.
KINDS = {
    "zero-area box": "no_area",
    "zero-width box": "no_area",
    "zero area": "no_area",
    "<size> differs from image": "wrong_size",
    "0-based coordinate": "zero_based",
    "duplicate box, same label": "repeat",
    "duplicate image": "duplicate_image",
    "<filename> ": "wrong_file_name",
    "box outside image": "outside",
    "same box, two labels": "several_labels",
    "greyscale JPEG": "greyscale",
    "truncated JPEG": "truncated_image",
    "invalid EXIF orientation": "bad_exif",
    "image without annotation file": "no_annotation",
}


def test_every_real_defect_is_caught_in_its_image(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "real_defects"
    manifest = ingest(open_source(folder, "voc"), str(tmp_path), progress=False)
    named = {
        (entry["image"], kind)
        for entry in json.loads((folder / "manifest.json").read_text())
        if entry["image"]
        for text, kind in KINDS.items()
        if text in entry["defect"]
    }
    assert len(named) == 30  # 28 entries speak of images; two of them name two kinds
    reports = [pq.read_table(tmp_path / file).to_pylist() for file in ("findings.parquet", "quarantine.parquet")]
    found = {(row["path"], row["kind"]) for report in reports for row in report}
    # Of copies the later is reported and names the earlier: the pair stands in one line.
    copies = {row["detail"].split()[-1] for row in reports[0] if row["kind"] == "duplicate_image"}
    found |= {(path, "duplicate_image") for path in copies}
    assert named <= found
    # What else is found was looked up by hand: more files that call themselves .xml, and one more flat box.
    assert {kind for _, kind in found - named} <= {"wrong_file_name"}
    assert manifest.quarantined == {"no_annotation": 2, "truncated_image": 1}
    kept = set(of_xml(folder)) - {"00090"}
    assert manifest.images == 25
    assert set(of_shards(manifest)) == kept
    for row in (row for uri in manifest.shard_uris for row in pq.read_table(uri).to_pylist()):
        for box, flags in zip(row["boxes"], row["flags"], strict=True):
            x1, y1, x2, y2 = np.clip(box, 0, [row["width"], row["height"]] * 2)
            assert bool(flags & BoxFlag.NO_AREA) == (x2 <= x1 or y2 <= y1)


def test_lvis_lists_reach_the_shards_and_the_manifest_says_what_they_are(shared_data: Path, tmp_path: Path) -> None:
    """coco_tiny's validation images in LVIS's form: what each says of its classes, and the classes' frequency."""
    from xray_det.data.annotations import Annotations, Selection
    from xray_det.evaluation.assess import own_protocol
    from xray_det.evaluation.parts import truth_of

    published = json.loads((shared_data / "coco_tiny/annotations/instances_val2017.json").read_text())
    for image in published["images"]:
        held = sorted({a["category_id"] for a in published["annotations"] if a["image_id"] == image["id"]})
        absent = [c["id"] for c in published["categories"] if c["id"] not in held][:3]
        image |= {"coco_url": f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"}
        image |= {"neg_category_ids": absent, "not_exhaustive_category_ids": held[:1]}
    for number, category in enumerate(published["categories"]):
        category["frequency"] = "rcf"[number % 3]
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis/val2017").symlink_to(shared_data / "coco_tiny/val2017")
    (tmp_path / "lvis/lvis_v1_val.json").write_text(json.dumps(published))
    made = ingest_published([tmp_path / "lvis"], str(tmp_path / "out"), progress=False)
    assert (made.format, made.exhaustive, made.images, own_protocol(made)) == ("lvis", False, 6, "lvis")
    assert Manifest.load(made.folder) == made
    assert [c.frequency for c in made.space.classes[:4]] == ["r", "c", "f", "r"]
    ids = [c.source_id for c in made.space.classes]
    rows = {row["image_id"]: row for uri in made.shard_uris for row in pq.read_table(uri).to_pylist()}
    for image in published["images"]:
        row = rows[str(image["id"])]
        assert [int(ids[label]) for label in row["verified_negative"]] == image["neg_category_ids"]
        assert [int(ids[label]) for label in row["not_exhaustive"]] == image["not_exhaustive_category_ids"]
    # the annotations that a training maps, and the truth that it is measured against, have them too
    annotations = Annotations.open([Selection(folder=made.folder)])
    table = annotations.take(np.arange(6))
    assert sum(len(lists) for lists in table["not_exhaustive"].to_pylist()) == 6
    truth = truth_of(annotations.batch, made)
    assert (len(truth.verified), len(truth.not_exhaustive), truth.exhaustive) == (18, 6, False)


def test_both_releases_of_the_miniature_come_through_whole(tmp_path: Path) -> None:
    """Patches, fractions of the image, image-level labels, a hierarchy: and exactly the planted defects."""
    small = Miniature(classes=8, images=60, validation_images=12, defects=1)
    releases = write(tmp_path / "miniature", small, progress=False)
    for folder, exhaustive in ((releases.objects365, True), (releases.open_images, False)):
        made = ingest_published([folder], str(tmp_path / folder.name), progress=False)
        planted = dict(releases.planted[folder.name])
        assert made.quarantined == {"truncated_image": planted.pop("truncated_image")}
        assert made.repaired == planted
        assert made.exhaustive == exhaustive
        assert (made.hierarchy is None) == exhaustive
        assert Manifest.load(made.folder) == made
        rows = [row for uri in made.shard_uris for row in pq.read_table(uri).to_pylist()]
        assert any(row["verified_negative"] for row in rows) != exhaustive
        for row in rows:
            assert Path(row["image"]["path"]).is_file()
            for box, flags in zip(row["boxes"], row["flags"], strict=True):
                if not flags & BoxFlag.NO_AREA:  # in pixels, whatever was published
                    assert box[2] - box[0] > 2
                    assert box[3] - box[1] > 2


def test_lists_are_counted_by_line_and_image(shared_data: Path, tmp_path: Path) -> None:
    """Each kind with an example, and an error where any defect is one."""
    source = shared_data / "field_cases/voc_lists_overlap/d"
    manifest = ingest_published([source], str(tmp_path / "out"), progress=False)
    kinds = ("in_no_list", "in_two_lists", "listed_twice", "listed_without_image")
    assert {kind: manifest.repaired[kind] for kind in kinds} == dict.fromkeys(kinds, 1)
    assert manifest.splits == {"train": 3, "val": 1, "": 1}
    shown = examples(manifest.folder)
    assert shown["listed_without_image"] == "ImageSets/Main/train.txt: line 5, 'ghost', fits no image"
    assert shown["in_two_lists"] == "JPEGImages/b1.jpg: in the lists of train and val, taken for train"
    with pytest.raises(InputError, match=r"in_no_list 1, in_two_lists 1, listed_twice 1, listed_without_image 1"):
        ingest_published([source], str(tmp_path / "strict"), How(strict=True), progress=False)


@pytest.mark.parametrize("pack", [False, True])
def test_images_behind_links_are_read_and_counted(shared_data: Path, tmp_path: Path, pack: bool) -> None:
    store, voc = shared_data / "field_cases/symlink_voc/store", tmp_path / "voc"
    voc.mkdir()
    (voc / "Annotations").symlink_to(store / "xml")
    (voc / "JPEGImages").symlink_to(store / "pics")
    manifest = ingest_published([voc], str(tmp_path / "out"), How(pack=pack), progress=False)
    assert (manifest.images, manifest.repaired["outside_link"], manifest.quarantined) == (4, 4, {})
    found = pq.read_table(tmp_path / "out/findings.parquet").to_pylist()
    linked = {row["path"]: row["detail"] for row in found if row["kind"] == "outside_link"}
    assert linked == {f"JPEGImages/p{n}.jpg": f"it lies at {store.resolve()}/pics/p{n}.jpg" for n in range(4)}
    said = [line for line in repair_report(manifest) if "behind links" in str(line)]
    assert said == ["4 of the packed images, or their annotations, lay behind links out of the dataset's folder"] * pack
    with pytest.raises(InputError, match="outside_link"):
        ingest_published([voc], str(tmp_path / "strict"), How(strict=True), progress=False)


def test_names_that_unicode_composes_otherwise(shared_data: Path, tmp_path: Path) -> None:
    manifest = ingest_published([shared_data / "field_cases/nfd_names/d"], str(tmp_path), progress=False)
    assert (manifest.images, manifest.boxes, manifest.repaired, manifest.quarantined) == (3, 3, {}, {})
