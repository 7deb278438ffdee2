"""A small ingested dataset, written without Ray, and an experiment on it that trains in seconds."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from xray_det.data.annotations import Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.manifest import Manifest, Shard
from xray_det.data.sampling import SoftBalance
from xray_det.data.schema import SHARD
from xray_det.labels.space import Class, LabelSpace
from xray_det.models.backbones import Backbone
from xray_det.models.retinanet import RetinaNet
from xray_det.orchestrate.experiment import Data, Experiment
from xray_det.train.phase import Phase

NAMES = ("red", "green", "blue")
COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def write_dataset(folder: Path, *, name: str = "squares", images: int = 24, side: int = 64, seed: int = 0) -> str:
    """Images with one or two coloured squares on noise, as shards with a manifest; returns the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(images):
        pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
        boxes, labels = [], []
        for _ in range(1 + number % 2):
            size, label = int(rng.integers(side // 4, side // 2)), int(rng.choice(3, p=[0.6, 0.3, 0.1]))
            x, y = rng.integers(0, side - size, 2).tolist()
            pixels[y : y + size, x : x + size] = COLOURS[label]
            boxes.append([x, y, x + size, y + size])
            labels.append([label])
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "JPEG", quality=90)
        path = folder / f"{number}.jpg"
        path.write_bytes(sink.getvalue())
        area = [float((b[2] - b[0]) * (b[3] - b[1])) for b in boxes]
        rows.append(
            {
                "image_id": f"image-{number}",
                "dataset": name,
                "image": {"bytes": None, "path": str(path)},
                "width": side,
                "height": side,
                "boxes": boxes,
                "area": area,
                "flags": [0] * len(boxes),
                "labels": labels,
                "verified_positive": [],
                "verified_negative": [],
                "not_exhaustive": [],
            }
        )
    (folder / "shards").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SHARD), folder / "shards" / "0.parquet")
    held = [sum([label] in row["labels"] for row in rows) for label in range(3)]
    Manifest(
        name=name,
        format="coco",
        fingerprint=f"{seed:016x}",
        space=LabelSpace(name=name, classes=tuple(Class(name=n, source_id=n) for n in NAMES)),
        hierarchy=None,
        exhaustive=True,
        images=images,
        boxes=sum(len(row["boxes"]) for row in rows),
        splits={"": images},
        image_counts={"": tuple(held)},
        instance_counts={"": tuple(sum(row["labels"].count([label]) for row in rows) for label in range(3))},
        repaired={},
        quarantined={},
        shards=(Shard(file="shards/0.parquet", rows=images),),
    ).save(str(folder))
    return str(folder)


def experiment(dataset: str, out: Path, **changes: Any) -> Experiment:
    """Two phases of 2 epochs of 6 steps."""
    model = RetinaNet(backbone=Backbone(name="mobilenet_v3_small"), levels=(3, 5), channels=16, head_layers=1)
    defaults: dict[str, Any] = {
        "name": "run",
        "data": Data(train=(Selection(folder=dataset),)),
        "model": model,
        "augmentation": Augmentation(short_side=(64,), max_side=64),
        "phases": (
            Phase(epochs=2, lr=0.005, clip=1.0),
            Phase(epochs=2, lr=0.002, clip=1.0, sampling=SoftBalance(lam=0.7)),
        ),
        "batch": 4,
        "workers": 2,
        "device": "cpu",
        "checkpoint_every": 4,
        "log_every": 1,
        "ema": 0.9,
        "out": str(out),
    }
    return Experiment(**{**defaults, **changes})
