"""Derive a small dataset in which each class keeps its share of the boxes: mini-train, mini-val, a tiny track.

    python experiments/subset.py ~/xray_det/open_images --split train --images 115000 --out ~/xray_det/mini-train
    python experiments/subset.py ~/xray_det/open_images --split validation --images 5000 --out ~/xray_det/mini-val
    python experiments/subset.py ~/xray_det/objects365 --split train --ranks 301-365 --out ~/xray_det/tiny-train

--ranks leaves the classes of these ranks alone (1 has most boxes in the training images): the images that hold one of
them, all or --images of them, with the boxes of these classes. Ranks 301-365 of Objects365 are its 65 rarest classes,
a tiny track (paper 003); a detector of all classes begins it with train.py --set start_from=WEIGHTS, which takes the
classifier's rows by name.

OUT is a dataset like any ingested one: train.py, describe.py and evaluate.py take its folder. Annotations are copied;
images stay where they are. The choice follows from the data, the number of images and the seed alone. Every class that
occurs keeps at least one image, so the rarest classes come out above their share; the table says by how much.

Cost: two passes over the shards, and up to 400 over the labels in memory (50 bytes a box). Expect: seconds for a
hundred thousand images.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Args:
    """Of which dataset, and how many images."""

    folder: Annotated[str, tyro.conf.Positional]
    """The ingested dataset."""
    out: str
    """The folder to make: a local path, s3:// or gs://."""
    images: int | None = None
    """How many images; all unless given."""
    ranks: str | None = None
    """FIRST-LAST of the classes to keep, by boxes of the dataset's training images; all unless given."""
    split: str | None = None
    """Choose among the images of this split."""
    seed: int = 0
    """Of the choice."""
    name: str | None = None
    """The new dataset's name; the folder's unless given."""
    json: Path | None = None
    """Write each class's share before and after to this file."""


def main(args: Args) -> None:
    """Choose, write, and print the shares before and after."""
    import numpy as np

    from xray_det.data.manifest import TRAINING, Manifest
    from xray_det.data.statistics import measure
    from xray_det.data.subset import shares, subset
    from xray_det.display import Table, printable, terminal
    from xray_det.labels.frequency import bands
    from xray_det.orchestrate.command_line import read_ranks
    from xray_det.storage import write_bytes

    if args.images is None and args.ranks is None:
        raise InputError("--images", "nothing says how small", "Give a number of images, or --ranks FIRST-LAST")
    ranks = None if args.ranks is None else read_ranks("--ranks", args.ranks)
    made = subset(args.folder, args.out, args.images, ranks=ranks, split=args.split, seed=args.seed, name=args.name)
    whole, names = Manifest.load(args.folder), made.space.names
    if ranks is not None and whole.first_split(*TRAINING) is None:
        print(
            printable(f"{whole.name} has no split train or trainval: ranks are by the boxes of all its images"),
            file=sys.stderr,
        )
    was, after = measure(whole, args.split), measure(made).instance_counts
    before = was.instance_counts[[whole.space.row_of_name[name] for name in names]]
    found = shares(before, after)
    table = Table("", "classes", "boxes before", "after", "change of the share: median", "largest", "of class")
    for column in range(1, 6):
        table.columns[column].justify = "right"
    for band, rows in bands(before).items():
        if len(rows):
            off = np.abs(found["change"][rows] - 1)
            cells = [f"{before[rows].sum():,}", f"{after[rows].sum():,}"]
            worst = names[rows[int(off.argmax())]]
            table.add_row(band, f"{len(rows):,}", *cells, f"{np.median(off):.2%}", f"{off.max():.2%}", worst)
    console = terminal()
    console.print(f"{made.name} (fingerprint {made.fingerprint}): {made.images:,} of {int(was.images):,} images")
    console.print(table)
    if args.json is not None:
        columns = {side: [None if np.isnan(x) else float(x) for x in found[side]] for side in ("before", "after")}
        numbers = {"images": made.images, "fingerprint": made.fingerprint, "classes": list(names), **columns}
        write_bytes(args.json, (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"subset.py: {error}")
