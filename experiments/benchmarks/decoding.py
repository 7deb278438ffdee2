"""Decoding: what a lower score threshold and more candidates keep of a long-tailed dataset, and what they cost.

    python experiments/benchmarks/decoding.py WEIGHTS --data ~/xray_det/datasets/FOLDER --split val

Each image goes through the detector once and is decoded with several limits. Columns: detections kept of an image, in
the mean and of 300; average precision by LVIS's protocol, of all classes and of its rare, common and frequent ones
(10, 100 and more training images of this dataset); processor time of decoding in ms an image.

Cost: a prediction of the images in this process. Result: experiments/results/decoding.md.
"""

import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from xray_det.data.limits import MANY_CLASSES, Limits
from xray_det.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from xray_det.data.manifest import Manifest
    from xray_det.evaluation.columns import Truth
    from xray_det.evaluation.result import Result

#: What is tried: one change at a time from the usual limits to those of many classes.
LIMITS = (
    Limits(),
    Limits(max_detections=300),
    Limits(max_detections=300, score_threshold=1e-2),
    Limits(max_detections=300, score_threshold=1e-4),
    Limits(max_detections=300, score_threshold=1e-4, candidates=3000),
    MANY_CLASSES,
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which detector, on what."""

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """Weights folder of a detector."""
    data: str
    """Folder of an ingested dataset."""
    split: str = "val"
    """Its images to predict."""
    batch: int = 8
    """Images a forward pass."""


def main(args: Args) -> None:
    """Predict, decode with all limits, score each, print one table."""
    from xray_det.data.annotations import Annotations, Selection
    from xray_det.evaluation.parts import truth_of

    annotations = Annotations.open([Selection(folder=args.data, split=args.split)])
    manifest = grouped(annotations.manifests[0])
    truth = truth_of(annotations.batch, manifest)
    print("| threshold | candidates | of at most | kept | AP | APr | APc | APf | ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for limits, (table, seconds) in decoded(args, annotations.batch, manifest).items():
        result = score(table, truth, manifest, args.weights)
        kept = sum(map(len, table["scores"].to_pylist())) / table.num_rows
        numbers = " | ".join(f"{100 * result.metrics[name]:.1f}" for name in ("AP", "APr", "APc", "APf"))
        said = f"| {limits.score_threshold:g} | {limits.candidates} | {limits.max_detections} | {kept:.0f} |"
        print(f"{said} {numbers} | {1000 * seconds / table.num_rows:.1f} |")


def grouped(manifest: "Manifest") -> "Manifest":
    """The dataset with LVIS's frequency groups by its training images."""
    from xray_det.data.manifest import TRAINING

    images = manifest.images_of(manifest.first_split(*TRAINING))
    groups = ["r" if n <= 10 else "c" if n <= 100 else "f" for n in images]
    classes = tuple(replace(c, frequency=f) for c, f in zip(manifest.space.classes, groups, strict=True))
    return replace(manifest, space=replace(manifest.space, classes=classes))


def decoded(args: Args, images: "pa.RecordBatch", manifest: "Manifest") -> "dict[Limits, tuple[pa.Table, float]]":
    """Limits -> detections, and the seconds that decoding took."""
    import pyarrow as pa
    import torch

    from xray_det.inference.detect import detection_rows
    from xray_det.inference.pictures import by_aspect, pictures
    from xray_det.inference.predict import augmentation_at_test
    from xray_det.models.weights import load_detector

    saved, _ = load_detector(args.weights)
    detectors = {
        limits: load_detector(args.weights, decoding=saved.config.decoding.widened(limits))[0] for limits in LIMITS
    }
    sizes_at_test = augmentation_at_test(args.weights)
    found: dict[Limits, list[pa.RecordBatch]] = {limits: [] for limits in LIMITS}
    seconds = dict.fromkeys(LIMITS, 0.0)
    for chosen in by_aspect(images, args.batch):
        rows = images.take(pa.array(chosen))
        shown = pictures(rows, sizes_at_test)
        sizes, scales = torch.tensor(shown.sizes), torch.tensor(shown.scales[:, [1, 0, 1, 0]])
        with torch.inference_mode():
            said = saved(torch.tensor(shown.images).permute(0, 3, 1, 2), sizes)
            for limits, detector in detectors.items():
                start = time.process_time()
                detections = detector.decode(said, sizes)
                seconds[limits] += time.process_time() - start
                detections.boxes = (detections.boxes / scales[detections.image]).float()
                image_ids = rows["image_id"].to_pylist()
                found[limits].append(detection_rows(detections, image_ids, [manifest.name] * len(image_ids)))
    return {limits: (pa.Table.from_batches(batches), seconds[limits]) for limits, batches in found.items()}


def score(table: "pa.Table", truth: "Truth", manifest: "Manifest", weights: str) -> "Result":
    """By LVIS's protocol."""
    from xray_det.evaluation import lvis
    from xray_det.evaluation.columns import detected_from_table
    from xray_det.inference.classes import dataset_rows
    from xray_det.models.weights import read_space

    space = read_space(weights)
    rows = dataset_rows(space, manifest.space, manifest.name)
    return lvis.evaluate(truth, detected_from_table(table, truth, rows=rows))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"decoding.py: {error}")
