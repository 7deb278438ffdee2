"""From published datasets to a trained, measured, tracked detector, in one command.

    python experiments/quickstart.py                                   # the embedded miniature
    python experiments/quickstart.py --train ~/data/fod_a --name fod   # your own, as published
    python experiments/quickstart.py --natural --name control          # phase 2 stays natural, to compare with

Without --train it renders the miniature: a long-tailed Objects365-style release and an Open Images-style one, each
leaving classes unlabelled that the other labels, with a few defects planted. Then, whatever the datasets are:

1. ingest them into Parquet shards, with a report of what was wrong and what became of it;
2. print their statistics, draw the long tail;
3. unite their label spaces;
4. train one detector on 2 workers in two phases, natural order, then soft-balance sampling (paper 002, eqs 6-8);
5. measure it after each phase on each validation split, by the COCO protocol and by the dataset's own, for the head,
   the middle and the tail of the classes;
6. track all of it in MLflow, and draw detections beside the truth.

A dataset's training images are its split `train` (or `trainval`), its validation images `val` (or `test`); one without
splits is trained and measured on the same images, and the table says so.

Stopped, it goes on where it was when started again; finished, it prints its table. Another configuration needs another
--name. Everything lies in the project's home (XRAY_DET_HOME, ~/xray_det).

Cost: about five minutes on two cores for the miniature. Expect: AP rises in every band from phase 1 to phase 2, and in
the tail more than with --natural (README: how the figures compare).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from xray_det import storage
from xray_det.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from xray_det.data.annotations import Selection
    from xray_det.data.manifest import Manifest
    from xray_det.evaluation.measured import ClassRow
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.run_folder import RunFolder
    from xray_det.tracking.tracker import Tracker


#: In the run folder, written last: a run with it is not run again.
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to train on, and for how long."""

    train: tuple[Path, ...] = ()
    """Published datasets (VOC, COCO/Objects365 or Open Images layout); none: the miniature."""
    format: Literal["auto", "coco", "lvis", "open_images", "voc"] = "auto"
    """Of the datasets, where the layout does not tell."""
    name: str = "quickstart"
    """Of the run: its folder, and its name in MLflow."""
    natural: bool = False
    """Keep phase 2 in natural order: the control that soft-balance is compared with."""
    lam: float = 0.7
    """Lambda of phase 2: 0 follows the class frequencies, 1 balances the classes."""
    epochs: tuple[int, int] = (3, 2)
    """Epochs of the two phases."""
    size: int = 128
    """Longer side of the images in pixels."""
    batch: int = 16
    """Images of a global batch."""
    lr: float = 0.001
    """Learning rate of phase 1 at its height; phase 2 begins with half of it."""
    workers: int = 2
    """Training processes."""
    seed: int = 0
    """Of the weights' start, the order and the augmentation."""
    smoke: bool = False
    """A few images and steps, to see that everything is in its place."""


def main(args: Args) -> None:
    """Ingest, describe, train, measure, report; what is done already is not done again."""
    from xray_det.display import terminal
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.run_folder import RunFolder

    console = terminal()
    datasets = ingested(args, console)
    experiment = configure(args, datasets).absolute()
    prepared = prepare(experiment)
    folder = RunFolder.open(experiment.folder, prepared.document)
    if not storage.exists(folder.path(RESULT)):
        describe(datasets, folder.path("data"), console)
        show_classes(prepared.unified.report(), console)
        train_and_measure(experiment, folder, console)
    conclude(storage.read_json(folder.path(RESULT)), console)


def sources(args: Args) -> list[tuple[Path, str]]:
    """The published datasets to train on, and where their shards go; the miniature is written when there are none."""
    from xray_det.data.miniature.ingested import rendered
    from xray_det.data.miniature.parameters import Miniature

    if args.train:
        return [(path, storage.join(storage.home(), "datasets", path.absolute().name)) for path in args.train]
    smoke = {"classes": 8, "look_alikes": 1, "images": 120, "validation_images": 24, "defects": 1}
    parameters = Miniature(**smoke) if args.smoke else Miniature(images=1200)  # type: ignore[arg-type]
    folder, releases = rendered(parameters)
    return [(path, storage.join(folder, "shards", path.name)) for path in (releases.objects365, releases.open_images)]


def ingested(args: Args, console: "Console") -> "list[Manifest]":
    """Each dataset in shards; what was wrong with it is printed."""
    from xray_det.data.ingest import ingest_published
    from xray_det.data.report import repair_report

    manifests = []
    for path, out in sources(args):
        manifest = ingest_published([path], out, format=args.format)
        console.print(*repair_report(manifest), sep="\n")
        manifests.append(manifest)
    return manifests


def describe(datasets: "list[Manifest]", folder: str, console: "Console") -> None:
    """Print the datasets' statistics; draw their long tails and histograms into ``folder``."""
    from xray_det.data.figures import histograms, long_tail
    from xray_det.data.report import class_table, statistics_table
    from xray_det.data.statistics import measure
    from xray_det.lettering import figure_bytes

    found = {m.name: measure(m) for m in datasets}
    console.print(statistics_table(found))
    for m in datasets:
        console.print(class_table(m, found[m.name], shown=3))
    counts = {name: statistics.image_counts for name, statistics in found.items()}
    figures = {f"histograms_{name}": histograms(name, statistics) for name, statistics in found.items()}
    figures["long_tail"] = long_tail(counts, {m.name: m.space.names for m in datasets})
    for name, figure in figures.items():
        storage.write_bytes(storage.join(folder, f"{name}.png"), figure_bytes(figure))
    console.print(f"figures of the data: {storage.join(folder, 'long_tail.png')}", soft_wrap=True)


def configure(args: Args, datasets: "list[Manifest]") -> "Experiment":
    """The experiment, all of it: read this to see what is trained."""
    import torch

    from xray_det.data.augmentation import Augmentation
    from xray_det.data.manifest import TRAINING, VALIDATION
    from xray_det.data.sampling import Natural, SoftBalance
    from xray_det.models.retinanet import slim
    from xray_det.orchestrate.experiment import Data, Experiment
    from xray_det.train.phase import AdamW, Phase
    from xray_det.train.step import native_precision

    flip = 0.5 if args.train else 0.0  # a mirrored glyph is another glyph
    first, second = (1, 1) if args.smoke else args.epochs
    natural = Phase(
        epochs=first,
        sampling=Natural(),
        optimizer=AdamW(),
        lr=args.lr,
        warmup_steps=2 if args.smoke else 50,
        drops=(0.8 * first,),
        clip=10.0,
    )
    second_rule = Natural() if args.natural else SoftBalance(lam=args.lam)
    balanced = replace(natural, epochs=second, sampling=second_rule, lr=args.lr / 2, drops=(0.7 * second,))
    return Experiment(
        name=f"{args.name}-smoke" if args.smoke else args.name,
        data=Data(train=choose(datasets, TRAINING), val=choose(datasets, VALIDATION)),
        model=slim(),
        augmentation=Augmentation(short_side=(args.size,), max_side=args.size, flip=flip, scale_jitter=(0.8, 1.25)),
        phases=(natural, balanced),
        seed=args.seed,
        batch=args.batch,
        workers=args.workers,
        precision="fp32" if args.smoke else native_precision("cuda" if torch.cuda.is_available() else "cpu"),
    )


def choose(datasets: "list[Manifest]", splits: tuple[str, ...]) -> "tuple[Selection, ...]":
    """Of each dataset the first of these splits that it has, else all its images."""
    from xray_det.data.annotations import Selection

    return tuple(Selection(folder=m.folder, split=m.first_split(*splits)) for m in datasets)


def show_classes(lines: list[str], console: "Console") -> None:
    """The united label space: its size, and the first classes that were joined or renamed."""
    console.print(f"label spaces united: {lines[0]}; {len(lines) - 1} of several datasets or names")
    for line in lines[1:6]:
        console.print(f"  {line}")
    if len(lines) > 6:
        console.print("  …")


def train_and_measure(experiment: "Experiment", folder: "RunFolder", console: "Console") -> None:
    """Train, measure each phase, draw, track; ends with the result's file in the run folder."""
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.trainer import train
    from xray_det.tracking.environment import commit
    from xray_det.tracking.tracker import Tracker

    with Tracker(experiment.folder, experiment="quickstart", name=experiment.name) as tracker:
        tracker.artifact("figures/long_tail.png", storage.read_bytes(folder.path("data", "long_tail.png")))
        trained = train(experiment, tracker=tracker, console=console)
        rows = measured(experiment, folder, tracker)
        tracker.table("phases", rows)
        where = tracker.destination
        result = {
            "name": experiment.name,
            "rows": rows,
            "same_images": prepare(experiment).also_trained_on,
            "weights": trained.weights,
            "pictures": draw(experiment, folder, tracker),
            "steps": trained.steps,
            "seconds": trained.seconds,
            "commit": commit(),
            "run": where.address if where else tracker.uri,
        }
        storage.write_json(folder.path(RESULT), result)
        tracker.json("result", result)


def measured(experiment: "Experiment", folder: "RunFolder", tracker: "Tracker") -> list[dict[str, Any]]:
    """A row for each phase, validation set and protocol; AP by class of both phases to files and the tracker."""
    from xray_det.evaluation.figures import classes_by_frequency
    from xray_det.lettering import figure_bytes
    from xray_det.orchestrate.validation import read_measured

    rows: list[dict[str, Any]] = []
    classes: dict[str, dict[str, Sequence[ClassRow]]] = {}
    for number in range(len(experiment.phases)):
        found = read_measured(folder.validation(number))
        assert found is not None  # a training ends when all is measured
        for key, of_classes in found.classes.items():
            dataset, protocol = key.rsplit("/", 1)
            prefix = f"val/{key}/"
            metrics = {n.removeprefix(prefix): value for n, value in found.metrics.items() if n.startswith(prefix)}
            rows.append({"phase": number + 1, "dataset": dataset, "protocol": protocol, **metrics})
            classes.setdefault(key, {})[f"phase {number + 1}"] = of_classes
    for key, phases in classes.items():
        figure, name = classes_by_frequency(phases), f"by_frequency_{key.replace('/', '_')}.png"
        storage.write_bytes(folder.path("pictures", name), figure_bytes(figure))
        tracker.figure(name, figure)
    return rows


def draw(experiment: "Experiment", folder: "RunFolder", tracker: "Tracker") -> str:
    """Detections of the last phase beside the truth, a sheet a dataset; the folder they are in."""
    import cv2

    from xray_det.inference.drawing import sheet
    from xray_det.inference.gallery import pictures_beside_truth
    from xray_det.inference.predict import open_prediction

    prediction = open_prediction(folder.detections(len(experiment.phases) - 1))
    pictures = folder.path("pictures")
    for number, selection in enumerate(experiment.data.val):
        page = sheet([picture for _, picture in pictures_beside_truth(prediction, selection, images=6)])
        payload = cv2.imencode(".png", page[..., ::-1])[1].tobytes()
        storage.write_bytes(storage.join(pictures, f"{number}.png"), payload)
        tracker.artifact(f"pictures/{number}.png", payload)
    return pictures


def conclude(result: dict[str, Any], console: "Console") -> None:
    """The one table, and where everything is."""
    from xray_det.display import Table

    table = Table("phase", "dataset", "protocol", "AP", "AP50", "head", "middle", "tail", keys=3, title=result["name"])
    for column in table.columns[3:]:
        column.justify = "right"
    for row in result["rows"]:
        overall = row["AP"] if "AP" in row else row["mAP"]
        shown = (overall, row.get("AP50", overall), row["AP_head"], row["AP_middle"], row["AP_tail"])
        table.add_row(str(row["phase"]), row["dataset"], row["protocol"], *(f"{100 * value:.1f}" for value in shown))
    console.print(table)
    for sentence in result["same_images"]:
        console.print(sentence, soft_wrap=True)
    for name, value in (("weights", "weights"), ("pictures", "pictures"), ("MLflow", "run")):
        console.print(f"{name:9} {result[value]}", soft_wrap=True)
    console.print("open the MLflow UI with: make ui")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"quickstart.py: {error}")
