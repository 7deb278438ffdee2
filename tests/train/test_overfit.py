"""The parts together can learn: reader, detector, losses and loop overfit eight photographs."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from xray_det.data.batch import Batch, Targets
from xray_det.data.formats.source import open_source
from xray_det.data.images import decode
from xray_det.data.schema import REGION
from xray_det.models.predictions import Detector
from xray_det.models.retinanet import slim
from xray_det.train.loop import Recipe, run
from xray_det.train.phase import AdamW, Phase
from xray_det.train.plain import PlainContext
from xray_det.train.step import native_precision

COUNT, SIDE, STEPS = 8, 192, 64


class OneBatch:
    """The same batch at every step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def steps_per_epoch(self, phase: int) -> int:
        return STEPS

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        return (self.batch for _ in range(start, stop))


def photographs(folder: Path) -> tuple[Batch, int]:
    """The first photographs whose boxes are all ordinary and at least 12 pixels wide and high once resized."""
    source = open_source(folder)
    rows = pa.Table.from_batches(source.batches()).sort_by("image_id").to_pylist()
    images, sizes, boxes, labels, owner, ids = [], [], [], [], [], []
    for row in rows:
        pixels = decode((source.image_root / row["path"]).read_bytes())
        scale = SIDE / max(pixels.shape[:2])
        scaled = np.array(row["boxes"]).reshape(-1, 4) * scale
        if any(flag & REGION for flag in row["flags"]) or (scaled[:, 2:] - scaled[:, :2]).min(initial=SIDE) < 12:
            continue
        height, width = (round(side * scale) for side in pixels.shape[:2])
        canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
        canvas[:height, :width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        owner += [len(images)] * len(scaled)
        images.append(canvas)
        sizes.append((height, width))
        boxes.append(scaled)
        labels += row["labels"]
        ids.append(row["image_id"])
        if len(images) == COUNT:
            break
    seen, label = np.unique(np.array(labels), return_inverse=True)
    targets = Targets(
        boxes=torch.from_numpy(np.concatenate(boxes)).float(),
        box_image=torch.tensor(owner),
        classes=F.one_hot(torch.from_numpy(label), len(seen)).float(),
        classes_known=torch.ones(len(label), len(seen), dtype=torch.bool),
        region=torch.zeros(len(label), dtype=torch.bool),
        absence_known=torch.ones(COUNT, len(seen), dtype=torch.bool),
    )
    batch = Batch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        sizes=torch.tensor(sizes),
        targets=targets,
        image_ids=ids,
        positions=torch.arange(COUNT),
        scales=torch.ones(COUNT, 2),
        original_sizes=torch.tensor(sizes),
    )
    return batch, len(seen)


def ap50(detector: Detector, batch: Batch, classes: int) -> float:
    """pycocotools' AP50 on the very images that were learned."""
    with torch.no_grad():
        found = detector.eval().decode(detector(batch.images, batch.sizes), batch.sizes)

    def entries(boxes: torch.Tensor, image: torch.Tensor, label: torch.Tensor) -> list[dict[str, object]]:
        wide = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
        columns = zip(wide, image.tolist(), label.tolist(), strict=True)
        return [{"bbox": b, "image_id": i, "category_id": c, "area": b[2] * b[3]} for b, i, c in columns]

    truth = entries(batch.targets.boxes, batch.targets.box_image, batch.targets.classes.argmax(1))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(COUNT)],
            "categories": [{"id": c} for c in range(classes)],
            "annotations": [{**entry, "id": n + 1, "iscrowd": 0} for n, entry in enumerate(truth)],
        }
        coco.createIndex()
        said = entries(found.boxes, found.image, found.labels)
        for entry, score in zip(said, found.scores.tolist(), strict=True):
            entry["score"] = score
        scored = COCOeval(coco, coco.loadRes(said), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return float(scored.stats[1])


@pytest.mark.medium
def test_a_detector_overfits_eight_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    batch, classes = photographs(shared_data / "voc2012_100")
    assert len(batch.image_ids) == COUNT
    torch.manual_seed(0)
    detector = slim().build(classes)
    phase = Phase(epochs=1, optimizer=AdamW(), lr=1e-3, warmup_steps=20, drops=(0.75,), clip=10.0)
    recipe = Recipe(phases=(phase,), seed=0, checkpoint_every=STEPS, precision=native_precision("cpu"))
    run(PlainContext(OneBatch(batch), tmp_path), recipe, detector, lambda model, folder: None)
    assert ap50(detector, batch, classes) > 0.95
