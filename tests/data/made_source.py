"""A published dataset made for tests: small real JPEGs on disk, with one of each thing that ingest must notice."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from xray_det.data.formats.rows import published
from xray_det.labels.space import Class, LabelSpace

IMAGES = 23


def jpeg(seed: int, *, size: tuple[int, int] = (48, 32), quality: int = 90, grey: bool = False) -> bytes:
    """A smooth random picture: its perceptual hash survives re-encoding."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    (coarse.convert("L") if grey else coarse).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


@dataclass
class MadeSource:
    """23 images of 48 x 32 in splits train (images 0-15) and val (16-22), written to ``root``.

    Image 3 is truncated, 5 is missing, 7 has the bytes of 2 (both train), 17 those of 1 (val and train), 18 is 4
    re-encoded, 6 is grey, 8 has no box. Image 9 holds a repeat, 10 a box without area, 11 one box under two labels,
    12 a box over the edge.
    """

    root: Path
    clean: bool = False
    name: str = "made"
    format: str = "voc"
    hierarchy: None = None
    normalized: bool = False
    exhaustive: bool = True
    findings: tuple[()] = ()
    space: LabelSpace = field(
        default_factory=lambda: LabelSpace(
            name="made", classes=tuple(Class(name=n, source_id=n) for n in ("cup", "plate", "unused"))
        )
    )

    def __post_init__(self) -> None:
        self.image_root = self.root
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "notes.txt").write_text("annotations")
        boxes: list[list[list[float]]] = [
            [[2 + k % 5, 3, 20, 25], [10, 5, 40 - k % 7, 30]][: 1 + k % 2] for k in range(23)
        ]
        labels = [[k % 2, 1][: 1 + k % 2] for k in range(23)]
        files = {k: jpeg(k) for k in range(IMAGES)}
        if not self.clean:
            files |= {3: files[3][:-400], 7: files[2], 17: files[1], 18: jpeg(4, quality=70), 6: jpeg(6, grey=True)}
            del files[5]
            boxes[8], labels[8] = [], []
            boxes[9], labels[9] = [[1, 1, 9, 9], [1, 1, 9, 9]], [0, 0]
            boxes[10], labels[10] = [[4, 4, 4, 20]], [1]
            boxes[11], labels[11] = [[1, 1, 9, 9], [1, 1, 9, 9]], [0, 1]
            boxes[12], labels[12] = [[-3, 2, 60, 30]], [1]
        for k, payload in files.items():
            (self.root / f"{k}.jpg").write_bytes(payload)
        self.boxes, self.labels = boxes, labels
        self.files = files

    def batches(self, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        for start in range(0, IMAGES, rows):
            ks = range(start, min(start + rows, IMAGES))
            flat = [box for k in ks for box in self.boxes[k]]
            yield published(
                image_id=[f"image/{k}" for k in ks],
                split=["train" if k < 16 else "val" for k in ks],
                path=[f"{k}.jpg" for k in ks],
                size=([48] * len(ks), [32] * len(ks)),
                offsets=np.cumsum([0, *(len(self.boxes[k]) for k in ks)]),
                boxes=np.array(flat, np.float64).reshape(-1, 4),
                flags=np.zeros(len(flat), np.uint16),
                labels=np.array([label for k in ks for label in self.labels[k]], np.int32),
            )
