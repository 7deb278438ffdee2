"""Score a file of detections, whatever tool made it, against published annotations.

    python experiments/score.py coco --truth instances_val2017.json --detections results.json --json scores.json
    python experiments/score.py voc --truth VOC2012/Annotations --detections results.json --iou 0.5
    python experiments/score.py lvis --truth lvis_v1_val.json --detections results.json
    python experiments/score.py open_images --truth challenge-2019-validation-detection-bbox.csv
        --image-labels challenge-2019-validation-detection-human-imagelabels.csv
        --hierarchy challenge-2019-label500-hierarchy.json --detections submission.csv

Truth is read in any layout that the readers know (COCO, Objects365 and LVIS JSON, Pascal VOC XML, Open Images CSV),
whole folders or annotation files, in float64 and unrepaired; no image, model, Ray or MLflow is needed. Detections are
COCO results JSON, Open Images CSV (ImageID,LabelName,Score,XMin,XMax,YMin,YMax) or this project's Parquet.

All images of the detections are matched by published id, or all by file name, with or without folder, suffix and
leading zeros; all classes by published id, or all by name. A file that does some in one way and some in another is
an error. A COCO document with "images" and "categories" beside its scored "annotations" says itself what its ids mean:
names decide. Boxes that look like fractions or corners are scored as they stand, with a note.
An image that the truth does not have is an error, and so is a class, where the truth publishes a table of classes.

Cost: seconds for COCO val2017; about a minute for the 41,620 images of the Open Images Challenge validation.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from xray_det.display import printable
from xray_det.errors import InputError

if TYPE_CHECKING:
    from xray_det.evaluation.columns import Detected, Truth
    from xray_det.evaluation.result import Result


@dataclass(frozen=True, kw_only=True)
class Score:
    """What every protocol needs."""

    truth: tuple[Path, ...]
    """The published annotations: a dataset's folder, or its annotation files."""
    detections: Path
    """The detections: .json, .csv or .parquet (or a folder of Parquet files)."""
    json: Path | None = None
    """Write the numbers to this file too."""
    format: str = "auto"
    """The truth's layout: coco, lvis, open_images, voc, or auto."""
    skip_unknown_classes: bool = False
    """Leave out detections of classes that the truth's class table does not have, as pycocotools does silently."""


@dataclass(frozen=True, kw_only=True)
class Coco(Score):
    """COCO's twelve numbers, equal to pycocotools': AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.

    -1 stands for what has no truth. Crowds (and group-of boxes) are regions; difficult boxes are ordinary.
    """


@dataclass(frozen=True, kw_only=True)
class Lvis(Score):
    """LVIS's thirteen numbers, equal to lvis-api's: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR@300, ARs@300,
    ARm@300, ARl@300.

    The 300 best detections of an image count, and of them those of classes that its annotations or neg_category_ids
    speak of; where a class is not exhaustively annotated none is wrong. The truth is LVIS JSON: categories need their
    frequency. -1 stands for what has no truth.
    """


@dataclass(frozen=True, kw_only=True)
class Voc(Score):
    """Pascal VOC's mean average precision, as the development kit computes it.

    Corners are pixels that belong to the box: a width is xmax - xmin + 1; formats that publish a width give
    xmax = x + w first. Difficult boxes are ignored. The JSON has mAP and per_class (null: no box of the class).
    """

    iou: float = 0.5
    """The overlap from which a detection finds a box."""
    eleven_point: bool = False
    """Average precision at the recalls 0, 0.1, ... 1 (VOC 2007) instead of the area under the curve."""


@dataclass(frozen=True, kw_only=True)
class OpenImages(Score):
    """The Open Images Challenge's mean average precision at IoU 0.5, as TensorFlow's object_detection computes it.

    Detections of a class count only in images where the class is verified: by an image-level label or by a box.
    Along the hierarchy, truth boxes and positive image labels are expanded to ancestors, negative ones to descendants;
    truth that was published expanded stays as it is. Detections are not expanded. Boxes stay normalised.
    The JSON has mAP and per_class (by published id; null: nothing to find).
    """

    image_labels: Path | None = None
    """CSV of verified image-level labels (ImageID, LabelName, Confidence 0 or 1)."""
    hierarchy: Path | None = None
    """Open Images' hierarchy JSON. Without it nothing is expanded."""
    group_of_weight: float = 1.0
    """What finding a group-of box counts; 0: detections on groups are ignored."""
    iou: float = 0.5
    """The overlap from which a detection finds a box."""


Protocol = (
    Annotated[Coco, tyro.conf.subcommand("coco")]
    | Annotated[Lvis, tyro.conf.subcommand("lvis")]
    | Annotated[Voc, tyro.conf.subcommand("voc")]
    | Annotated[OpenImages, tyro.conf.subcommand("open_images")]
)


def score(args: Score) -> tuple["Result", list[str]]:
    """Read both sides and evaluate.

    Returns:
        The result, and lines on what was read, left out or converted.
    """
    from xray_det.data.formats.detections import read_detections
    from xray_det.evaluation import coco, lvis, open_images, published, voc
    from xray_det.evaluation.identity import align

    truth, source = published.read_truth(args.truth, args.format)
    ancestors = None
    if isinstance(args, OpenImages):
        if args.image_labels is not None:
            truth = published.add_image_labels(truth, args.image_labels)
        if args.hierarchy is not None:
            truth, ancestors = published.add_hierarchy(truth, published.read_hierarchy(args.hierarchy))
    detected, notes = align(
        read_detections(args.detections),
        truth,
        open_classes=args.skip_unknown_classes or source.format not in published.COCO_JSON,
        open_images=isinstance(args, OpenImages) and source.format == "open_images",
    )
    notes.insert(0, _counts(truth, detected, source.format))
    if isinstance(args, OpenImages) and args.hierarchy is None and source.hierarchy is not None:
        notes.append("a hierarchy lies beside the truth and is not used: --hierarchy expands along it")
    if isinstance(args, Voc):
        return voc.evaluate(truth, detected, iou=args.iou, use_eleven_points=args.eleven_point), notes
    if isinstance(args, OpenImages):
        result = open_images.evaluate(
            truth, detected, ancestors=ancestors, iou=args.iou, group_of_weight=args.group_of_weight
        )
        return result, notes
    if isinstance(args, Lvis):
        return lvis.evaluate(truth, detected), notes
    return coco.evaluate(truth, detected), notes


def report(result: "Result") -> dict[str, object]:
    """What ``--json`` writes."""
    if result.protocol in ("coco", "lvis"):
        return dict(result.metrics)
    table = result.to_json()
    return {"mAP": table["mAP"], "per_class": table["per_class"]}


def _counts(truth: "Truth", detected: "Detected", layout: str) -> str:
    return (
        f"{len(truth.image_ids)} images, {len(truth.label)} boxes, {len(truth.space)} classes ({layout}); "
        f"{len(detected)} detections"
    )


def _print(result: "Result") -> None:
    import numpy as np

    from xray_det.display import Table, terminal

    table = Table("metric", "value", title=result.protocol)
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.6f}")
    classes = Table(
        "rank", "class", "boxes", "AP", keys=2, title="average precision a class, by falling boxes of the truth"
    )
    for column in (table.columns[1], classes.columns[0], *classes.columns[2:]):
        column.justify = "right"
    keys = list(result.per_class)
    for rank, row in enumerate(np.argsort(-result.boxes, kind="stable"), 1):
        if not np.isnan(result.ap[row]):
            key, name = keys[row], result.space.names[row]
            shown = key if key == name else f"{key} {name}"
            classes.add_row(str(rank), shown, str(result.boxes[row]), f"{result.ap[row]:.6f}")
    terminal().print(table, classes)


def main(args: Protocol) -> None:
    """Print the numbers, and write them where asked."""
    try:
        result, notes = score(args)
        if args.json is not None:
            from xray_det.storage import write_bytes

            write_bytes(args.json, (json.dumps(report(result), indent=1, ensure_ascii=False) + "\n").encode())
    except InputError as error:
        sys.exit(f"score.py: {error}")
    for note in notes:
        print(printable(note), file=sys.stderr)
    _print(result)


if __name__ == "__main__":
    main(tyro.cli(Protocol, description=__doc__))  # type: ignore[arg-type]
