"""Ingested datasets made for tests of what reads them: shards of known rows, and the images they speak of."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from xray_det.data.manifest import Manifest, Shard
from xray_det.data.schema import SHARD, BoxFlag
from xray_det.data.shards import write_shard
from xray_det.labels.space import Class, LabelSpace

FLAGS = [0, 0, 0, 0, BoxFlag.CROWD, BoxFlag.REPEAT, BoxFlag.NO_AREA, BoxFlag.OCCLUDED]


def made_dataset(
    folder: Path,
    name: str,
    images: int,
    *,
    classes: int = 4,
    seed: int = 0,
    exhaustive: bool = True,
    shard_rows: int = 7,
) -> list[dict[str, Any]]:
    """Write a dataset with images of many sizes; returns its shard rows.

    Every fifth image has no box; boxes have flags of all kinds, one or two labels, and some reach outside.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(images):
        width, height = (int(side) for side in rng.integers(40, 120, 2))
        path = folder / "images" / f"{number}.jpg"
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
        count = 0 if number % 5 == 4 else int(rng.integers(1, 5))
        corner = rng.uniform(-5, 30, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 60, (count, 2))], axis=1).astype(np.float32)
        flags = [int(rng.choice(FLAGS)) for _ in range(count)]
        labels = [rng.choice(classes, int(rng.integers(1, 3)), replace=False).tolist() for _ in range(count)]
        verified = [[], []] if exhaustive else np.split(rng.permutation(classes)[:2], 2)
        rows.append(
            {
                "image_id": f"{name}-{number}",
                "dataset": name,
                "split": ["train", "val"][number % 3 == 2],
                "image": {"bytes": None, "path": str(path)},
                "width": width,
                "height": height,
                "boxes": boxes.tolist(),
                "area": [1.0] * count,
                "flags": flags,
                "labels": labels,
                "verified_positive": list(map(int, verified[0])),
                "verified_negative": list(map(int, verified[1])),
                "not_exhaustive": [] if exhaustive or number % 3 else [number % classes],
            }
        )
    shards = []
    for start in range(0, images, shard_rows):
        part = rows[start : start + shard_rows]
        file = f"shards/{start:05}.parquet"
        write_shard(pa.Table.from_pylist(part, schema=SHARD), str(folder / file))
        shards.append(Shard(file=file, rows=len(part)))
    Manifest(
        name=name,
        format="coco",
        fingerprint=f"{name}{images}{seed}",
        space=LabelSpace(name=name, classes=tuple(Class(name=f"{name} {c}", source_id=str(c)) for c in range(classes))),
        hierarchy=None,
        exhaustive=exhaustive,
        images=images,
        boxes=sum(len(row["boxes"]) for row in rows),
        splits={"train": images - images // 3, "val": images // 3},
        image_counts=dict.fromkeys(("train", "val"), (0,) * classes),
        instance_counts=dict.fromkeys(("train", "val"), (0,) * classes),
        repaired={},
        quarantined={},
        shards=tuple(shards),
    ).save(str(folder))
    return rows
