"""Detections in files: COCO results JSON, Open Images CSV and our Parquet, read into float64 columns and written.

What a file says is kept as it stands: ids as text, coordinates and scores in float64, nothing clipped, sorted or
dropped. Which image and which class of the truth an id means is evaluation/identity.py's business.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xray_det.data.formats.detections_json import JsonColumns, read_json
from xray_det.data.formats.layout import refuse_packed
from xray_det.data.schema import DETECTIONS
from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace
from xray_det.storage import open_file, parse_json

Floats = NDArray[np.float64]

#: CSV column -> the headers it goes by, in lower case.
_HEADERS = {
    "image": ("imageid", "image_id"),
    "class": ("labelname", "label_name", "classid", "class"),
    "score": ("score", "conf", "confidence"),
    "x1": ("xmin",),
    "y1": ("ymin",),
    "x2": ("xmax",),
    "y2": ("ymax",),
}


@dataclass(frozen=True, kw_only=True)
class DetectionFile:
    """M detections as written.

    Attributes:
        path: where they were read, for messages.
        image_ids: the distinct image ids as text.
        image: int64 [M], row of ``image_ids``.
        class_ids: the distinct class ids as text.
        label: int64 [M], row of ``class_ids``.
        boxes: float64 [M, 4] x1, y1, x2, y2; x2 = x + width where the file gives a width.
        sizes: float64 [M, 2] width and height: the file's own, else x2 - x1.
        scores: float64 [M].
        format: ``coco``, ``open_images`` or ``parquet``.
        image_names: image id -> file name, where the file has a table of its images.
        class_names: class id -> name, where the file has a table of its classes.
    """

    path: Path
    image_ids: tuple[str, ...]
    image: NDArray[np.int64]
    class_ids: tuple[str, ...]
    label: NDArray[np.int64]
    boxes: Floats
    sizes: Floats
    scores: Floats
    format: str
    image_names: dict[str, str] | None = None
    class_names: dict[str, str] | None = None


def read_detections(path: str | Path) -> DetectionFile:
    """Read a file of detections; its suffix tells the format, a folder is one of Parquet files.

    Raises:
        InputError: no such file, another suffix, a file that cannot be understood, a box of other than four numbers,
            a number that is not finite.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(path, "no such file or folder", "Check the path of the detections")
    suffix = ".parquet" if path.is_dir() else path.suffix.lower()
    if suffix == ".json":
        return _from_json(path, read_json(path))
    if suffix in (".csv", ".txt"):
        return _read_csv(path)
    if suffix == ".parquet":
        return _read_parquet(path)
    refuse_packed([path])
    raise InputError(
        path, f"{path.suffix or 'no suffix'!r} is no known format of detections", "Give .json, .csv or .parquet"
    )


def _from_json(path: Path, columns: JsonColumns) -> DetectionFile:
    sizes = columns.boxes_xywh[:, 2:]
    return _checked(
        DetectionFile(
            path=path,
            image_ids=columns.image_ids,
            image=columns.image,
            class_ids=columns.class_ids,
            label=columns.label,
            boxes=np.concatenate([columns.boxes_xywh[:, :2], columns.boxes_xywh[:, :2] + sizes], axis=1),
            sizes=sizes,
            scores=columns.scores,
            format="coco",
            image_names=columns.image_names,
            class_names=columns.class_names,
        )
    )


def _read_csv(path: Path) -> DetectionFile:
    with open_file(path) as stream:
        header = re.split(r"[\r\n]", stream.readline(1 << 16).decode("utf-8-sig", errors="replace"), maxsplit=1)[0]
    names = [name.strip('"') for name in header.split(",")]
    lower = [name.strip().lower() for name in names]
    if "predictionstring" in lower and lower[0] in _HEADERS["image"]:
        return _read_prediction_strings(path, names)
    chosen: dict[str, str] = {}
    for column, headers in _HEADERS.items():
        found = next((names[lower.index(h)] for h in headers if h in lower), None)
        if found is None:
            raise InputError(
                path,
                f"the header {header[:120]!r} lacks {headers[0]!r}",
                "Give ImageID,LabelName,Score,XMin,XMax,YMin,YMax, separated by commas",
            )
        chosen[column] = found
    numbers = {chosen[c]: pa.float64() for c in ("score", "x1", "y1", "x2", "y2")}
    texts = {chosen[c]: pa.string() for c in ("image", "class")}
    parts: list[pa.Table] = []
    try:
        with pacsv.open_csv(
            open_file(path),
            convert_options=pacsv.ConvertOptions(
                column_types=numbers | texts, include_columns=list(chosen.values()), strings_can_be_null=False
            ),
        ) as reader:
            blocks = (pa.Table.from_batches([batch]) for batch in reader)
            for table in chain([reader.schema.empty_table()], blocks):
                for column in ("image", "class"):  # a dictionary a block: ids repeat
                    place = table.column_names.index(chosen[column])
                    table = table.set_column(place, chosen[column], table[chosen[column]].dictionary_encode())
                parts.append(table)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:  # ArrowKeyError: it takes the header for another
        raise InputError(
            path, f"is not the CSV its header says ({str(error)[:200]})", "Use commas between and points in numbers"
        ) from error
    table = pa.concat_tables(parts).unify_dictionaries()
    image_ids, image = _dictionary(table[chosen["image"]])
    class_ids, label = _dictionary(table[chosen["class"]])
    boxes = np.stack([table[chosen[c]].to_numpy().astype(np.float64) for c in ("x1", "y1", "x2", "y2")], axis=1)
    return _checked(
        DetectionFile(
            path=path,
            image_ids=image_ids,
            image=image,
            class_ids=class_ids,
            label=label,
            boxes=boxes,
            sizes=boxes[:, 2:] - boxes[:, :2],
            scores=table[chosen["score"]].to_numpy().astype(np.float64),
            format="open_images",
        )
    )


def _read_prediction_strings(path: Path, names: list[str]) -> DetectionFile:
    """Challenge submissions: a row an image, ``label score x1 y1 x2 y2`` repeated in one string."""
    texts = {name: pa.string() for name in names}
    try:
        table = pacsv.read_csv(open_file(path), convert_options=pacsv.ConvertOptions(column_types=texts))
        strings = table[next(n for n in names if n.lower() == "predictionstring")].combine_chunks()
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.fill_null(strings, "")))
        flat = pc.list_flatten(words)
        counts = np.asarray(pc.list_value_length(words), np.int64)
        counts[np.asarray(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(strings, ""))), 0))] = 0
        flat = flat.filter(pc.greater(pc.utf8_length(flat), 0))
        if np.any(counts % 6):
            raise pa.ArrowInvalid(f"{counts[counts % 6 != 0][0]} words where 6 a detection are expected")
        columns = [flat.take(pa.array(np.arange(k, len(flat), 6))) for k in range(6)]
        numbers = [c.cast(pa.float64()).to_numpy() for c in columns[1:]]
    except (pa.ArrowInvalid, StopIteration) as error:
        raise InputError(
            path, f"is no table of prediction strings ({str(error)[:200]})", "Write 'label score x1 y1 x2 y2 ...'"
        ) from error
    image_ids, image = _dictionary(pa.chunked_array([table[names[0]].combine_chunks().dictionary_encode()]))
    class_ids, label = _dictionary(pa.chunked_array([columns[0].dictionary_encode()]))
    boxes = np.stack(numbers[1:], axis=1)
    return _checked(
        DetectionFile(
            path=path,
            image_ids=image_ids,
            image=np.repeat(image, counts // 6),
            class_ids=class_ids,
            label=label,
            boxes=boxes,
            sizes=boxes[:, 2:] - boxes[:, :2],
            scores=numbers[0],
            format="open_images",
        )
    )


def _read_parquet(path: Path) -> DetectionFile:
    table = pa.concat_tables(list(detection_tables(path)))
    space = class_table(table.schema, path)
    image_ids, image = _dictionary(pa.chunked_array([table["image_id"].combine_chunks().dictionary_encode()]))
    counts = np.asarray(pc.list_value_length(table["boxes"]), np.int64)
    boxes = pc.list_flatten(pc.list_flatten(table["boxes"])).to_numpy().astype(np.float64).reshape(-1, 4)
    label = pc.list_flatten(table["labels"]).to_numpy().astype(np.int64)
    if len(label) and not (label.min() >= 0 and label.max() < len(space)):
        raise InputError(path, f"label {label.max()} is outside its table of {len(space)} classes", "Predict again")
    return _checked(
        DetectionFile(
            path=path,
            image_ids=image_ids,
            image=np.repeat(image, counts),
            class_ids=tuple(c.source_id for c in space.classes),
            label=label,
            boxes=boxes,
            sizes=boxes[:, 2:] - boxes[:, :2],
            scores=pc.list_flatten(table["scores"]).to_numpy().astype(np.float64),
            format="parquet",
            class_names={c.source_id: c.name for c in space.classes},
        )
    )


def detection_tables(path: str | Path) -> Iterator[pa.Table]:
    """The Parquet file, or those of a folder in order of name, as tables of schema.DETECTIONS.

    Raises:
        InputError: no Parquet file, or columns that are not DETECTIONS'.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(path, "holds no .parquet file", "Check the path of the detections")
    for file in files:
        try:
            table = pq.read_table(file, columns=DETECTIONS.names)
            metadata = table.schema.metadata
            table = table.cast(DETECTIONS.with_metadata(metadata))
            counts = [pc.list_value_length(table[name]) for name in ("boxes", "scores", "labels")]
            if not counts[0] == counts[1] == counts[2]:
                raise ValueError("an image has another number of boxes than of scores or labels")
            yield table
        except (pa.ArrowException, ValueError, OSError) as error:
            raise InputError(
                file,
                f"is not a table of detections ({' '.join(str(error).split())[:200]})",
                "Write it with experiments/predict.py",
            ) from error


def class_table(schema: pa.Schema, where: object) -> LabelSpace:
    """The class table that a DETECTIONS schema carries.

    Raises:
        InputError: it carries none, or one that cannot be read.
    """
    text = (schema.metadata or {}).get(b"classes")
    if text is None:
        raise InputError(where, "its schema carries no class table", "Write it with experiments/predict.py")
    try:
        return LabelSpace.from_json(parse_json(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"its class table cannot be read ({type(error).__name__}: {error})"
        raise InputError(where, problem, "Write it with experiments/predict.py") from error


def _dictionary(column: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    merged = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return tuple(merged.dictionary.to_pylist()), merged.indices.to_numpy().astype(np.int64)


def _checked(file: DetectionFile) -> DetectionFile:
    broken = ~(np.isfinite(file.boxes).all(axis=1) & np.isfinite(file.scores))
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise InputError(
            f"{file.path}: detection {row} (image {file.image_ids[file.image[row]]!r})",
            f"a number is not finite (box {file.boxes[row].tolist()}, score {file.scores[row]})",
            "Remove it, or find out why the detector wrote it",
        )
    return file
