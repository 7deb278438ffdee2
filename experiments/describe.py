"""Describe ingested datasets: statistics side by side, the long tail, histograms, and labels that meet on one object.

    python experiments/describe.py ~/xray_det/objects365 ~/xray_det/open_images --out figures
    python experiments/describe.py ~/xray_det/voc --split train --json statistics.json

Prints a table with a column a dataset (images, boxes, classes, boxes and classes an image, imbalance, object sizes) and
for each dataset its most and least frequent classes, the pairs of classes that meet on one object with their concurrent
rates r (paper 002, Fig. 3a; a label that a more specific one on the same box implies is left out) and the parents that
lack a leaf (Fig. 3b). Writes OUT/long_tail.png (images a class by rank, logarithmic, all datasets in one figure),
OUT/NAME.png (histograms a dataset) and, where labels meet, OUT/NAME_labels.png. The JSON has every count, by dataset.

For each sampling rule a table, OUT/NAME_sampling.png and the JSON say what an epoch shows of each class: images drawn,
how often one is seen, and the share that is not. Unless --split says another, the epoch is of the split that a training
takes, train or trainval, where there is one. Paper 002's "252 times" for its rarest class and "99.13 % neglected"
for its most frequent one are N / (C n); beside them stand the values with co-occurrence.

**Which IoU makes two boxes one object** is to be judged from the pairs: they are listed at several thresholds. Of the
3,519 images of Open Images in gt_sample, at 0.9:

    Girl -> Woman            143 objects on distinct boxes, 126 still at 0.95: one object, drawn by two annotators
    Doughnut -> Bagel         27, 20 at 0.95
    Sports uniform -> Man     29, 19 at 0.95: false, a man fills the box of his uniform; r is 0.43
    Human head -> Human hair  27, 7 at 0.95 and 108 at 0.7: false, and small only because of the threshold

Cost: three passes over the shards, in parallel by Ray Data when there are more than a few; images are not opened.
Expect: seconds for a hundred thousand images; memory grows by less than 100 bytes an image.
"""

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which datasets, and where to write."""

    folders: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Ingested datasets: what experiments/ingest.py made."""
    split: str | None = None
    """Count only this split."""
    out: Path | None = None
    """The folder for the figures; unless given, figures in XRAY_DET_HOME (~/xray_det)."""
    json: Path | None = None
    """Write every count to this file."""


def main(args: Args) -> None:
    """Print the tables, write the figures and the JSON."""
    from xray_det.data.figures import confusions, histograms, long_tail, sampling_views
    from xray_det.data.label_report import LabelReport
    from xray_det.data.manifest import TRAINING, Manifest
    from xray_det.data.report import class_table, statistics_table
    from xray_det.data.statistics import measure
    from xray_det.data.views import Views, read_image_classes, views_tables
    from xray_det.display import terminal
    from xray_det.lettering import figure_bytes
    from xray_det.storage import file_name, home, write_bytes

    if not args.folders:
        raise InputError("FOLDER", "no dataset given", "Give the folders of one or more ingested datasets")
    manifests = {manifest.name: manifest for manifest in map(Manifest.load, args.folders)}
    if len(manifests) < len(args.folders):
        raise InputError("FOLDER", "two datasets have one name", "Ingest one of them again with another --name")
    found = {name: measure(manifest, args.split, progress=True) for name, manifest in manifests.items()}
    labels = {name: LabelReport.of(manifest, args.split, progress=True) for name, manifest in manifests.items()}
    epochs = dict.fromkeys(manifests, args.split)
    if args.split is None:
        epochs = {name: manifest.first_split(*TRAINING) for name, manifest in manifests.items()}
    views = {
        name: Views.of(read_image_classes(manifest, epochs[name], progress=True), len(manifest.space))
        for name, manifest in manifests.items()
    }

    console = terminal()
    console.print(statistics_table(found))
    for name, manifest in manifests.items():
        console.print(class_table(manifest, found[name]), *labels[name].tables())
        told = "all images" if epochs[name] is None else f"the split {epochs[name]!r}"
        console.print(f"An epoch of {told}:", *views_tables(manifest, views[name]), sep="\n")
    figures = {name: histograms(name, statistics) for name, statistics in found.items()}
    figures |= {f"{name}_sampling": sampling_views(name, one) for name, one in views.items()}
    counts = {name: statistics.image_counts for name, statistics in found.items()}
    figures["long_tail"] = long_tail(counts, {name: manifest.space.names for name, manifest in manifests.items()})
    figures |= {f"{name}_labels": confusions(report) for name, report in labels.items() if len(report.first)}
    out = args.out or home() / "figures"
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        file = out / file_name(f"{name}.png")
        file.write_bytes(figure_bytes(figure))
        console.print(f"wrote {file}", soft_wrap=True)
    if args.json is not None:
        numbers: dict[str, Any] = {
            name: {"classes": list(manifests[name].space.names)}
            | {f.name: getattr(statistics, f.name).tolist() for f in fields(statistics)}
            | {"concurrence": labels[name].to_json(), "sampling": views[name].to_json()}
            for name, statistics in found.items()
        }
        write_bytes(args.json, (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"describe.py: {error}")
