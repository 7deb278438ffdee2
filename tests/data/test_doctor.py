"""Every defect of the real defective files is found by kind in the right image; nothing is altered."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from xray_det.data.defect import QUARANTINED, Defect, noted, parse_note
from xray_det.data.doctor import FINDINGS, QUARANTINE, Examined, examine
from xray_det.data.formats.rows import counts_to_offsets, published
from xray_det.data.formats.source import Source, open_source
from xray_det.data.schema import SHARD, BoxFlag

#: What the manifest calls a defect -> its kinds; an image may have more than is listed.
KINDS = {
    "zero-area box": {Defect.NO_AREA},
    "zero-width box": {Defect.NO_AREA},
    "<size> differs from image": {Defect.WRONG_SIZE},
    "0-based coordinate": {Defect.ZERO_BASED},
    "duplicate box, same label, zero area": {Defect.REPEAT, Defect.NO_AREA},
    "duplicate image bytes": {Defect.DUPLICATE_IMAGE},
    "<filename> names the xml": {Defect.WRONG_FILE_NAME},
    "box outside image": {Defect.OUTSIDE},
    "duplicate box, same label": {Defect.REPEAT},
    "zero-area box; duplicate image": {Defect.NO_AREA, Defect.DUPLICATE_IMAGE},
    "duplicate box, same label x3": {Defect.REPEAT},
    "same box, two labels": {Defect.SEVERAL_LABELS},
    "greyscale JPEG": {Defect.GREYSCALE},
    "truncated JPEG": {Defect.TRUNCATED_IMAGE},
    "invalid EXIF orientation": {Defect.BAD_EXIF},
    "image without annotation file": {Defect.NO_ANNOTATION},
    "<filename> without extension": {Defect.WRONG_FILE_NAME},
    "<filename> is another name": {Defect.WRONG_FILE_NAME},
    "Infinity in JSON bbox; boxes outside the image": {Defect.NOT_FINITE, Defect.OUTSIDE},
}


def examined(source: Source, rows: int = 1000, **options: Any) -> Examined:
    """All of a source in one batch."""
    (batch,) = source.batches(rows)
    found = examine(batch, dataset="d", image_root=source.image_root, normalized=source.normalized, **options)
    found.shard.validate(full=True)
    assert found.shard.schema == SHARD
    assert found.findings.schema == FINDINGS
    assert found.quarantine.schema == QUARANTINE
    return found


def kinds_by_path(source: Source, found: Examined) -> dict[str, set[str]]:
    """What was reported of each image, by its path; the same bytes twice from the digests."""
    (batch,) = source.batches(1000)
    paths = dict(zip(batch.column("image_id").to_pylist(), batch.column("path").to_pylist(), strict=True))
    kinds: dict[str, set[str]] = {path: set() for path in paths.values()}
    for row in found.findings.to_pylist():
        kinds[paths[row["image_id"]]].add(row["defect"])
    for row in found.quarantine.to_pylist():
        kinds[paths[row["image_id"]]].add(row["reason"])
    times = Counter(sha1 for _, sha1, _ in found.digests)
    for image_id, sha1, _ in found.digests:
        if times[sha1] > 1:
            kinds[paths[image_id]].add(Defect.DUPLICATE_IMAGE)
    return kinds


def manifest(shared_data: Path) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads((shared_data / "real_defects/manifest.json").read_text())
    return entries


def test_every_real_defect_is_found_in_its_image(shared_data: Path, tmp_path: Path) -> None:
    source = open_source(shared_data / "real_defects", "voc")
    kinds = kinds_by_path(source, examined(source))
    entries = manifest(shared_data)
    assert len(entries) == 29
    for entry in entries:
        if entry["image"] is not None:
            assert KINDS[entry["defect"]] <= kinds[entry["image"]], entry
    # and an image of which nothing is listed but one thing has nothing else that puts it aside
    aside = {path for path, found in kinds.items() if found & QUARANTINED}
    assert aside == {e["image"] for e in entries if KINDS[e["defect"]] & QUARANTINED}


def test_the_real_json_with_infinity(shared_data: Path, tmp_path: Path) -> None:
    """Its images are not published with it: grey ones of the published sizes stand in."""
    file = shared_data / "real_defects/taco_unofficial_slice.json"
    data = json.loads(file.read_text())
    for image in data["images"]:
        (tmp_path / image["file_name"]).parent.mkdir(exist_ok=True)
        Image.new("L", (image["width"], image["height"])).save(tmp_path / image["file_name"], quality=10)
    (tmp_path / "a.json").write_bytes(file.read_bytes())
    found = examined(open_source(tmp_path, "coco"))
    infinite = {str(a["image_id"]) for a in data["annotations"] if not np.isfinite(a["bbox"]).all()}
    reported = found.findings.to_pylist()
    assert {row["image_id"] for row in reported if row["defect"] == Defect.NOT_FINITE} == infinite
    assert found.repaired[Defect.NOT_FINITE] == 15
    by_id = {a["id"]: str(a["image_id"]) for a in data["annotations"]}
    outside = {row["image_id"] for row in reported if row["defect"] == Defect.OUTSIDE}
    assert {by_id[432], by_id[766], by_id[1422]} <= outside
    flags = np.array([flag for row in found.shard["flags"].to_pylist() for flag in row])
    assert ((flags & BoxFlag.NO_AREA) > 0).sum() >= 15


def test_without_images_everything_is_put_aside_by_name(shared_data: Path) -> None:
    found = examined(open_source(shared_data / "real_defects/taco_unofficial_slice.json"))
    assert found.shard.num_rows == 0
    assert found.quarantine["reason"].to_pylist() == ["missing_image"] * 18
    assert "unofficial/000053.jpg" in found.quarantine["detail"].to_pylist()
    assert not found.repaired
    assert not found.digests


@pytest.mark.parametrize("name", ["raccoon", "bccd", "fod_a", "playing_cards", "coco_tiny", "voc2012_100"])
def test_real_datasets_keep_every_image_and_every_published_number(shared_data: Path, name: str) -> None:
    source = open_source(shared_data / name)
    (batch,) = source.batches(1000)
    found = examined(source)
    assert not found.quarantine.num_rows
    assert found.shard["image_id"].to_pylist() == batch.column("image_id").to_pylist()
    for before, after in zip(batch.to_pylist(), found.shard.to_pylist(), strict=True):
        boxes = {
            (tuple(map(float, np.float32(b))), label)
            for b, label in zip(before["boxes"], before["labels"], strict=True)
        }
        kept = [
            (tuple(b), label) for b, labels in zip(after["boxes"], after["labels"], strict=True) for label in labels
        ]
        assert len(kept) == len(before["boxes"])
        assert set(kept) == boxes
        assert (after["width"], after["height"]) == (before["width"], before["height"])
        with Image.open(after["image"]["path"]) as image:
            assert image.size == (after["width"], after["height"])


def test_greyscale_raccoons_and_repeated_bytes(shared_data: Path) -> None:
    found = examined(open_source(shared_data / "raccoon"))
    assert found.repaired == {"greyscale": 3}
    assert Counter(Counter(sha1 for _, sha1, _ in found.digests).values())[2] == 4  # four pairs
    image_id, sha1, _ = found.digests[0]
    path = found.shard["image"].to_pylist()[0]["path"]
    assert (found.shard["image_id"][0].as_py(), hashlib.sha1(Path(path).read_bytes()).hexdigest()) == (image_id, sha1)


def test_open_images_fractions_become_pixels(shared_data: Path) -> None:
    found = examined(open_source(shared_data / "open_images/format_fixtures/datumaro/v6"))
    rows = {row["image_id"]: row for row in found.shard.to_pylist()}
    assert (rows["b"]["width"], rows["b"]["height"]) == (8, 2)
    np.testing.assert_allclose(rows["b"]["boxes"], [[0.2 * 8, 0.3 * 2, 8, 1]], rtol=1e-6)
    np.testing.assert_allclose(rows["b"]["area"], [6.4 * 0.4], rtol=1e-6)
    assert rows["c"]["verified_positive"] == [1, 3]


def jpeg(width: int, height: int, orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    sink = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(sink, "JPEG", exif=exif)
    return sink.getvalue()


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """PUBLISHED rows; each has path, and maybe boxes, labels, flags, size, area, visible, defects."""
    boxes = [row.get("boxes", []) for row in rows]
    visible = [row.get("visible", row.get("boxes", [])) for row in rows]

    def flat(name: str, default: int) -> np.ndarray:
        return np.array([v for row, own in zip(rows, boxes, strict=True) for v in row.get(name, [default] * len(own))])

    return published(
        image_id=[row["id"] for row in rows],
        split=[None] * len(rows),
        path=[row.get("path") for row in rows],
        size=([row.get("size", (None,))[0] for row in rows], [row.get("size", (None, None))[1] for row in rows]),
        offsets=counts_to_offsets([len(own) for own in boxes]),
        boxes=np.array([box for own in boxes for box in own], np.float64).reshape(-1, 4),
        flags=flat("flags", 0).astype(np.uint16),
        labels=flat("labels", 0).astype(np.int32),
        area=flat("area", -1).astype(float) if any("area" in row for row in rows) else None,
        visible=np.array([b for own in visible for b in own], np.float64).reshape(-1, 4)
        if any("visible" in row for row in rows)
        else None,
        defects=[row.get("defects", []) for row in rows],
    )


def test_what_a_turned_image_does_to_sizes_and_boxes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(40, 24, 6))  # shown 24 wide, 40 high
    box = [2, 3, 10, 8]
    batch = batch_of(
        [
            {"id": "upright", "path": "a.jpg", "size": (24, 40), "boxes": [box], "visible": [box]},
            {"id": "stored", "path": "a.jpg", "size": (40, 24), "boxes": [box], "visible": [box]},
            {"id": "neither", "path": "a.jpg", "size": (80, 48), "boxes": [box], "visible": [box]},
            {"id": "none", "path": "a.jpg", "boxes": [box], "visible": [box]},
        ]
    )
    found = examine(batch, dataset="d", image_root=tmp_path, normalized=False)
    rows = {row["image_id"]: row for row in found.shard.to_pylist()}
    assert {(row["width"], row["height"]) for row in rows.values()} == {(24, 40)}
    # orientation 6 turns clockwise: what lay left lies on top, what lay on top lies right
    assert rows["stored"]["boxes"] == rows["stored"]["visible_boxes"] == [[24 - 8, 2, 24 - 3, 10]]
    for other in ("upright", "neither", "none"):
        assert rows[other]["boxes"] == rows[other]["visible_boxes"] == [box]
    assert found.repaired == {"exif_rotated": 4, "wrong_size": 2}


def test_quarantine_names_each_reason(tmp_path: Path) -> None:
    good = jpeg(64, 64)
    files: dict[str, Any] = {
        "ok.jpg": good,
        "cut.jpg": good[:-20],
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "bomb.jpg": bytearray(good),
    }
    at = good.index(b"\xff\xc0")
    files["bomb.jpg"][at + 5 : at + 9] = (50_000).to_bytes(2, "big") * 2
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.jpg").mkdir()
    rows = [{"id": name, "path": name, "boxes": [[0, 0, 4, 4]]} for name in [*files, "folder.jpg", "gone.jpg"]]
    rows.append({"id": "nowhere", "boxes": [[0, 0, 4, 4]], "defects": [noted(Defect.MISSING_IMAGE, "x/y.jpg")]})
    rows.append({"id": "alone", "path": "ok.jpg", "defects": [noted(Defect.NO_ANNOTATION)]})
    found = examine(batch_of(rows), dataset="d", image_root=tmp_path, normalized=False)
    assert found.shard["image_id"].to_pylist() == ["ok.jpg"]
    assert {row["image_id"]: row["reason"] for row in found.quarantine.to_pylist()} == {
        "cut.jpg": "truncated_image",
        "empty.jpg": "unreadable_image",
        "text.jpg": "unreadable_image",
        "bomb.jpg": "image_bomb",
        "folder.jpg": "unreadable_image",
        "gone.jpg": "missing_image",
        "nowhere": "missing_image",
        "alone": "no_annotation",
    }
    assert {row["image_id"]: row["detail"] for row in found.quarantine.to_pylist()}["nowhere"] == "x/y.jpg"
    assert [digest[0] for digest in found.digests] == ["ok.jpg"]


def test_labels_that_contradict_each_other_are_taken_back(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(32, 32))
    labels = {"fine": ([0, 2], [1]), "torn": ([1, 3, 5], [0, 3, 5]), "gone": ([7], [7]), "bare": ([], [3])}
    batch = batch_of([{"id": name, "path": None if name == "gone" else "a.jpg"} for name in labels])
    for column, sign in (("verified_positive", 0), ("verified_negative", 1)):
        at = batch.schema.get_field_index(column)
        values = pa.array([pair[sign] for pair in labels.values()], pa.list_(pa.int32()))
        batch = batch.set_column(at, batch.schema.field(at), values)
    for part in (batch, batch.slice(1)):  # offsets of a slice do not begin at 0
        found = examine(part, dataset="d", image_root=tmp_path, normalized=False)
        rows = found.shard.to_pylist()
        kept = {row["image_id"]: (row["verified_positive"], row["verified_negative"]) for row in rows}
        expected = {"fine": ([0, 2], [1]), "torn": ([1], [0]), "bare": ([], [3])}
        assert kept == {name: expected[name] for name in part["image_id"].to_pylist() if name in expected}
        assert found.repaired == {"contradictory_label": 1}
        (finding,) = found.findings.to_pylist()
        assert (finding["image_id"], finding["detail"]) == ("torn", "rows of the class table: 3, 5")


def test_merging_keeps_order_flags_area_and_visible_boxes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(100, 100))
    place, other = [0, 0, 10, 10], [5, 5, 20, 20]
    row = {
        "id": "a",
        "path": "a.jpg",
        "boxes": [place, other, place, place, place, other],
        "labels": [2, 1, 0, 2, 0, 1],
        "flags": [0, 0, 0, 0, BoxFlag.CROWD, 0],
        "area": [77, 88, 99, 11, 22, 33],
        "visible": [[0, 0, k + 1, 1] for k in range(6)],
    }
    found = examine(batch_of([row]), dataset="d", image_root=tmp_path, normalized=False)
    (kept,) = found.shard.to_pylist()
    assert kept["boxes"] == [place, other, place, place, other]
    assert kept["labels"] == [[2, 0], [1], [2], [0], [1]]
    assert kept["flags"] == [0, 0, BoxFlag.REPEAT, BoxFlag.CROWD, BoxFlag.REPEAT]
    assert kept["area"] == [77, 88, 11, 22, 33]
    assert [box[2] for box in kept["visible_boxes"]] == [1, 2, 4, 5, 6]
    assert found.repaired == {"repeat": 2, "several_labels": 1}
    assert {row["defect"]: row["detail"] for row in found.findings.to_pylist()} == {
        "repeat": "2 of 6 boxes, the first (0, 0, 10, 10)",
        "several_labels": "1 of 6 boxes, the first (0, 0, 10, 10)",
    }


def test_a_perceptual_hash_only_when_asked(tmp_path: Path) -> None:
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 6), np.uint8))
    picture = coarse.resize((64, 64), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.jpg", quality=60)  # other bytes, the same picture
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "c.png")
    batch = batch_of([{"id": name, "path": name} for name in ("a.png", "b.jpg", "c.png")])
    found = examine(batch, dataset="d", image_root=tmp_path, normalized=False, phash=True)
    a, b, c = (phash for _, _, phash in found.digests)
    differing = [bin(int(a or "", 16) ^ int(other or "", 16)).count("1") for other in (b, c)]
    assert differing[0] <= 4 < 16 < differing[1]
    assert len(a or "") == 16
    found = examine(batch, dataset="d", image_root=tmp_path, normalized=False)
    assert [phash for _, _, phash in found.digests] == [None] * 3


def test_an_empty_batch_and_slices_of_one(shared_data: Path) -> None:
    source = open_source(shared_data / "real_defects/clothing", "voc")
    (batch,) = source.batches()
    whole = examined(source)
    options: dict[str, Any] = {"dataset": "d", "image_root": source.image_root, "normalized": False}
    assert examine(batch.slice(0, 0), **options).shard.num_rows == 0
    pieces = [examine(batch.slice(start, 3), **options) for start in range(0, batch.num_rows, 3)]
    assert pa.concat_tables([piece.shard for piece in pieces]).equals(whole.shard)
    assert sum((piece.repaired for piece in pieces), Counter()) == whole.repaired
    assert pa.concat_tables([piece.findings for piece in pieces]).equals(whole.findings)


def test_notes_of_a_reader() -> None:
    assert parse_note(noted(Defect.WRONG_FILE_NAME, "it is: 'a: b'")) == (Defect.WRONG_FILE_NAME, "it is: 'a: b'")
    assert parse_note(noted(Defect.NO_ANNOTATION)) == (Defect.NO_ANNOTATION, "")


def test_boxes_of_an_unknown_unit_are_kept_and_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(32, 32))
    box, note = [0.1, 0.2, 0.5, 0.6], noted(Defect.FRACTIONS, "all 1 boxes of x.json lie in 0 to 1")
    rows = [
        {"id": "a", "path": "a.jpg", "boxes": [box], "defects": [note]},
        {"id": "b", "path": "a.jpg", "boxes": [box]},
    ]
    found = examine(batch_of(rows), dataset="d", image_root=tmp_path, normalized=False)
    np.testing.assert_allclose(found.shard["boxes"].to_pylist(), [[box], [box]], rtol=1e-6)
    assert found.shard["flags"].to_pylist() == [[BoxFlag.NO_AREA], [0]]
    assert found.repaired == {"fractions": 1}


def test_more_than_8_bits_a_channel_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)).save(tmp_path / "a.png")
    found = examine(batch_of([{"id": "a", "path": "a.png"}]), dataset="d", image_root=tmp_path, normalized=False)
    assert found.repaired == {"greyscale": 1, "deep_image": 1}
