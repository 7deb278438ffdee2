"""How long does it take to count concurrent rates over Open Images? Ours against a loop over images with box_iou.

A dataset as large as Open Images' training set is made once (cached under the home folder, same seed, same shards): at
``--scale 1`` 1.74 million images and 12.4 million boxes of 500 classes that are as frequent as those of the Challenge,
in 3,400 shards as ingest writes them. Some objects have a second box of another class, some boxes two labels.

- ours: ``data.concurrence.count`` over the shards, on Ray Data that was started before, reading included;
- peer: what a user would write, for each image torchvision's ``box_iou`` of all its boxes, and matrix products of
  whether they overlap with their labels. It is timed on one core over ``--sample`` images that are in memory
  already, and scaled to all images as if it divided itself over the cores without loss. Both count the same there.

    python experiments/benchmarks/concurrence.py --scale 0.05
    python experiments/benchmarks/concurrence.py --scale 1

Memory is the peak of what the driver and Ray's workers hold for themselves alone, and of it what the imports take is
the larger part. The goal is under 120 s at scale 1 with two cores. Making the dataset costs some minutes more.

Result at scale 1 on two quiet cores: ours 17.9 s and 848 MB for 1,743,042 images and 12.4 million boxes, the peer 515 s
(scaled from 5,120 images), 29 times as long.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tyro

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES, SHARD_ROWS, WIDTH, HEIGHT = 1_743_042, 512, 1024, 768


@dataclass(frozen=True, kw_only=True)
class Args:
    """Count concurrent rates of a made dataset of Open Images' size, and of a sample of it with box_iou."""

    scale: float = 0.05
    """1: 1.74 million images."""
    sample: int = 5_000
    """The peer counts so many images."""
    cores: int = 2
    """CPUs of Ray."""
    frequencies: Path = Path("../shared/data/open_images/challenge_500_train_instance_counts.json")
    """How frequent the classes are: ``instance_count`` of each of its categories."""
    seed: int = 0
    """Of the made dataset."""


def main(args: Args) -> None:
    import pyarrow as pa
    import ray

    from xray_det import storage
    from xray_det.data import cluster
    from xray_det.data.annotations import Selection
    from xray_det.data.concurrence import count
    from xray_det.data.manifest import FILE, Manifest
    from xray_det.data.shards import read_table
    from xray_det.display import Table, terminal

    folder = storage.home() / "benchmarks" / f"concurrence-{args.scale:g}-{args.seed}"
    if not (folder / FILE).exists():
        make(folder, args)
    manifest = Manifest.load(str(folder))
    classes, images = len(manifest.space), manifest.images
    cluster.start(num_cpus=args.cores, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    flat = np.zeros((classes, classes), bool)
    start = time.perf_counter()
    with peak_memory() as peak:
        found = count([Selection(folder=str(folder))], [np.arange(classes, dtype=np.int32)], flat)
    ours = time.perf_counter() - start
    ray.shutdown()

    uris = manifest.shard_uris[: -(-min(args.sample, images) // SHARD_ROWS)]
    sample = pa.concat_tables([read_table(uri) for uri in uris])
    start = time.perf_counter()
    its = peer(sample, classes)
    its_seconds = (time.perf_counter() - start) * images / len(sample) / args.cores
    check(sample, its)

    table = Table(title=f"r_ij of {images:,} images, {manifest.boxes:,} boxes; {args.cores} cores")
    for column in ("", "seconds", "ours / it", "peak MB", "pairs of classes", "objects with two"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("ours", f"{ours:.1f}", "1", f"{peak[0]:.0f}", f"{len(found.count):,}", f"{found.count.sum():,}")
    table.add_row(f"peer, scaled from {len(sample):,} images", f"{its_seconds:.1f}", f"{ours / its_seconds:.4f}")
    terminal().print(table)


def peer(table: "pa.Table", classes: int) -> npt.NDArray[np.int64]:
    """Objects of class i that also carry j, int64 [C, C], on the diagonal all of class i; image by image."""
    import torch
    from torchvision.ops import box_iou

    from xray_det.data.annotations import box_labels, ragged
    from xray_det.data.schema import NOT_TRAINED, REGION

    boxes, offsets = ragged(table.column("boxes").combine_chunks())
    flags, _ = ragged(table.column("flags").combine_chunks())
    labels, label_box = box_labels(table.column("labels").combine_chunks())
    of_box = np.searchsorted(label_box, np.arange(len(boxes) + 1))
    total = torch.zeros((classes, classes), dtype=torch.int64)
    for first, last in pairwise(offsets.tolist()):
        own = torch.zeros((last - first, classes))
        rows = slice(of_box[first], of_box[last])
        own[torch.from_numpy(label_box[rows] - first), torch.from_numpy(labels[rows].astype(np.int64))] = 1
        objects = torch.from_numpy((flags[first:last] & int(NOT_TRAINED | REGION)) == 0)
        own, corners = own[objects], torch.from_numpy(boxes[first:last].astype(np.float64))[objects]
        carried = (box_iou(corners, corners) >= 0.9).float() @ own > 0
        present = torch.unique(torch.nonzero(carried)[:, 1])  # few of the classes: the product stays small
        total[present[:, None], present] += (own[:, present].T @ carried[:, present].float()).long()
    counted: npt.NDArray[np.int64] = total.numpy()
    return counted


def check(table: "pa.Table", expected: npt.NDArray[np.int64]) -> None:
    """Ours counts what the peer does on its sample."""
    from xray_det.data.concurrence import Survey
    from xray_det.data.objects import Places

    classes = len(expected)
    places = Places.of(table, np.arange(classes))
    found = Survey.of(places, (0.9,), np.zeros((classes, classes), bool)).pairs[0]
    dense = np.diag(found.objects)
    dense[found.first, found.second] = found.count
    if not np.array_equal(dense, expected):
        raise SystemExit(f"ours and the peer differ in {(dense != expected).sum()} pairs")


def make(folder: Path, args: Args) -> None:
    """Write the dataset: many images of few boxes and some of hundreds, as Open Images has them."""
    from rich.progress import track

    from xray_det.data.manifest import Manifest, Shard
    from xray_det.data.shards import write_shard
    from xray_det.labels.space import Class, LabelSpace

    categories = json.loads(args.frequencies.read_text())["categories"]
    counts = np.array([category["instance_count"] for category in categories], np.float64)
    images = max(1, int(IMAGES * args.scale))
    shards, boxes = [], 0
    for number in track(range(-(-images // SHARD_ROWS)), description="making shards"):
        rows = min(SHARD_ROWS, images - number * SHARD_ROWS)
        table = made_shard(number, rows, counts / counts.sum(), np.random.default_rng((args.seed, number)))
        shard = Shard(file=f"shards/{number:05}.parquet", rows=rows)
        write_shard(table, str(folder / shard.file))
        shards.append(shard)
        boxes += len(table.column("flags").combine_chunks().flatten())
    Manifest(
        name="made",
        format="open_images",
        fingerprint=f"{args.seed:016x}",
        space=LabelSpace(name="made", classes=tuple(Class(name=str(c), source_id=str(c)) for c in range(len(counts)))),
        hierarchy=None,
        exhaustive=False,
        images=images,
        boxes=boxes,
        splits={"": images},
        image_counts={"": (0,) * len(counts)},
        instance_counts={"": (0,) * len(counts)},
        repaired={},
        quarantined={},
        shards=tuple(shards),
    ).save(str(folder))


def made_shard(number: int, rows: int, share: npt.NDArray[np.float64], rng: np.random.Generator) -> "pa.Table":
    """Images of 7.1 boxes on average: 6.3 objects, of which an eighth is drawn a second time by someone else."""
    import pyarrow as pa

    from xray_det.data.schema import SHARD, BoxFlag

    drawn = np.minimum(1 + rng.negative_binomial(0.6, 0.6 / (0.6 + 5.3), rows), 500)
    image = np.repeat(np.arange(rows), drawn)
    size = np.array([WIDTH, HEIGHT]) * np.minimum(rng.lognormal(-1.6, 0.9, (len(image), 2)), 1)
    corner = rng.uniform(0, 1, (len(image), 2)) * ([WIDTH, HEIGHT] - size)
    boxes = np.concatenate([corner, corner + size], axis=1)
    label = rng.choice(len(share), len(image), p=share)
    again = np.flatnonzero(rng.random(len(image)) < 1 / 8)
    moved = boxes[again] + rng.normal(0, 0.02, (len(again), 4)) * np.tile(size[again], 2)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    image, boxes = np.append(image, image[again]), np.concatenate([boxes, moved])
    label = np.append(label, label[again] ^ 1) % len(share)
    order = np.argsort(image, kind="stable")
    image, boxes, label = image[order], boxes[order].astype(np.float32), label[order]
    several = rng.random(len(image)) < 0.01
    names = [f"{number:05}{row:05}" for row in range(rows)]
    offsets = pa.array(np.searchsorted(image, np.arange(rows + 1)), pa.int32())
    each = pa.array(np.append(0, np.cumsum(1 + several)), pa.int32())
    both = np.stack([label, (label + 2) % len(share)], axis=1)[np.stack([np.ones_like(several), several], axis=1)]
    quads = pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel()), 4)
    flags = np.where(rng.random(len(image)) < 0.05, int(BoxFlag.GROUP_OF), 0).astype(np.uint16)
    nothing: list[list[int]] = [[]] * rows
    columns = {
        "image_id": names,
        "dataset": ["made"] * rows,
        "split": [None] * rows,
        "image": [{"bytes": None, "path": f"/nowhere/{name}.jpg"} for name in names],
        "offset": [None] * rows,
        "length": [None] * rows,
        "width": [WIDTH] * rows,
        "height": [HEIGHT] * rows,
        "boxes": pa.ListArray.from_arrays(offsets, quads),
        "area": pa.ListArray.from_arrays(offsets, pa.array((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))),
        "visible_boxes": [None] * rows,
        "flags": pa.ListArray.from_arrays(offsets, pa.array(flags)),
        "labels": pa.ListArray.from_arrays(offsets, pa.ListArray.from_arrays(each, pa.array(both, pa.int32()))),
        "verified_positive": nothing,
        "verified_negative": nothing,
        "not_exhaustive": nothing,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in SHARD], schema=SHARD)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """What this process and Ray's workers hold together for themselves alone at most, in MB, seen twice a second."""
    import psutil

    peak, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.5):
            total = 0
            for process in (own := psutil.Process(), *own.children(recursive=True)):
                try:
                    if process == own or "".join(process.cmdline()[:1]).startswith("ray::"):
                        total += process.memory_full_info().uss
                except psutil.Error:  # it has ended
                    continue
            peak[0] = max(peak[0], total / 1e6)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
