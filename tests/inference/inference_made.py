"""A small dataset of pictures of many sizes, ingested, and a small detector that finds something in them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xray_det.data.augmentation import Augmentation
from xray_det.data.formats.source import open_source
from xray_det.data.ingest import ingest
from xray_det.labels.space import LabelSpace
from xray_det.losses.focal import SigmoidFocal
from xray_det.models.backbones import Backbone
from xray_det.models.decoding import Decoding
from xray_det.models.predictions import Detector
from xray_det.models.retinanet import RetinaNet
from xray_det.models.weights import save_detector

SIZES = [(48, 32), (32, 48), (64, 32), (32, 72), (32, 32)]  # (width, height)
NAMES = ("cup", "plate", "fork")


def dataset(folder: Path, images: int = 23, boxes: Mapping[int, list[tuple[int, list[float]]]] | None = None) -> str:
    """Ingest ``images`` pictures; the folder of the result.

    Args:
        boxes: image -> (class row, x y width height); None: up to two a picture.
    """
    root = folder / "published"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(7)
    document: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    document["categories"] = [{"id": 10 + k, "name": n} for k, n in enumerate(NAMES)]
    for k in range(images):
        width, height = SIZES[k % len(SIZES)]
        coarse = Image.fromarray(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(root / "images" / f"{k}.png")
        document["images"].append({"id": k, "file_name": f"{k}.png", "width": width, "height": height})
        some = [(j % 3, [*rng.integers(0, 16, 2).tolist(), 12, 14]) for j in range(k % 3)]
        for row, box in some if boxes is None else boxes.get(k, []):
            of = {"id": len(document["annotations"]), "image_id": k, "category_id": 10 + row, "iscrowd": 0}
            document["annotations"].append({**of, "bbox": box, "area": box[2] * box[3]})
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return ingest(open_source(root), str(folder / "shards"), name="made", progress=False).folder


def detector(num_classes: int = 3) -> Detector:
    """Random weights; the class bias is 0, so that half of all rows score above 0.5 and every image has detections."""
    torch.manual_seed(3)
    config = RetinaNet(
        backbone=Backbone(name="resnet18", norm="frozen"),
        levels=(3, 5),
        channels=16,
        head_layers=1,
        classification=SigmoidFocal(),
        decoding=Decoding(score_threshold=0.5, max_detections=20),
    )
    made = config.build(num_classes)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name == "class_head.last.bias":
                parameter.zero_()
            elif "last.weight" in name:
                parameter.mul_(10)
    return made.eval()


def weights(folder: Path, space: LabelSpace, augmentation: Augmentation | None = None) -> str:
    experiment = None
    if augmentation is not None:
        from xray_det.config import to_dict

        experiment = {"augmentation": to_dict(augmentation)}
    save_detector(folder, detector(len(space)), space, experiment=experiment)
    return str(folder)
