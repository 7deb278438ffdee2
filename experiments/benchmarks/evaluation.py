"""COCO and LVIS protocols on a made long-tailed set: ours against every library at hand that computes the same.

    python experiments/benchmarks/evaluation.py --scale 0.05
    python experiments/benchmarks/evaluation.py --scale 0.125 --most-reference 1000000

Scale 1: 80,000 images, 365 classes, 8 boxes and 100 detections an image (8 million). Each contestant runs in a process
of its own, from arrays (or its own dictionaries or JSON, made before the clock starts) to its metrics, and says what it
took at most above its inputs. The table gives the time on the clock and of all processors (which a busy machine changes
less), each also as a multiple of the fastest *other* library's, and the largest difference from our metrics.
faster-coco-eval, ultrafast-pycocotools and vernier take part where they are installed; no lock has them.

Above ``--most-reference`` detections pycocotools and lvis-api are left out: they take minutes for a million, and would
take tens of gigabytes if they were not given a few classes at a time, which changes none of their numbers.

Result on two quiet cores: all numbers of all contestants (hotcoco 1.3.0, ultrafast-pycocotools 0.1.14, vernier 0.5.4,
pycocotools 2.0.11, lvis 0.5.3) are equal to the last bit. Seconds, and MB above the inputs:

                      ours           hotcoco        ultrafast     vernier        reference
    coco, scale 1     7.51  2722     7.15  2688     6.98   928    43.8   7421
    lvis, scale 1     5.17  2545     4.83  2325     59.9  6192    -
    coco, 0.125       0.90   460     0.81   377     0.62   156     4.07   951    202   1475
    lvis, 0.125       0.63   337     0.48   294     5.54   761    -              98.8   871

At scale 1 ours takes 1.08 (LVIS 1.07) times the fastest's time, as was the goal (1.2); at 0.125, 1.46 (1.30) times.
The reference tools take 224 and 157 times ours.
"""

import contextlib
import importlib.util
import io
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

if TYPE_CHECKING:
    from xray_det.evaluation.columns import Detected, Truth

Scene = tuple["Truth", "Detected"]
#: The scene in the contestant's own form; then its metrics. ``federated``: by LVIS's rules.
Prepare = Callable[["Truth", "Detected", bool], Any]
Run = Callable[[Any, bool], list[float]]
#: Seconds on the clock, seconds of processors, MB above the input, metrics.
Measured = tuple[float, float, float, list[float]]
#: The references see so many classes at a time.
CHUNK = 20


@dataclass(frozen=True, kw_only=True)
class Args:
    scale: float = 0.05
    """1: 80,000 images."""
    detections_per_image: int = 100
    classes: int = 365
    seed: int = 0
    most_reference: int = 500_000
    """pycocotools, lvis-api and faster-coco-eval run up to so many detections."""


def made_scene(args: Args) -> Scene:
    """Truth and detections: classes by a Zipf law, half of the truth found with noise, the rest clutter.

    Of every image some classes are listed as absent, and of some that it holds not every box is drawn.
    """
    from xray_det.data.schema import BoxFlag
    from xray_det.evaluation.columns import Detected, Truth
    from xray_det.labels.space import Class, LabelSpace

    rng = np.random.default_rng(args.seed)
    images = max(1, int(80_000 * args.scale))
    weights = 1 / np.arange(1, args.classes + 1)
    weights /= weights.sum()
    boxes_of = rng.poisson(8, images)
    image = np.repeat(np.arange(images), boxes_of)
    corner = rng.uniform(0, 400, (len(image), 2))
    sizes = rng.lognormal(4, 0.8, (len(image), 2))
    label = rng.choice(args.classes, len(image), p=weights).astype(np.int32)
    held = np.unique(image * args.classes + label)
    absent = np.setdiff1d(np.arange(images).repeat(10) * args.classes + rng.choice(args.classes, 10 * images), held)
    unclear = held[rng.random(len(held)) < 0.05]
    space = LabelSpace(
        name="made",
        classes=tuple(
            Class(name=str(c), source_id=str(c + 1), frequency="fcr"[c * 3 // args.classes])
            for c in range(args.classes)
        ),
    )
    truth = Truth(
        space=space,
        image_ids=tuple(map(str, range(images))),
        paths=(None,) * images,
        image_sizes=np.full((images, 2), 640.0),
        image=image,
        label=label,
        boxes=np.concatenate([corner, corner + sizes], axis=1),
        sizes=sizes,
        area=sizes.prod(axis=1),
        flags=np.where(rng.random(len(image)) < 0.06, int(BoxFlag.CROWD), 0).astype(np.uint16),
        verified=np.stack([*np.divmod(absent, args.classes), np.zeros(len(absent), np.int64)], axis=1),
        not_exhaustive=np.stack(np.divmod(unclear, args.classes), axis=1),
        exhaustive=False,
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


def lists(truth: "Truth") -> list[dict[str, Any]]:
    """COCO's images, with LVIS's lists."""
    images: list[dict[str, Any]] = [
        {"id": i + 1, "width": 640, "height": 640, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        for i in range(len(truth.image_ids))
    ]
    for image, label, _ in truth.verified.tolist():
        images[image]["neg_category_ids"].append(label + 1)
    for image, label in truth.not_exhaustive.tolist():
        images[image]["not_exhaustive_category_ids"].append(label + 1)
    return images


def document(truth: "Truth", federated: bool) -> dict[str, Any]:
    """The truth as COCO or LVIS JSON; LVIS knows no crowds."""
    columns = (truth.image, truth.label, truth.boxes, truth.sizes, truth.area, truth.flags > 0)
    return {
        "images": lists(truth),
        "categories": [
            {"id": r + 1, "name": c.name, "frequency": c.frequency} for r, c in enumerate(truth.space.classes)
        ],
        "annotations": [
            {"id": n + 1, "image_id": i + 1, "category_id": c + 1, "bbox": [*b[:2], *s], "area": a}
            | ({} if federated else {"iscrowd": int(g)})
            for n, (i, c, b, s, a, g) in enumerate(zip(*(column.tolist() for column in columns), strict=True))
        ],
    }


def matrix(detected: "Detected") -> "np.ndarray":
    """float64 [M, 7]: image, x, y, width, height, score, class."""
    left, right = (detected.image + 1, detected.boxes[:, :2], detected.sizes), (detected.scores, detected.label + 1)
    return np.column_stack([*left, *right]).astype(np.float64, copy=False)


def results(detected: "Detected") -> list[dict[str, Any]]:
    """COCO's results, which the references need as dictionaries."""
    return [
        {"image_id": int(i), "category_id": int(c), "bbox": box, "score": score}
        for i, *box, score, c in matrix(detected).tolist()
    ]


def as_they_are(truth: "Truth", detected: "Detected", federated: bool) -> Scene:
    return truth, detected


def ours(scene: Scene, federated: bool) -> list[float]:
    from xray_det.evaluation import coco, lvis

    return list((lvis if federated else coco).evaluate(*scene).metrics.values())


def hotcoco_form(truth: "Truth", detected: "Detected", federated: bool) -> Any:
    crowd = np.zeros(len(truth.label), bool) if federated else truth.flags > 0
    categories = [{"id": r + 1, "name": c.name, "frequency": c.frequency} for r, c in enumerate(truth.space.classes)]
    boxes = np.concatenate([truth.boxes[:, :2], truth.sizes], axis=1)
    given = (lists(truth), categories, truth.image + 1, truth.label + 1, boxes)
    return given, {"area": truth.area, "iscrowd": crowd}, matrix(detected)


def hotcoco(form: Any, federated: bool) -> list[float]:
    import hotcoco

    published = hotcoco.COCO.from_arrays(*form[0], **form[1])
    return quiet(hotcoco.COCOeval(published, published.load_res(form[2]), "bbox", lvis_style=federated))


def dictionaries_and_matrix(truth: "Truth", detected: "Detected", federated: bool) -> Any:
    return document(truth, federated), matrix(detected)


def ultrafast(form: Any, federated: bool) -> list[float]:
    from ultrafast_pycocotools import COCO, COCOeval

    published = COCO(form[0], verbose=False)
    return quiet(COCOeval(published, published.loadRes(form[1]), "bbox", lvis_style=federated))


def faster(form: Any, federated: bool) -> list[float]:
    from faster_coco_eval import COCO, COCOeval_faster

    published = COCO(form[0])
    return quiet(COCOeval_faster(published, published.loadRes(form[1]), "bbox"))


def json_and_matrix(truth: "Truth", detected: "Detected", federated: bool) -> Any:
    return json.dumps(document(truth, federated)).encode(), matrix(detected)


def vernier(form: Any, federated: bool) -> list[float]:
    from vernier.instance import CocoDataset, Evaluator

    evaluator = Evaluator(parity_mode="strict")
    return [float(v) for v in evaluator.evaluate(CocoDataset.from_json(form[0]), form[1]).stats]


def reference_form(truth: "Truth", detected: "Detected", federated: bool) -> Any:
    return document(truth, federated), results(detected)


def pycocotools(form: Any, federated: bool) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        published = COCO()
        published.dataset = form[0]
        published.createIndex()
        evaluation = COCOeval(published, published.loadRes(form[1]), "bbox")
        every, parts = evaluation.params.catIds, []
        for start in range(0, len(every), CHUNK):
            evaluation.params.catIds = every[start : start + CHUNK]
            evaluation.evaluate()
            evaluation.accumulate()
            parts.append(evaluation.eval)
        evaluation.eval = {
            name: np.concatenate([part[name] for part in parts], axis=axis)
            for name, axis in (("precision", 2), ("recall", 1))
        }
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


def file_and_dictionaries(truth: "Truth", detected: "Detected", federated: bool) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(document(truth, federated), file)
    return Path(file.name), results(detected)


def lvis_api(form: Any, federated: bool) -> list[float]:
    import logging

    vars(np)["float"] = float  # which numpy no longer has
    logging.getLogger("lvis").setLevel(logging.ERROR)
    from lvis import LVIS, LVISEval, LVISResults

    published = LVIS(str(form[0]))
    form[0].unlink()
    found = LVISResults(published, form[1])
    every, parts = sorted(published.get_cat_ids()), []
    for start in range(0, len(every), CHUNK):
        evaluation = LVISEval(published, found, "bbox")
        evaluation.params.cat_ids = every[start : start + CHUNK]
        evaluation.evaluate()
        evaluation.accumulate()
        parts.append(evaluation.eval)
    evaluation.params.cat_ids = every
    evaluation.freq_groups = evaluation._prepare_freq_group()
    evaluation.eval = {
        name: np.concatenate([part[name] for part in parts], axis=axis)
        for name, axis in (("precision", 2), ("recall", 1))
    }
    evaluation.summarize()
    return [float(value) for value in evaluation.results.values()]


def quiet(evaluation: Any) -> list[float]:
    """The metrics of an evaluation written like pycocotools', which prints them."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A library. ``protocols``: by which it scores; ``slow``: it takes minutes for a million detections."""

    module: str
    prepare: Prepare
    run: Run
    protocols: tuple[str, ...] = ("coco", "lvis")
    slow: bool = False


CONTESTANTS = {
    "ours": Contestant(module="xray_det", prepare=as_they_are, run=ours),
    "hotcoco": Contestant(module="hotcoco", prepare=hotcoco_form, run=hotcoco),
    "ultrafast-pycocotools": Contestant(module="ultrafast_pycocotools", prepare=dictionaries_and_matrix, run=ultrafast),
    "vernier": Contestant(module="vernier", prepare=json_and_matrix, run=vernier, protocols=("coco",)),
    "faster-coco-eval": Contestant(
        module="faster_coco_eval", prepare=dictionaries_and_matrix, run=faster, protocols=("coco",), slow=True
    ),
    "pycocotools": Contestant(
        module="pycocotools", prepare=reference_form, run=pycocotools, protocols=("coco",), slow=True
    ),
    "lvis-api": Contestant(module="lvis", prepare=file_and_dictionaries, run=lvis_api, protocols=("lvis",), slow=True),
}


def _memory(field: str) -> float:
    """A number of /proc/self/status in MB: VmRSS now, VmHWM at most since the mark was reset."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _measured(name: str, protocol: str, args: Args) -> Measured:
    """In a process of its own."""
    contestant = CONTESTANTS[name]
    form = contestant.prepare(*made_scene(args), protocol == "lvis")
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
    start, worked = time.perf_counter(), time.process_time()
    metrics = contestant.run(form, protocol == "lvis")
    seconds, work = time.perf_counter() - start, time.process_time() - worked
    return seconds, work, _memory("VmHWM") - before, metrics


def main(args: Args) -> None:
    from xray_det.display import Table, terminal

    console = terminal()
    total = int(80_000 * args.scale) * args.detections_per_image
    context = multiprocessing.get_context("spawn")
    for protocol in ("coco", "lvis"):
        found: dict[str, Measured] = {}
        for name, contestant in CONTESTANTS.items():
            if protocol not in contestant.protocols or (contestant.slow and total > args.most_reference):
                continue
            if importlib.util.find_spec(contestant.module) is None:
                console.print(f"{name} is not installed")
                continue
            with ProcessPoolExecutor(1, mp_context=context) as process:
                found[name] = process.submit(_measured, name, protocol, args).result()
        fastest = np.min([measured[:2] for name, measured in found.items() if name != "ours"], axis=0)
        own = np.array(found["ours"][-1])
        heads = ("library", "seconds", "times", "processor seconds", "times", "MB above the input", "AP", "difference")
        table = Table(*heads, title=f"{protocol}: {total} detections")
        for name, (seconds, work, megabytes, metrics) in found.items():
            times = np.array([seconds, work]) / fastest
            apart = np.abs(np.array(metrics) - own).max()
            table.add_row(
                name,
                *(f"{seconds:.2f}", f"{times[0]:.2f}", f"{work:.2f}", f"{times[1]:.2f}"),
                *(f"{megabytes:.0f}", f"{metrics[0]:.12f}", f"{apart:.1e}"),
            )
        console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
