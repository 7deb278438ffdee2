"""How fast and in how much memory is an epoch's plan made? Ours, whole and by shards, against usual Python samplers.

Images are made with the class counts of the Open Images Challenge (1.74 million images, 12.4 million boxes, 500 classes
with 1,418,594 to 14 boxes); ``--counts`` names the JSON. Each sampler runs in a process of its own and makes one epoch
of class-aware sampling (lambda 1):

- ours: ``plan`` in memory;
- by shards: the same plan from shards of 512 images that know only the class counts and where in the row they begin,
  one after another in one process; it must be equal to the last bit;
- the peers: samplers as they are usually written, a dictionary of lists of images by class and a Python list of N
  indices, drawn one by one: ``random.choice`` of a class, which can only be class-aware, and numpy's ``choice`` by
  the classes' probabilities, which serves any lambda.

    python experiments/benchmarks/plan.py --counts challenge_500_train_instance_counts.json --scale 0.1
    python experiments/benchmarks/plan.py --counts challenge_500_train_instance_counts.json --scale 1 --growth

``--growth`` plans 0.1, 1 and 10 million images too (times the scale), ours alone. Memory is the peak above the input
(image_classes: 4 bytes a pair of an image and a class, 8 bytes an image), which the peer has as well. The goals at
scale 1: 0.5 s and 0.5 GB, 100 times as fast as the peer; time linear in images, under 100 bytes an image.

Result at scale 1 on a quiet core:

                                    seconds   MB  time / ours
    ours                               0.26   94      1
    by shards                          0.91  136      3.5
    class-aware peer (random.choice)   2.37  382      9.2
    weighted peer (numpy's choice)    33.6   375    130

    images        seconds  ns an image  bytes an image
       100,000       0.01          129              24
     1,000,000       0.15          152              73
    10,000,000       1.83          183              75

So 100 times is reached against the peer that serves any lambda, not against the other; the other goals are reached.
"""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from xray_det.data.sampling import ImageClasses

IMAGES, BOXES = 1_740_000, 12_400_000
BATCH, SHARD, LAMBDA = 32, 512, 1.0


@dataclass(frozen=True, kw_only=True)
class Args:
    """Plan an epoch with ours, with ours by shards and with two Python samplers."""

    counts: Path
    """JSON with boxes a class: {"categories": [{"instance_count": 14, ...}, ...]}."""
    scale: float = 0.1
    """1: 1.74 million images, 12.4 million boxes."""
    seed: int = 0
    """Of the made images and of the plan."""
    repeats: int = 3
    """Each sampler's best time of so many epochs."""
    growth: bool = False
    """Also 0.1, 1 and 10 million images."""


def main(args: Args) -> None:
    from xray_det.display import Table, terminal

    console = terminal()
    images = int(IMAGES * args.scale)
    table = Table(title=f"one epoch of {images:,} images, class-aware")
    for column in ("sampler", "seconds", "CPU s", "MB", "time ratio", "MB ratio"):
        table.add_column(column, justify="right")
    found = {name: _measured(name, images, args) for name in SAMPLERS}
    ours = found["ours"]
    for name, one in found.items():
        ratios = f"{one['seconds'] / ours['seconds']:.1f}", f"{one['mb'] / ours['mb']:.1f}"
        table.add_row(name, f"{one['seconds']:.2f}", f"{one['cpu']:.2f}", f"{one['mb']:.0f}", *ratios)
    if found["by shards"]["plan"] != ours["plan"]:
        raise SystemExit("the plan by shards is another one")
    console.print(table)
    if args.growth:
        table = Table("images", "seconds", "ns an image", "bytes an image", "with the input", title="growth, ours")
        for thousands in (100, 1_000, 10_000):
            count = int(thousands * 1000 * args.scale)
            one = _measured("ours", count, args)
            each = [f"{one['seconds'] / count * 1e9:.0f}", f"{one['mb'] * 2**20 / count:.0f}"]
            whole = f"{(one['mb'] + one['input_mb']) * 2**20 / count:.0f}"
            table.add_row(f"{count:,}", f"{one['seconds']:.2f}", *each, whole)
        console.print(table)


def made(images: int, counts: Path, seed: int) -> "ImageClasses":
    """Labels drawn by the classes' shares, on images at random, each class on at least one."""
    from xray_det.data.sampling import ImageClasses

    rng = np.random.default_rng(seed)
    share = np.array([one["instance_count"] for one in json.loads(counts.read_text())["categories"]], np.float64)
    boxes = max(BOXES * images // IMAGES, len(share))
    classes, offsets = [], [np.zeros(1, np.int64)]
    of_class = np.maximum(rng.multinomial(boxes, share / share.sum()), 1)
    for start in range(0, images, 2**18):  # block by block, so that making them takes less memory than planning them
        count = min(2**18, images - start)
        taken = rng.binomial(of_class, count / (images - start))
        of_class = of_class - taken
        label = np.repeat(np.arange(len(share), dtype=np.int32), taken)
        block = ImageClasses.of(rng.integers(0, count, len(label)), label, count)
        classes.append(block.classes)
        offsets.append(block.offsets[1:] + offsets[-1][-1])
    return ImageClasses(classes=np.concatenate(classes), offsets=np.concatenate(offsets))


def ours(dataset: "ImageClasses", seed: int, epoch: int) -> np.ndarray:
    from xray_det.data.plan import plan
    from xray_det.data.sampling import SoftBalance

    return plan([dataset], SoftBalance(lam=LAMBDA), batch=BATCH, seed=seed, phase=0, epoch=epoch)


def by_shards(dataset: "ImageClasses", seed: int, epoch: int) -> np.ndarray:
    from xray_det.data.plan import before, drawings, in_order
    from xray_det.data.sampling import SoftBalance

    (drawing,) = drawings(
        [dataset.counts()], [len(dataset)], SoftBalance(lam=LAMBDA), batch=BATCH, seed=seed, phase=0, epoch=epoch
    )
    rows = [drawing.row(dataset.part(start, start + SHARD), start) for start in range(0, len(dataset), SHARD)]
    begins = before([row.tally for row in rows])
    return in_order([drawing.draws(row, begin) for row, begin in zip(rows, begins, strict=True)])


def images_by_class(dataset: "ImageClasses") -> dict[int, list[int]]:
    held: dict[int, list[int]] = {}
    classes, offsets = dataset.classes.tolist(), dataset.offsets.tolist()
    for image in range(len(dataset)):
        for label in classes[offsets[image] : offsets[image + 1]]:
            held.setdefault(label, []).append(image)
    return held


def class_aware_peer(dataset: "ImageClasses", seed: int, epoch: int) -> np.ndarray:
    """A class, all alike, then one of its images; no other lambda than 1."""
    held = images_by_class(dataset)
    labels, rng = sorted(held), random.Random(seed + epoch)
    indices = []
    for _ in range(-(-len(dataset) // BATCH) * BATCH):
        indices.append(rng.choice(held[rng.choice(labels)]))
    return np.array(indices)


def weighted_peer(dataset: "ImageClasses", seed: int, epoch: int) -> np.ndarray:
    """A class by its probability, then one of its images: any lambda."""
    held = images_by_class(dataset)
    labels, rng = sorted(held), random.Random(seed + epoch)
    chance = np.random.default_rng(seed + epoch)
    weights = np.array([len(held[label]) ** (1.0 - LAMBDA) for label in labels])
    probability = weights / weights.sum()
    indices = []
    for _ in range(-(-len(dataset) // BATCH) * BATCH):
        indices.append(rng.choice(held[chance.choice(labels, p=probability)]))
    return np.array(indices)


SAMPLERS: dict[str, Callable[["ImageClasses", int, int], np.ndarray]] = {
    "ours": ours,
    "by shards": by_shards,
    "class-aware peer": class_aware_peer,
    "weighted peer": weighted_peer,
}


def _measured(name: str, images: int, args: Args) -> dict[str, Any]:
    """What one sampler takes in a new process: best seconds and CPU seconds of an epoch, peak MB above the input."""
    arguments = [name, str(images), str(args.counts), str(args.seed), str(args.repeats)]
    child = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def _child(name: str, images: str, counts: str, seed: str, repeats: str) -> None:
    import hashlib

    dataset = made(int(images), Path(counts), int(seed))
    sampler, times = SAMPLERS[name], []
    sampler(dataset.part(0, 1000), 0, 0)  # imports
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for epoch in range(int(repeats)):
        start, cpu = time.perf_counter(), time.process_time()
        plan = sampler(dataset, int(seed), epoch)
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    found = {
        "seconds": min(times)[0],
        "cpu": min(times)[1],
        "mb": _memory("VmHWM") - before,
        "input_mb": (dataset.classes.nbytes + dataset.offsets.nbytes) / 2**20,
        "plan": hashlib.sha256(plan.tobytes()).hexdigest(),
    }
    print(json.dumps(found))


def _memory(field: str) -> float:
    """VmRSS or VmHWM of this process, MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
    else:
        import tyro

        main(tyro.cli(Args, description=__doc__))
