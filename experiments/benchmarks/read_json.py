"""How fast and in how much memory is a large COCO JSON read? Ours against pycocotools' ``COCO()``.

A JSON like Objects365's is made once (cached under the home folder, same seed, same bytes): at ``--scale 1`` it holds
1.74 million images and 10 million boxes in no order, 2.1 GB. Each reader runs in a process of its own:

- ours: ``open_source(file, images=False)`` and every batch of rows, boxes grouped by image;
- peer: ``pycocotools.coco.COCO(file)``, which leaves dicts in memory, indexed by image.

    python experiments/benchmarks/read_json.py --scale 0.1
    python experiments/benchmarks/read_json.py --scale 1

Memory is the peak above what the imports take. The goal is a ratio of 3.5 in time, and ours under 100 MB at any scale.
At scale 1 the peer needs 9 GB. Both readers use one thread; on a machine that others use too, the ratio of CPU seconds
is the steadier one. On two such cores:

    scale   boxes        ours             pycocotools       time ratio   CPU ratio
    0.2      2 million    3.2 s,  69 MB    16.8 s, 1.8 GB    5.3          5.3        (CPU seconds; a quiet machine)
    1       10 million   20.8 s,  73 MB    89.7 s, 8.9 GB    4.1          4.3        (a training ran beside it)
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IMAGES, BOXES, CLASSES = 1_742_289, 10_000_000, 365


@dataclass(frozen=True, kw_only=True)
class Args:
    """Read a made Objects365-size JSON with ours and with pycocotools."""

    scale: float = 0.1
    """1: 10 million boxes."""
    seed: int = 0
    """Of the made file."""
    repeats: int = 1
    """Each reader's best time of so many."""
    ours_alone: bool = False
    """Leave pycocotools out, for machines without its memory."""


def main(args: Args) -> None:
    from xray_det import storage
    from xray_det.display import Table, terminal

    file = storage.home() / "benchmarks" / f"objects365-{args.scale:g}-{args.seed}.json"
    if not file.exists():
        make(file, args.scale, args.seed)
    readers = ["ours"] if args.ours_alone else ["ours", "pycocotools"]
    best: dict[str, tuple[float, float, float, int]] = {}
    for _ in range(args.repeats):
        for reader in readers:
            best[reader] = min(_measured(reader, file), best.get(reader, (np.inf, np.inf, np.inf, 0)))
    table = Table(title=f"{file.name}: {file.stat().st_size / 1e9:.2f} GB, {best['ours'][3]:,} boxes")
    for column in ("reader", "seconds", "CPU s", "MB", "time ratio", "CPU ratio", "MB ratio"):
        table.add_column(column, justify="right")
    seconds, cpu, memory, _ = best["ours"]
    for reader, (its_seconds, its_cpu, its_memory, boxes) in best.items():
        if boxes != best["ours"][3]:
            raise SystemExit(f"{reader} saw {boxes} boxes, ours {best['ours'][3]}")
        ratios = f"{its_seconds / seconds:.2f}", f"{its_cpu / cpu:.2f}", f"{its_memory / memory:.1f}"
        table.add_row(reader, f"{its_seconds:.1f}", f"{its_cpu:.1f}", f"{its_memory:.0f}", *ratios)
    terminal().print(table)


def make(file: Path, scale: float, seed: int) -> None:
    """Write the file: Objects365's fields and number formats, boxes in no order, five of a thousand crowds."""
    from rich.progress import track

    rng = np.random.default_rng(seed)
    images, boxes = max(1, int(IMAGES * scale)), int(BOXES * scale)
    ids = rng.permutation(2 * images)[:images] + 1
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as stream:
        stream.write('{"images": [')
        for number, image in enumerate(ids.tolist()):
            name = f"images/v1/patch{image % 51}/objects365_v1_{image:08d}.jpg"
            stream.write(f'{", " if number else ""}{{"height": 512, "id": {image}, "license": 5, "width": 769, ')
            stream.write(f'"file_name": "{name}", "url": ""}}')
        stream.write('], "annotations": [')
        chunk = 100_000
        for start in track(range(0, boxes, chunk), description="writing boxes"):
            count = min(chunk, boxes - start)
            owner = ids[rng.integers(0, images, count)].tolist()
            place = np.column_stack([rng.uniform(0, 400, (count, 2)), rng.uniform(1, 110, (count, 2))]).tolist()
            crowd, label = (rng.random(count) < 0.005).tolist(), rng.integers(1, CLASSES + 1, count).tolist()
            stream.write(", " if start else "")
            stream.write(
                ", ".join(
                    f'{{"id": {start + k + 1}, "iscrowd": {int(crowd[k])}, "isfake": 0, "area": {w * h!r}, '
                    f'"isreflected": 0, "bbox": [{x!r}, {y!r}, {w!r}, {h!r}], "image_id": {owner[k]}, '
                    f'"category_id": {label[k]}}}'
                    for k, (x, y, w, h) in enumerate(place)
                )
            )
        categories = [{"name": f"class {row}", "id": row} for row in range(1, CLASSES + 1)]
        stream.write(f'], "categories": {json.dumps(categories)}, "licenses": []}}')
    partial.rename(file)


def _measured(reader: str, file: Path) -> tuple[float, float, float, int]:
    """Seconds, CPU seconds, peak MB above the imports, and boxes, of one reader in a new process."""
    child = subprocess.run(
        [sys.executable, __file__, "--child", reader, str(file)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, cpu, memory, boxes = json.loads(child.stdout.splitlines()[-1])
    return float(seconds), float(cpu), float(memory), int(boxes)


def _child(reader: str, file: str) -> None:
    read = _ours() if reader == "ours" else _peer()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start, cpu = time.perf_counter(), time.process_time()
    boxes = read(file)
    print(json.dumps([time.perf_counter() - start, time.process_time() - cpu, _memory("VmHWM") - before, boxes]))


def _ours() -> Callable[[str], int]:
    import pyarrow as pa

    pa.array([1])  # imports pandas, where it is installed, at the first conversion
    from xray_det.data.formats.source import open_source

    return lambda file: sum(
        len(b.column("labels").flatten()) for b in open_source(file, "coco", images=False).batches()
    )


def _peer() -> Callable[[str], int]:
    from pycocotools.coco import COCO

    return lambda file: len(COCO(file).anns)


def _memory(field: str) -> float:
    """A field of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
    else:
        import tyro

        main(tyro.cli(Args, description=__doc__))
