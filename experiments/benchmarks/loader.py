"""How fast are batches made? The loader against torch's DataLoader, and against decoding alone.

The same files, cores and equivalent transforms (resize the shorter side, flip half of the images, pad, boxes follow):

- ours: the loader executed by Ray Data, with as many CPUs as the DataLoader has workers;
- ours, torch workers: the same loader executed by torch's DataLoader, as in a process without Ray;
- peer: a dataset as a user would write it: torchvision's decode_image, transforms v2, a collate function that pads;
- limit: reading, decoding and resizing alone, in as many processes, with nothing collected.

    python experiments/benchmarks/loader.py --source ../shared/data/voc2012_100
    python experiments/benchmarks/loader.py --sides 160 800 --scale 4

Without --source, stand-ins for photographs of 640x480 are made. The candidates take turns, and the median of their
passes counts; a pass includes starting Ray Data's execution or the workers. CPU time an image is of all processes
together: on a busy machine it tells more than the clock. With the defaults it takes about two minutes on two quiet
cores. Measured so with voc2012_100 and --scale 4, in ten minutes (images/s, CPU ms an image):

    160 pixels: ours 1053, 1.29 | ours, torch workers 1111, 1.72 | peer 585, 3.24 | limit 2078, 0.95
    800 pixels: ours  336, 4.79 | ours, torch workers  262, 7.34 | peer 165, 11.8 | limit  902, 2.18

A pass of 18 seconds pays a whole start of Ray Data (1.09, 0.46 s to the first batch), a training one a minute's chunk.
At 800 pixels (these images are enlarged to it) an image is 3.5 MB, and what is left is moving it through shared memory.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """The loader against torch's DataLoader and the decode limit."""

    source: str | None = None
    """A published dataset; its images are repeated to the length of a pass. None: made ones."""
    sides: tuple[int, ...] = (160, 480, 800)
    """Shorter sides to resize to; the longer one is at most 5/3 of it."""
    batch: int = 16
    """Images a batch."""
    workers: int = 2
    """CPUs for ours, worker processes for the peer."""
    scale: float = 1.0
    """1: 4800 images a pass at 160 pixels, fewer for larger ones."""
    passes: int = 3
    """How often each candidate runs."""


def main(args: Args) -> None:
    from xray_det.data.annotations import Selection
    from xray_det.data.augmentation import Augmentation
    from xray_det.data.cluster import start
    from xray_det.data.formats.source import open_source
    from xray_det.data.ingest import ingest
    from xray_det.data.loader import Loader, RayData, TorchWorkers
    from xray_det.display import Table, terminal
    from xray_det.labels.supervision import Supervision

    table = Table(title=f"images a second; batch {args.batch}, {args.workers} workers")
    for column in ("shorter side", "candidate", "images/s", "ours / it", "s to first batch", "CPU ms an image"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XRAY_DET_HOME"] = f"{scratch}/home"
        source = args.source or made_photographs(Path(scratch) / "made")
        start(num_cpus=args.workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        manifest = ingest(open_source(source), f"{scratch}/dataset", progress=False)
        classes = len(manifest.space)
        for side in args.sides:
            loader = Loader(
                selections=(Selection(folder=f"{scratch}/dataset"),),
                maps=(np.arange(classes, dtype=np.int32),),
                supervision=Supervision(
                    labelled=np.ones((1, classes), bool), ancestors=np.zeros((classes, classes), bool)
                ),
                augmentation=Augmentation(short_side=(side,), max_side=side * 5 // 3),
                batch=args.batch,
            )
            images = int(4800 * args.scale * 160 / side) // args.batch * args.batch
            plan = np.random.default_rng(0).permutation(np.resize(np.arange(len(loader.annotations)), images))
            candidates: dict[str, Callable[[], Iterator[int]]] = {
                "ours": partial(ours, loader, plan, RayData(cpus=args.workers)),
                "ours, torch workers": partial(ours, loader, plan, TorchWorkers(workers=args.workers)),
                "peer: DataLoader": partial(peer, loader, plan, args.workers),
                "limit: decode": partial(limit, loader, plan, args.workers),
            }
            measured = measure(candidates, args.passes)
            for name, (rate, wait, cpu) in measured.items():
                ratio = f"{measured['ours'][0] / rate:.2f}"
                table.add_row(str(side), name, f"{rate:.0f}", ratio, f"{wait:.2f}", f"{cpu * 1e3:.2f}")
    terminal().print(table)


def measure(candidates: dict[str, Callable[[], Iterator[int]]], passes: int) -> dict[str, tuple[float, float, float]]:
    """Medians: images a second of whole passes, seconds to the first batch, CPU seconds an image; they take turns."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    for number in range(passes + 1):
        for name, start in candidates.items():
            cpu, begun = cpu_seconds(), time.perf_counter()
            counts = start()
            before = next(counts)
            first = time.perf_counter()
            images = sum(counts)
            done = time.perf_counter()
            if number:  # the first turn warms caches and worker processes
                used = (cpu_seconds() - cpu) / (before + images)
                found[name].append(((before + images) / (done - begun), first - begun, used))
    return {name: tuple(map(statistics.median, zip(*v, strict=True))) for name, v in found.items()}  # type: ignore[misc]


def cpu_seconds() -> float:
    """Of this process, all below it (Ray's too) and all that have ended: a busy machine changes it little."""
    import psutil

    total = sum(psutil.Process().cpu_times()[:4])
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return float(total)


def ours(loader: Any, plan: np.ndarray, executor: Any) -> Iterator[int]:
    for batch in loader.batches(plan, 0, 0, executor=executor):
        yield len(batch)


def peer(loader: Any, plan: np.ndarray, workers: int) -> Iterator[int]:
    """torch's DataLoader over a plain dataset."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision import tv_tensors
    from torchvision.io import decode_image
    from torchvision.transforms import v2

    images = loader.annotations.take(np.arange(len(loader.annotations)))
    paths, boxes = images.column("path").to_pylist(), images.column("boxes").to_pylist()
    labels = images.column("labels").to_pylist()
    augmentation = loader.augmentation
    transform = v2.Compose(
        [v2.Resize(list(augmentation.short_side), max_size=augmentation.max_side), v2.RandomHorizontalFlip()]
    )

    class Plain(Dataset[Any]):
        def __len__(self) -> int:
            return len(plan)

        def __getitem__(self, index: int) -> Any:
            row = int(plan[index])
            image = tv_tensors.Image(decode_image(paths[row], mode="RGB"))
            own = torch.tensor(boxes[row], dtype=torch.float32).reshape(-1, 4)
            size = (image.shape[-2], image.shape[-1])
            target = {
                "boxes": tv_tensors.BoundingBoxes(own, format="XYXY", canvas_size=size),  # type: ignore[call-arg]
                "labels": torch.tensor([several[0] for several in labels[row]], dtype=torch.int64),
            }
            return transform(image, target)

    def collate(samples: list[Any]) -> Any:
        multiple = augmentation.multiple
        height, width = (-(-max(image.shape[k] for image, _ in samples) // multiple) * multiple for k in (1, 2))
        canvas = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
        for row, (image, _) in zip(canvas, samples, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return canvas, [target for _, target in samples]

    for canvas, _ in DataLoader(Plain(), batch_size=loader.batch, num_workers=workers, collate_fn=collate):
        yield len(canvas)


def limit(loader: Any, plan: np.ndarray, workers: int) -> Iterator[int]:
    """Reading, decoding, resizing; the pixels are thrown away."""
    paths = loader.annotations.take(plan).column("path").to_pylist()
    parts = [paths[i : i + 4 * loader.batch] for i in range(0, len(paths), 4 * loader.batch)]
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(partial(decode_alone, loader.augmentation.short_side[0]), parts)


def decode_alone(side: int, paths: list[str]) -> int:
    import cv2

    from xray_det.data.images import decode

    for path in paths:
        image = decode(Path(path).read_bytes(), min_short_side=side)
        scale = side / min(image.shape[:2])
        cv2.resize(image, (round(image.shape[1] * scale), round(image.shape[0] * scale)))
    return len(paths)


def made_photographs(folder: Path, images: int = 100) -> str:
    """A VOC release of smooth noise with edges, as hard to decode as a photograph (about 90 kB each)."""
    import cv2

    rng = np.random.default_rng(0)
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        picture = np.zeros((480, 640, 3), np.float32)
        for cells, strength in ((6, 90), (40, 40), (240, 30)):
            noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
            picture += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
        objects = ""
        for _ in range(5):
            x, y = int(rng.integers(0, 560)), int(rng.integers(0, 400))
            picture[y : y + 80, x : x + 80] += rng.normal(0, 60, 3)
            corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + 80}</xmax><ymax>{y + 80}</ymax>"
            objects += f"<object><name>square</name><bndbox>{corners}</bndbox></object>"
        pixels = np.clip(picture + 128, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "JPEGImages" / f"{number:03}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
        text = f"<annotation><filename>{number:03}.jpg</filename>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{number:03}.xml").write_text(text)
    return str(folder)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
