"""Train a detector on ingested datasets: through phases, on Ray, resumed wherever it was stopped.

    python experiments/train.py ~/xray_det/datasets/fod_a --val ~/xray_det/datasets/fod_a --run fod --set \\
        phases.0.epochs=12 validation.every=4
    python experiments/train.py ~/xray_det/datasets/o365@train ~/xray_det/datasets/oid@train --run both --set \\
        batch=32 workers=8 precision=bf16 ema=0.999 phases.0.sampling=SoftBalance phases.0.sampling.lam=0.7
    python experiments/train.py --config experiment.json --run again --set seed=1
    python experiments/train.py --replay RUN/nonfinite-phase0-epoch3-batch17

A dataset is a folder that experiments/ingest.py made; FOLDER@SPLIT takes one split, FOLDER alone the split train (or
trainval) where there is one, else all images. Without --config the experiment is a RetinaNet with a ResNet-50, 800
pixels, one phase of one epoch: --show prints it, which makes a file for --config. --set changes any value of it by its
path; what cannot be is refused by name. A phase more is written into the file. A phase has phases.N.epochs, fractions
allowed, or so many global batches: --set phases.0.epochs=none phases.0.iterations=90000 phases.0.drops=60000,80000.

Start the same command again after Ctrl-C, a kill or a crash: it goes on from the last checkpoint and ends with the same
weights to the last bit (at an equal number of workers). A run that has finished prints its result at once. Another
experiment under a run's name is refused, with the differences.

Validation images that are trained on too are counted in a warning: where a dataset has no splits, these are all.

With --val each phase's end, and every so many epochs between, is measured beside the training: COCO numbers, the
dataset's own protocol, AP of head, middle and tail. The best checkpoints are kept beside the newest.

A loss that is not finite stops the training and leaves the batch and the weights; --replay makes that step again, names
the first layer that broke, and needs no Ray.

The run's folder (--out, else ~/xray_det/runs/NAME) holds phases/N/weights for each phase's end: model.safetensors,
config.json, preprocessor_config.json. Curves go to MLflow: make ui.

Cost: 15-30 s until the first step on a quiet machine, then what the model costs. A killed worker costs 9-25 s and half
the minute between two checkpoints, a killed driver what a start costs.
"""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.command_line import Told, configure

if TYPE_CHECKING:
    from rich.console import Console

    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.run_folder import Result


@dataclass(frozen=True, kw_only=True)
class Args(Told):
    """What to train, and how."""

    mlflow_experiment: str = "train"
    """Name of the MLflow experiment that the run belongs to."""
    show: bool = False
    """Print the resolved experiment as JSON and stop."""
    replay: str | None = None
    """Folder of a step that was not finite: make that step again."""


def main(args: Args) -> None:
    """Train and print the table, or do what --show or --replay asks for."""
    from xray_det.display import terminal

    console = terminal()
    if args.replay is not None:
        replay_step(args.replay, console)
        return
    from xray_det.train.phase import Phase

    experiment = configure(args, name="train", phases=(Phase(),))
    if args.show:
        from xray_det.config import to_dict

        print(json.dumps(to_dict(experiment), indent=1))
        return
    conclude(experiment, run(args, experiment, console), console)


def run(args: Args, experiment: "Experiment", console: "Console") -> "Result":
    """Train, unless that has been done."""
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.run_folder import RunFolder

    prepared = prepare(experiment)
    folder = RunFolder.open(experiment.folder, prepared.document)
    result = folder.finished()
    if result is not None:
        return result
    from xray_det.orchestrate.trainer import train
    from xray_det.tracking.tracker import Tracker

    console.print(f"run folder: {experiment.folder}", soft_wrap=True)
    name = args.mlflow_experiment
    with Tracker(experiment.folder, experiment=name, name=experiment.name, uri=args.tracking) as tracker:
        return train(experiment, tracker=tracker, console=console)


def conclude(experiment: "Experiment", result: "Result", console: "Console") -> None:
    """The table of phases, and where everything is."""
    from xray_det.display import Table

    title = f"{experiment.name}: {result.steps} steps"
    table = Table("phase", "length", "sampling", "lr", "measured", title=title)
    for number, phase in enumerate(experiment.phases):
        found = {name: value for name, value in result.validations[number].items() if name.count("/") == 1}
        measured = ", ".join(f"{name.removeprefix('val/')} {100 * value:.1f}" for name, value in found.items()) or "-"
        length = f"{phase.length:,} {phase.unit}"
        table.add_row(str(number + 1), length, str(phase.sampling), f"{phase.lr:g}", measured)
    console.print(table)
    for number, weights in enumerate(result.phases, 1):
        console.print(f"phase {number}: {weights}", soft_wrap=True)
    losses = {name: value for name, value in result.metrics.items() if name.startswith("loss")}
    console.print("last losses: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
    total = result.seconds.get("total", 0.0)
    first = total and sum(value for name, value in result.seconds.items() if name != "total")
    console.print(f"{total:.0f} s in the attempt that finished, {first:.0f} s of them until its first step")
    console.print(f"weights: {result.weights}", soft_wrap=True)
    if result.best not in ("", result.weights):
        console.print(f"best:    {result.best}", soft_wrap=True)


def replay_step(folder: str, console: "Console") -> None:
    """Make a step that was not finite again, in this process, and say where it broke."""
    import torch

    from xray_det.models.weights import load_detector
    from xray_det.train.evidence import replay

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for rank in replay(folder, lambda weights: load_detector(weights)[0], device):
        console.print(f"rank {rank.rank}: images {', '.join(rank.image_ids)}", soft_wrap=True)
        for name, value in rank.losses.items():
            console.print(f"  loss {name}: {value:g} (in training {rank.recorded[name]:g})")
        console.print(f"  first layer whose output is not finite: {rank.first or 'none'}")
        shown = ", ".join(rank.gradients[:5]) + (" …" if len(rank.gradients) > 5 else "")
        console.print(f"  parameters whose gradient is not finite: {len(rank.gradients)} {shown}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"train.py: {error}")
