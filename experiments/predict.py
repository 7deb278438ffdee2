"""Predict: a detector's weights over ingested datasets, to detections in Parquet, COCO JSON, and pictures.

    python experiments/predict.py ~/xray_det/runs/fod/phases/1/weights --data ~/xray_det/fod_a --out ~/xray_det/fod_pred
    python experiments/predict.py WEIGHTS --data A B --split val --out s3://bucket/pred --device cuda --batch 32

WEIGHTS is a folder that training wrote (model.safetensors, config.json), DATA are folders that ingest.py wrote. OUT:

part-*.parquet       a row an image: image_id, dataset, boxes (x1 y1 x2 y2 in pixels of the upright image), scores by
                     falling score, labels: rows of the detector's class table, which is in the schema's metadata
DATASET.coco.json    COCO results with the dataset's own published image and category ids (--coco-json)
DATASET.png          detections beside the truth: found green, missed orange, wrong red, grey is not judged (--pictures)

Images are resized as WEIGHTS/preprocessor_config.json says unless --short-side and --max-side say otherwise. As many
detections are kept as evaluate.py needs for the datasets: 100 of an image that score above 0.05, 300 above 0.0001 where
there are more than 80 classes and for LVIS, and more where the detector was set to keep more. Ray Data decodes and
predicts, on every GPU of the cluster or on its CPUs; a few images are predicted without it. Killed and started again it
goes on with the parts that are missing; another detector, dataset or size is refused in the same OUT.

Cost: starting Ray takes 10 s, a worker's imports 5 to 10 s. A slim RetinaNet (ResNet-18, 64 channels) at 160 px does
about 30 images a second a core.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from xray_det import storage
from xray_det.display import printable
from xray_det.errors import InputError

if TYPE_CHECKING:
    from xray_det.data.annotations import Selection
    from xray_det.inference.predict import Prediction


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to predict with what."""

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """Weights folder of a detector."""
    data: tuple[str, ...]
    """Folders of ingested datasets."""
    out: str
    """Folder for the detections: a local path, s3:// or gs://."""
    split: str | None = None
    """Split to predict, of every dataset; all images unless given."""
    batch: int = 8
    """Images a forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the cluster's GPUs if it has any."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast: faster on GPUs and recent CPUs, boxes move by fractions of a pixel."""
    short_side: int | None = None
    """Pixels of the shorter side instead of WEIGHTS'."""
    max_side: int | None = None
    """Most pixels of the longer side instead of WEIGHTS'."""
    coco_json: bool = True
    """Write COCO results JSON, a file a dataset (to a local OUT)."""
    pictures: int = 8
    """Images to draw, of each dataset; 0 for none."""
    score: float = 0.3
    """Detections that score less are not drawn."""


def main(args: Args) -> None:
    from xray_det.data.annotations import Selection
    from xray_det.data.manifest import Manifest
    from xray_det.evaluation.assess import all_protocols, needed
    from xray_det.inference.predict import Predicting, augmentation_at_test, predict
    from xray_det.models.weights import read_space

    selections = tuple(Selection(folder=folder, split=args.split) for folder in args.data)
    manifests = [Manifest.load(folder) for folder in args.data]
    space = read_space(args.weights)
    prediction = predict(
        args.weights,
        selections,
        args.out,
        augmentation=augmentation_at_test(args.weights, short_side=args.short_side, max_side=args.max_side),
        limits=needed([(manifest, all_protocols(manifest)) for manifest in manifests], space),
        settings=Predicting(batch=args.batch, device=args.device, precision=args.precision),
    )
    print(printable(f"{'detections':12} {args.out}"))
    for selection, manifest in zip(selections, manifests, strict=True):
        if args.coco_json and "://" not in args.out:
            print(printable(f"{'COCO JSON':12} {write_coco_json(prediction, selection, args.out)}"))
        if args.pictures > 0:
            address = storage.join(args.out, storage.file_name(f"{manifest.name}.png"))
            print(printable(f"{'pictures':12} {draw(prediction, selection, args, address)}"))


def write_coco_json(prediction: "Prediction", selection: "Selection", out: str) -> str:
    """COCO results of one dataset, in its own published ids; the file's path."""
    from pathlib import Path

    from xray_det.data.formats.detections_out import write_coco_results
    from xray_det.data.manifest import Manifest
    from xray_det.inference.classes import dataset_rows, relabelled

    manifest = Manifest.load(selection.folder)
    rows = dataset_rows(prediction.space, manifest.space, manifest.name)
    path = Path(out) / storage.file_name(f"{manifest.name}.coco.json")
    tables = (relabelled(table, rows, manifest.space) for table in prediction.tables(manifest.name))
    write_coco_results(tables, path, manifest.space)
    return str(path)


def draw(prediction: "Prediction", selection: "Selection", args: Args, address: str) -> str:
    """A sheet of detections beside the truth; its address."""
    import cv2

    from xray_det.inference.drawing import sheet
    from xray_det.inference.gallery import pictures_beside_truth

    drawn = pictures_beside_truth(prediction, selection, images=args.pictures, score=args.score)
    page = sheet([picture for _, picture in drawn])
    storage.write_bytes(address, cv2.imencode(".png", page[..., ::-1])[1].tobytes())
    return address


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"predict.py: {error}")
