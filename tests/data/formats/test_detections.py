"""Files of detections: what is read is what was written, and bad files are named."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xray_det.data.formats.detections import DetectionFile, read_detections
from xray_det.data.formats.detections_json import read_json
from xray_det.data.formats.detections_out import write_coco_results, write_open_images
from xray_det.data.schema import DETECTIONS
from xray_det.errors import InputError
from xray_det.labels.space import Class, LabelSpace

SPACE = LabelSpace(name="made", classes=(Class(name="cat", source_id="7"), Class(name="dog", source_id="/m/dog")))


def made_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "image_id": int(rng.integers(1, 50)),
            "category_id": int(rng.integers(1, 9)),
            "segmentation": {"size": [4, 4], "counts": "a},{]'},"},  # what a window must not be cut at
            "bbox": rng.uniform(0, 500, 4).tolist(),
            "score": float(rng.random()),
        }
        for _ in range(count)
    ]


def rows_of(file: DetectionFile) -> list[tuple[Any, ...]]:
    return [
        (file.image_ids[i], file.class_ids[c], *box, score)
        for i, c, box, score in zip(file.image, file.label, file.boxes.tolist(), file.scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize("window", [64, 300, 5000, 1 << 24])
@pytest.mark.parametrize("indent", [None, 1])
def test_every_window_reads_the_same_rows(tmp_path: Path, window: int, indent: int | None) -> None:
    rows = made_rows(60)
    path = tmp_path / "dets.json"
    path.write_text(json.dumps(rows, indent=indent))
    columns = read_json(path, window=window)
    assert [columns.image_ids[i] for i in columns.image] == [str(row["image_id"]) for row in rows]
    assert [columns.class_ids[c] for c in columns.label] == [str(row["category_id"]) for row in rows]
    assert columns.boxes_xywh.tolist() == [row["bbox"] for row in rows]  # to the last bit
    assert columns.scores.tolist() == [row["score"] for row in rows]


def test_a_width_is_kept_as_written(tmp_path: Path) -> None:
    path = tmp_path / "dets.json"
    row = {"image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.2, 0.5], "score": 1}
    path.write_text(json.dumps([row]))
    file = read_detections(path)
    assert file.sizes.tolist() == [[0.2, 0.5]]
    assert file.boxes.tolist() == [[0.1, 0.2, 0.1 + 0.2, 0.2 + 0.5]]
    assert (file.boxes[:, 2:] - file.boxes[:, :2]).tolist() != file.sizes.tolist()


def test_a_document_brings_its_own_names(shared_data: Path) -> None:
    file = read_detections(shared_data / "voc2012_100/detections/coco_format/coco_dets.json")
    assert len(file.scores) == 452
    assert file.class_names is not None
    assert file.class_names["0"] == "person"
    assert file.image_names is not None
    assert file.image_names["0"] == "2007_000027.jpg"


def test_ids_as_numbers_and_as_text_are_one(tmp_path: Path) -> None:
    path = tmp_path / "dets.json"
    row = {"category_id": "cat", "bbox": [0, 0, 1, 1], "score": 0.5}
    path.write_text(json.dumps([{"image_id": 7, **row}, {"image_id": "7", **row}, {"image_id": "x", **row}]))
    file = read_detections(path)
    assert file.image_ids == ("7", "x")
    assert file.image.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1], "score": 1}]', r"detections\[0\].bbox.*length 4"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]', "score"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, "x"], "score": 1}]', "float"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, NaN, 1], "score": 1}]', "detection 0.*not finite"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1e999, 1], "score": 1}]', "finite|range"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "sc', "cut off"),
        ("", "no JSON list"),
        ('{"images": []}', "annotations"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "dets.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_detections(path)


def test_the_place_of_a_bad_row_counts_earlier_windows(tmp_path: Path) -> None:
    rows = made_rows(40)
    del rows[33]["score"]
    path = tmp_path / "dets.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"detections\[33\]"):
        read_json(path, window=700)


def test_no_detection_at_all_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "dets.json").write_text("[]")
    (tmp_path / "dets.csv").write_text("ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n")
    for name in ("dets.json", "dets.csv"):
        assert read_detections(tmp_path / name).boxes.shape == (0, 4)


@pytest.mark.parametrize("score", ["Score", "Conf"])
def test_csv_keeps_numbers_and_ids_as_written(tmp_path: Path, score: str) -> None:
    path = tmp_path / "dets.csv"
    header = f"ImageID,LabelName,{score},XMin,XMax,YMin,YMax"
    path.write_text(f"{header}\n00123e10,/m/01g317,0.9999999999999999,0.1,0.30000000000000004,0,1\n7,a,1e-3,0,1,0,1\n")
    assert rows_of(read_detections(path)) == [
        ("00123e10", "/m/01g317", 0.1, 0.0, 0.30000000000000004, 1.0, 0.9999999999999999),
        ("7", "a", 0.0, 0.0, 1.0, 1.0, 1e-3),
    ]


def test_a_submission_of_prediction_strings(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    rows = ["a,/m/x 0.9 0.1 0.2 0.3 0.4 /m/y 0.8 0 0 1 1", "empty,", "b,/m/x 0.7 0 0 1 1"]
    path.write_text("\n".join(["ImageId,PredictionString", *rows]))
    assert rows_of(read_detections(path)) == [
        ("a", "/m/x", 0.1, 0.2, 0.3, 0.4, 0.9),
        ("a", "/m/y", 0.0, 0.0, 1.0, 1.0, 0.8),
        ("b", "/m/x", 0.0, 0.0, 1.0, 1.0, 0.7),
    ]
    path.write_text("ImageId,PredictionString\na,/m/x 0.9 0.1 0.2 0.3\n")
    with pytest.raises(InputError, match="5 words"):
        read_detections(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ImageID;LabelName;Score;XMin;XMax;YMin;YMax\na;b;1;0;1;0;1\n", "lacks"),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax\na,b,0,1,0,1\n", "score"),
        ('ImageID,LabelName,Score,XMin,XMax,YMin,YMax\na,b,"0,5",0,1,0,1\n', "0,5"),
        ("ImageID,LabelName,Score,XMin,XMax,YMin,YMax\na,b,0.5,0,1,0\n", "columns"),
        ("ImageID,LabelName,Score,XMin,XMax,YMin,YMax\na,b,nan,0,1,0,1\n", "detection 0.*not finite"),
    ],
)
def test_bad_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "dets.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_detections(path)


def table() -> pa.Table:
    rows = {
        "image_id": ["12", "a"],
        "dataset": ["d", "d"],
        "boxes": [[[0.1, 0.2, 30.3, 40.4], [1, 2, 3, 4]], [[5, 6, 7, 8]]],
        "scores": [[0.9, 0.5], [0.25]],
        "labels": [[1, 0], [0]],
    }
    return pa.table(rows, schema=DETECTIONS.with_metadata({"classes": json.dumps(SPACE.to_json())}))


def test_parquet_and_what_is_written_from_it_hold_the_same(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "dets.parquet")
    own = read_detections(tmp_path / "dets.parquet")
    assert own.class_names == {"7": "cat", "/m/dog": "dog"}

    assert write_coco_results([table()], tmp_path / "dets.json", SPACE) == 3
    written = json.loads((tmp_path / "dets.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in written] == [(12, "/m/dog"), (12, 7), ("a", 7)]
    results = read_detections(tmp_path / "dets.json")

    sizes = {"12": (64, 128), "a": (16, 8)}  # powers of two: the division is exact
    assert write_open_images([table()], tmp_path / "dets.csv", SPACE, sizes) == 3
    fractions = read_detections(tmp_path / "dets.csv")
    scale = np.array([sizes[fractions.image_ids[i]] * 2 for i in fractions.image])
    for other, boxes in ((results, results.boxes), (fractions, fractions.boxes * scale)):
        assert [other.image_ids[i] for i in other.image] == [own.image_ids[i] for i in own.image]
        assert [other.class_ids[c] for c in other.label] == [own.class_ids[c] for c in own.label]
        np.testing.assert_array_equal(other.scores, own.scores)
        np.testing.assert_allclose(boxes, own.boxes, rtol=1e-15)
    with pytest.raises(InputError, match="'a' has no known size"):
        write_open_images([table()], tmp_path / "more.csv", SPACE, {"12": (1, 1)})
    assert not list(tmp_path.glob("more.csv*"))


ROW = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ROW]),
        "\ufeff" + json.dumps([ROW]),
        json.dumps([ROW | {"image_id": "7", "category_id": "3"}]),
        json.dumps([ROW | {"id": 1, "area": 12, "iscrowd": 0, "segmentation": {"size": [9, 9], "counts": "PPYo0"}}]),
        json.dumps([ROW | {"bbox": [1.0, 2e0, 3, 4.0], "score": 1.0, "file_name": "a.jpg", "category_name": "cup"}]),
        json.dumps({"info": {}, "annotations": [ROW], "images": [], "categories": []}),
        json.dumps({"annotations": [ROW]}, indent=4),
    ],
)
def test_results_as_tools_write_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "dets.json").write_text(text, encoding="utf-8")
    assert rows_of(read_detections(tmp_path / "dets.json")) == [("7", "3", 1, 2, 4, 6, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps([ROW | {"bbox": None}]), r"detections\[0\]\.bbox"),
        (json.dumps([ROW, ROW | {"bbox": []}]), r"detections\[1\]\.bbox"),
        (json.dumps([ROW | {"bbox": {"x": 1, "y": 2, "w": 3, "h": 4}}]), r"detections\[0\]\.bbox"),
        (json.dumps([ROW | {"score": "0.9"}]), r"detections\[0\]\.score"),
        (json.dumps([ROW | {"image_id": 7.5}]), r"detections\[0\]\.image_id"),
        (json.dumps([ROW | {"image_id": None}]), r"detections\[0\]\.image_id"),
        (json.dumps([ROW | {"score": float("nan")}]), "detection 0.*not finite"),
        (json.dumps([ROW | {"bbox": [1, 2, float("inf"), 4]}]), "detection 0.*not finite"),
        (json.dumps({"predictions": [ROW]}), "has no 'annotations'"),
        (json.dumps({"annotations": [{k: v for k, v in ROW.items() if k != "score"}]}), "score"),
        (json.dumps(ROW) + "\n" + json.dumps(ROW), "more follows"),
        ("", "no JSON list"),
        ("image_id,score\n", "no JSON list"),
    ],
)
def test_results_that_are_none_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dets.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_detections(tmp_path / "dets.json")
    assert "dets.json" in caught.value.where


@pytest.mark.parametrize(
    "text",
    [
        "ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n007,/m/a,.5,.1,.3,.2,.4\n",
        "\ufeffImageID,LabelName,Score,XMin,XMax,YMin,YMax\r\n007,/m/a,.5,.1,.3,.2,.4\r\n\r\n",
        '"ImageID","LabelName","Score","XMin","XMax","YMin","YMax"\n"007","/m/a","0.5","0.1","0.3","0.2","0.4"\n',
        "image_id,class,confidence,xmin,ymin,xmax,ymax\n007,/m/a,.5,.1,.2,.3,.4\n",
        "IMAGEID,LABELNAME,CONF,XMIN,XMAX,YMIN,YMAX,EXTRA\n\n007,/m/a,.5,.1,.3,.2,.4,x\n",
    ],
)
def test_csv_as_tools_write_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "dets.csv").write_text(text, encoding="utf-8", newline="")
    assert rows_of(read_detections(tmp_path / "dets.csv")) == [("007", "/m/a", 0.1, 0.2, 0.3, 0.4, 0.5)]


def test_csv_of_old_macs(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"ImageID,LabelName,Score,XMin,XMax,YMin,YMax\ri,/m/1,0.5,0,1,0,1\r")
    assert rows_of(read_detections(tmp_path / "d.csv")) == [("i", "/m/1", 0.0, 0.0, 1.0, 1.0, 0.5)]


@pytest.mark.parametrize("name", ["YMax\x0c", "YMax\x1c", '"""YMax"""'])
def test_a_csv_header_that_the_parser_takes_for_another_is_no_traceback(tmp_path: Path, name: str) -> None:
    (tmp_path / "d.csv").write_text(f"ImageID,LabelName,Score,XMin,XMax,YMin,{name}\ni,/m/1,0.5,0,1,0,1\n")
    try:
        assert rows_of(read_detections(tmp_path / "d.csv")) == [("i", "/m/1", 0.0, 0.0, 1.0, 1.0, 0.5)]
    except InputError as error:
        assert "d.csv" in str(error)  # noqa: PT017


def test_packed_and_utf_16_files_are_named(tmp_path: Path) -> None:
    for name in ("dets.json.gz", "dets.zip"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match="it is packed"):
            read_detections(tmp_path / name)
    (tmp_path / "dets.json").write_text("[]", encoding="utf-16")
    with pytest.raises(InputError, match=r"dets\.json: is UTF-16"):
        read_detections(tmp_path / "dets.json")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_detections(tmp_path / "none.json")
    (tmp_path / "dets.xml").write_text("<a/>")
    with pytest.raises(InputError, match="xml"):
        read_detections(tmp_path / "dets.xml")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="is not a table of detections"):
        read_detections(tmp_path / "other.parquet")
    pq.write_table(table().replace_schema_metadata(None), tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="no class table"):
        read_detections(tmp_path / "bare.parquet")


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "said", [b"{", b"[]", b"{}", DEEP, b"\xff", b'{"name": null, "classes": null}', b'{"name": "d", "classes": [1]}',
             b'{"name": ' + b"9" * 5000 + b"}", b'{"name": "d", "classes": [{"name": "\\ud800"}]}'],
    ids=range(9),
)  # fmt: skip
def test_a_damaged_class_table_is_refused(said: bytes, tmp_path: Path) -> None:
    pq.write_table(table().replace_schema_metadata({b"classes": said}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"d\.parquet: its class table cannot be read"):
        read_detections(tmp_path / "d.parquet")


def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "d.parquet")
    whole = (tmp_path / "d.parquet").read_bytes()
    damaged = [whole[:-20], b"", whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:], whole[:4] + bytes(200) + whole[204:]]
    damaged.append(whole[:-300] + bytes(byte ^ 0x55 for byte in whole[-300:-8]) + whole[-8:])
    for content in damaged:
        (tmp_path / "d.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"d\.parquet: is not a table of detections") as error:
            read_detections(tmp_path / "d.parquet")
        assert str(error.value).isprintable()


def test_lists_of_unequal_lengths_are_refused(tmp_path: Path) -> None:
    rows = table().to_pylist()
    next(row for row in rows if row["scores"])["scores"].append(0.5)
    pq.write_table(pa.Table.from_pylist(rows, schema=table().schema), tmp_path / "d.parquet")
    with pytest.raises(InputError, match="another number of boxes than of scores or labels"):
        read_detections(tmp_path / "d.parquet")


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_detections_from_a_pipe_or_a_device_are_refused(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(InputError, match=rf"{name}{suffix}: (cannot be read|is not a table)"):
            read_detections(tmp_path / f"{name}{suffix}")
