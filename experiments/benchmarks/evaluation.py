"""Protocols on a made long-tailed set: ours against pycocotools (COCO) and against hotcoco alone (the other two).

    python experiments/benchmarks/evaluation.py --scale 0.05

Scale 1 is the Open Images Challenge's validation: 40,000 images, 100 detections each, 500 classes, 8 boxes an image.
Cost at scale 1: about two minutes and 3 GB; pycocotools is left out above ``--most-reference`` detections, as it
takes some fifteen minutes and twenty gigabytes there. Each row runs in a process of its own, which says what it took
at most above its inputs.

Result (one thread of a busy two-core machine, times that of hotcoco alone; all COCO values equal to twelve digits):

    detections   hotcoco        coco   voc    open_images   pycocotools
    200,000      2.7 s          0.96   0.11   0.21          64
    4,000,000    35 s, 1.1 GB   0.99   0.48   0.75          -
"""

import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

if TYPE_CHECKING:
    from xray_det.evaluation.columns import Detected, Truth

Scene = tuple["Truth", "Detected"]
Job = Callable[["Truth", "Detected"], float]
Preparation = Callable[["Truth", "Detected"], None]


@dataclass(frozen=True, kw_only=True)
class Args:
    scale: float = 0.05
    """1: 40,000 images."""
    detections_per_image: int = 100
    classes: int = 500
    seed: int = 0
    most_reference: int = 500_000
    """pycocotools runs up to so many detections."""


def made_scene(args: Args) -> Scene:
    """Truth and detections: classes by a Zipf law, half of the truth found with noise, the rest clutter."""
    from xray_det.data.schema import BoxFlag
    from xray_det.evaluation.columns import Detected, Truth
    from xray_det.labels.space import Class, LabelSpace

    rng = np.random.default_rng(args.seed)
    images = max(1, int(40_000 * args.scale))
    weights = 1 / np.arange(1, args.classes + 1)
    weights /= weights.sum()
    boxes_of = rng.poisson(8, images)
    image = np.repeat(np.arange(images), boxes_of)
    corner = rng.uniform(0, 400, (len(image), 2))
    sizes = rng.lognormal(4, 0.8, (len(image), 2))
    label = rng.choice(args.classes, len(image), p=weights).astype(np.int32)
    group = rng.random(len(image)) < 0.06
    truth = Truth(
        space=LabelSpace(
            name="made", classes=tuple(Class(name=str(c), source_id=str(c + 1)) for c in range(args.classes))
        ),
        image_ids=tuple(map(str, range(images))),
        paths=(None,) * images,
        image_sizes=np.full((images, 2), 640.0),
        image=image,
        label=label,
        boxes=np.concatenate([corner, corner + sizes], axis=1),
        sizes=sizes,
        area=sizes.prod(axis=1),
        flags=np.where(group, int(BoxFlag.GROUP_OF), 0).astype(np.uint16),
        verified=np.empty((0, 3), np.int64),
        exhaustive=True,  # every detection is judged: the most work
        normalized=False,
    )
    total = images * args.detections_per_image
    near = rng.choice(len(image), total // 4)
    moved = truth.boxes[near] + rng.normal(0, 6, (len(near), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    far = total - len(near)
    corner = rng.uniform(0, 400, (far, 2))
    clutter = np.concatenate([corner, corner + rng.lognormal(4, 0.8, (far, 2))], axis=1)
    boxes = np.concatenate([moved, clutter])
    order = rng.permutation(total)
    detected = Detected(
        image=np.concatenate([image[near], rng.integers(0, images, far)])[order],
        label=np.concatenate([label[near], rng.choice(args.classes, far, p=weights).astype(np.int32)])[order],
        boxes=boxes[order],
        sizes=(boxes[:, 2:] - boxes[:, :2])[order],
        scores=np.concatenate([rng.beta(4, 2, len(near)), rng.beta(1, 6, far)])[order],
    )
    return truth, detected


def ours_coco(truth: "Truth", detected: "Detected") -> float:
    from xray_det.evaluation import coco

    return coco.evaluate(truth, detected).metrics["AP"]


def ours_voc(truth: "Truth", detected: "Detected") -> float:
    from xray_det.evaluation import voc

    return voc.evaluate(truth, detected).metrics["mAP"]


def ours_open_images(truth: "Truth", detected: "Detected") -> float:
    from xray_det.evaluation import open_images

    return open_images.evaluate(truth, detected).metrics["mAP"]


def engine_alone(truth: "Truth", detected: "Detected") -> float:
    """hotcoco from arrays to precision, what the Open Images and VOC protocols are to keep up with."""
    from xray_det.evaluation import coco

    return float(coco.precision_recall(truth, detected).precision.max())


def reference(truth: "Truth", detected: "Detected") -> float:
    """pycocotools, on its own dictionaries; they are made before the clock starts."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(*_REFERENCE_INPUT, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


_REFERENCE_INPUT: list[Any] = []


def prepare_reference(truth: "Truth", detected: "Detected") -> None:
    from pycocotools.coco import COCO

    published, results = COCO(), COCO()
    published.dataset = {
        "images": [{"id": i} for i in range(len(truth.image_ids))],
        "categories": [{"id": c} for c in range(len(truth.space))],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": c, "bbox": [*b[:2], *s], "area": a, "iscrowd": g}
            for n, (i, c, b, s, a, g) in enumerate(
                zip(
                    truth.image.tolist(),
                    truth.label.tolist(),
                    truth.boxes.tolist(),
                    truth.sizes.tolist(),
                    truth.area.tolist(),
                    (truth.flags > 0).astype(int).tolist(),
                    strict=True,
                )
            )
        ],
    }
    results.dataset = published.dataset | {
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": c, "bbox": [*b[:2], *s], "area": s[0] * s[1], "score": v}
            for n, (i, c, b, s, v) in enumerate(
                zip(
                    detected.image.tolist(),
                    detected.label.tolist(),
                    detected.boxes.tolist(),
                    detected.sizes.tolist(),
                    detected.scores.tolist(),
                    strict=True,
                )
            )
        ]
    }
    published.createIndex()
    results.createIndex()
    _REFERENCE_INPUT[:] = [published, results]


def _memory(field: str) -> float:
    """A number of /proc/self/status in MB: VmRSS now, VmHWM at most since the mark was reset."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _measured(function: "Job", args: Args, prepare: "Preparation | None", out: Any) -> None:
    scene = made_scene(args)
    if prepare is not None:
        prepare(*scene)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
    start = time.perf_counter()
    value = function(*scene)
    seconds = time.perf_counter() - start
    out.put((seconds, _memory("VmHWM") - before, value))


def main(args: Args) -> None:
    from rich.console import Console
    from rich.table import Table

    total = int(40_000 * args.scale) * args.detections_per_image
    jobs: dict[str, tuple[Job, Preparation | None]] = {
        "hotcoco alone": (engine_alone, None),
        "coco": (ours_coco, None),
        "voc": (ours_voc, None),
        "open_images": (ours_open_images, None),
    }
    if total <= args.most_reference:
        jobs["pycocotools"] = (reference, prepare_reference)
    context = multiprocessing.get_context("spawn")
    found: dict[str, tuple[float, float, float]] = {}
    for name, (function, prepare) in jobs.items():
        queue = context.Queue()
        process = context.Process(target=_measured, args=(function, args, prepare, queue))
        process.start()
        found[name] = queue.get()
        process.join()
    table = Table("protocol", "seconds", "MB above the input", "times hotcoco", "value", title=f"{total} detections")
    engine = found["hotcoco alone"][0]
    for name, (seconds, megabytes, value) in found.items():
        table.add_row(name, f"{seconds:.2f}", f"{megabytes:.0f}", f"{seconds / engine:.2f}", f"{value:.12f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
