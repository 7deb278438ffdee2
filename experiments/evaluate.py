"""Evaluate: a detector's weights on ingested datasets, by the COCO, Open Images, VOC and LVIS protocols.

    python experiments/evaluate.py ~/xray_det/runs/fod/phases/1/weights --data ~/xray_det/fod_a --json scores.json
    python experiments/evaluate.py WEIGHTS --data A B --split test --protocols coco --run ~/xray_det/runs/fod

Predicts (predict.py says how; finished parts are kept, so a second evaluation is quick) and scores each dataset in its
own classes against its published boxes, unrepaired. Prints a table of metrics, average precision by head, middle and
tail (thirds of the classes by training images), and the classes by frequency; writes OUT/scores.json, OUT/classes.csv
(a line a class and protocol: frequency rank, training images, boxes to find, AP) and figures (precision against
recall, average precision by frequency).

A large dataset is scored in parts, by tasks of Ray Data, and no process holds it, by the Open Images and VOC protocols.
Those of COCO and LVIS want all detections of a dataset in one process (experiments/benchmarks/evaluation.py
has the memory); where that is too much, name the others with --protocols.

--run RUN adds the numbers and figures to the MLflow run of that training (its run folder), under
evaluate/DATASET/PROTOCOL/METRIC; each further evaluation is the next step of these metrics.

Each protocol sees the detections that it needs, whatever else is asked for: 100 of an image that score above 0.05, 300
above 0.0001 where there are more than 80 classes and for LVIS, and more where the detector was set to keep more. OUT
with fewer is refused.

Detections of classes that a dataset does not annotate are left out. The COCO protocol counts every detection that meets
no box as wrong; on data where only verified labels tell what is absent (Open Images, LVIS) read their own protocol.

Cost: predicting, then a second for 10,000 images.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from xray_det import storage
from xray_det.display import printable
from xray_det.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from xray_det.data.annotations import Selection
    from xray_det.evaluation.parts import Protocol
    from xray_det.evaluation.result import Result
    from xray_det.inference.predict import Prediction


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to evaluate on what."""

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """Weights folder of a detector."""
    data: tuple[str, ...]
    """Folders of ingested datasets."""
    split: str | None = None
    """Split to evaluate, "all" for every image. Unless given: val, else test, else every image."""
    protocols: tuple[Literal["coco", "lvis", "open_images", "voc"], ...] = ()
    """What to score by. Unless given: coco, open_images and voc, and lvis where a dataset was published so."""
    out: str | None = None
    """Folder for detections, scores and figures; unless given WEIGHTS/evaluation/DATASET-SPLIT, and the sides
    that were."""
    json: Path | None = None
    """Write the scores to this file too."""
    run: str | None = None
    """Run folder of the training, to add the numbers to its MLflow run."""
    short_side: int | None = None
    """Pixels of the shorter side instead of WEIGHTS'."""
    max_side: int | None = None
    """Most pixels of the longer side instead of WEIGHTS'."""
    batch: int = 8
    """Images a forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the cluster's GPUs if it has any."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One dataset under one protocol; ``bands`` are the AP of head, middle and tail by ``counts`` [C]."""

    dataset: str
    protocol: str
    result: "Result"
    bands: dict[str, float]
    counts: "np.ndarray"

    @property
    def metrics(self) -> dict[str, float]:
        """What is defined: neither NaN nor COCO's -1."""
        values = {**self.result.metrics, **self.bands}
        return {name: float(value) for name, value in values.items() if value == value and value != -1}


def main(args: Args) -> None:
    from xray_det.data.annotations import Selection
    from xray_det.data.manifest import Manifest
    from xray_det.evaluation.assess import all_protocols, needed
    from xray_det.inference.predict import Predicting, augmentation_at_test, predict
    from xray_det.models.weights import read_space

    selections = tuple(Selection(folder=folder, split=split_of(folder, args.split)) for folder in args.data)
    manifests = [Manifest.load(folder) for folder in args.data]
    names = [f"{m.name}-{chosen.split or 'all'}" for m, chosen in zip(manifests, selections, strict=True)]
    sides = {"short": args.short_side, "max": args.max_side}
    names[-1] += "".join(f"-{name}{side}" for name, side in sides.items() if side is not None)
    out = args.out or storage.join(args.weights, "evaluation", "_".join(names))
    protocols = [args.protocols or all_protocols(manifest) for manifest in manifests]
    space = read_space(args.weights)
    prediction = predict(
        args.weights,
        selections,
        out,
        augmentation=augmentation_at_test(args.weights, short_side=args.short_side, max_side=args.max_side),
        limits=needed(zip(manifests, protocols, strict=True), space),
        settings=Predicting(batch=args.batch, device=args.device, precision=args.precision),
    )
    scored = [
        one
        for selection, chosen in zip(selections, protocols, strict=True)
        for one in score(prediction, selection, chosen, args.weights)
    ]
    table: dict[str, Any] = {}
    for one in scored:
        bands = {name: value if value == value else None for name, value in one.bands.items()}
        table.setdefault(one.dataset, {})[one.protocol] = {**one.result.to_json(), **bands}
    storage.write_json(storage.join(out, "scores.json"), table)
    if args.json is not None:
        storage.write_json(args.json, table)
    storage.write_bytes(storage.join(out, "classes.csv"), class_table(scored).encode())
    show(scored)
    figures = draw(scored, out)
    print(printable(f"scores and figures: {out}"))
    if args.run is not None:
        track(args.run, scored, figures)


def split_of(folder: str, asked: str | None) -> str | None:
    """The split to evaluate; None for every image. Says so where it was not asked for."""
    from xray_det.data.manifest import VALIDATION, Manifest

    if asked is not None:
        return None if asked == "all" else asked
    manifest = Manifest.load(folder)
    split = manifest.first_split(*VALIDATION)
    what = f"the split {split}" if split else "every image (it has no val or test)"
    print(printable(f"{manifest.name}: evaluating {what}"))
    return split


def score(
    prediction: "Prediction", selection: "Selection", protocols: "tuple[Protocol, ...]", weights: str
) -> list[Scored]:
    """A dataset under each protocol, with bands by the training images of the detector's own training data."""
    from xray_det.data.leakage import also_trained_on
    from xray_det.data.manifest import Manifest
    from xray_det.evaluation.assess import assess, trained_counts
    from xray_det.evaluation.bands import by_band
    from xray_det.labels.frequency import bands

    dataset = Manifest.load(selection.folder)
    trained = trained_on(weights)
    if trained is None:
        told = f"{dataset.name}: the training data are not there; bands go by this dataset's own images"
        print(printable(told), file=sys.stderr)
    for sentence in also_trained_on(trained or (), [(dataset, selection.split)]):
        print(printable(f"warning: {sentence}"), file=sys.stderr)
    counts = trained_counts(prediction.space, trained or [(dataset, None)], dataset)
    results = assess(prediction, selection, protocols)
    return [
        Scored(dataset=dataset.name, protocol=p, result=r, bands=by_band(r, bands(counts)), counts=counts)
        for p, r in results.items()
    ]


def trained_on(weights: str) -> "list[tuple[Any, str | None]] | None":
    """Manifests and splits that a detector was trained on; None when it does not say or they have gone."""
    from xray_det.data.manifest import FILE, Manifest
    from xray_det.models.weights import CONFIG_FILE, read_config

    experiment = read_config(weights).get("experiment") or {}
    try:
        selections = [(str(one["folder"]), one["split"]) for one in (experiment.get("data") or {}).get("train", ())]
    except (TypeError, KeyError, AttributeError) as error:
        where = f"{storage.join(weights, CONFIG_FILE)}: experiment.data.train"
        raise InputError(where, "is no list of folders and splits", "Give weights that xray_det wrote") from error
    if not selections or not all(storage.exists(storage.join(folder, FILE)) for folder, _ in selections):
        return None
    return [(Manifest.load(folder), split) for folder, split in selections]


def show(scored: list[Scored]) -> None:
    """One table a protocol, a column a dataset; and the classes of each dataset, by falling training count."""
    import numpy as np

    from xray_det.display import Table, terminal

    console = terminal()
    for protocol in dict.fromkeys(one.protocol for one in scored):
        rows = [one for one in scored if one.protocol == protocol]
        names = list(dict.fromkeys(name for one in rows for name in {**one.result.metrics, **one.bands}))
        table = Table("metric", *(one.dataset for one in rows), title=protocol)
        for column in table.columns[1:]:
            column.justify = "right"
        for n in names:
            table.add_row(n, *(f"{one.metrics[n]:.3f}" if n in one.metrics else "-" for one in rows))
        console.print(table)
    for dataset in dict.fromkeys(one.dataset for one in scored):
        own = [one for one in scored if one.dataset == dataset]
        columns = ("rank", "class", "training images", *(f"AP {one.protocol} (boxes)" for one in own))
        table = Table(*columns, keys=2, title=dataset)
        for column in (table.columns[0], *table.columns[2:]):
            column.justify = "right"
        for rank, row in enumerate(np.argsort(-own[0].counts, kind="stable"), 1):
            pairs = [(one.result.ap[row], one.result.boxes[row]) for one in own]
            if not np.isnan([ap for ap, _ in pairs]).all():
                cells = ("-" if np.isnan(ap) else f"{ap:.3f} ({boxes})" for ap, boxes in pairs)
                table.add_row(str(rank), own[0].result.space.names[row], str(own[0].counts[row]), *cells)
        console.print(table)


def class_table(scored: list[Scored]) -> str:
    """CSV: the classes of each dataset under each protocol, by falling training images; AP is empty where undefined."""
    import csv
    import io

    import numpy as np

    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["dataset", "protocol", "class", "id", "rank", "training_images", "boxes", "AP"])
    for one in scored:
        for rank, row in enumerate(np.argsort(-one.counts, kind="stable"), 1):
            named, ap = one.result.space.classes[row], one.result.ap[row]
            numbers = [rank, one.counts[row], one.result.boxes[row], "" if np.isnan(ap) else float(ap)]
            lines.writerow([one.dataset, one.protocol, named.name, named.source_id, *numbers])
    return text.getvalue()


def draw(scored: list[Scored], out: str) -> dict[str, bytes]:
    """Figures as PNG, written to OUT/figures: precision against recall, and average precision by frequency."""
    from xray_det.evaluation.figures import by_frequency, precision_recall
    from xray_det.lettering import figure_bytes

    drawn: dict[str, bytes] = {}
    for one in scored:
        figures = {
            "precision_recall": precision_recall(one.result),
            "by_frequency": by_frequency({one.dataset: one.result}, one.counts),
        }
        for kind, figure in figures.items():
            name = storage.file_name(f"{one.dataset}_{one.protocol}_{kind}.png")
            drawn[name] = figure_bytes(figure)
            storage.write_bytes(storage.join(out, "figures", name), drawn[name])
    return drawn


def track(run_folder: str, scored: list[Scored], figures: dict[str, bytes]) -> None:
    """Add the numbers to the run's journal, and send them."""
    from xray_det.tracking.journal import Journal, read_points
    from xray_det.tracking.resend import resend

    points = read_points(run_folder)
    metrics = {f"evaluate/{one.dataset}/{one.protocol}/{name}": v for one in scored for name, v in one.metrics.items()}
    step = 1 + max((max(points[name]) for name in metrics if name in points), default=-1)
    with Journal(run_folder, "evaluate") as journal:
        journal.log(metrics, step)
        for name, image in figures.items():
            journal.artifact(f"evaluation/{step}/{name}", image)
    left = resend(run_folder, patience_s=60)
    waiting = f"; {left} records wait for the server" if left else ""
    print(printable(f"added to the run's tracked metrics as step {step}{waiting}"))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"evaluate.py: {error}")
