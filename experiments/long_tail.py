"""The long tail on real images: natural order, soft-balance, class-aware, hybrid, and an expert for the tail.

    python experiments/ingest.py ~/data/fod_a_lt --out ~/xray_det/datasets/fod_a_lt
    python experiments/long_tail.py ~/xray_det/datasets/fod_a_lt --weights ~/mobilenet_v2-b0353104.pth
    python experiments/long_tail.py ~/xray_det/datasets/fod_a_lt --smoke    # two arms on one epoch

Each arm is a training that sees equally many images and differs in the sampling alone; each seed trains all arms. The
dataset has a split train and a split val. The last line gives the command that trains an expert for the tail's classes
from each natural training (experts.py).

Fixed before arms were compared: MobileNetV2 with ImageNet weights under a small Faster R-CNN; 128 px, 6 epochs, batch
16, AdamW at 0.0005, a tenth after two thirds; the hybrid is 4 natural epochs and 2 at lambda 0.7; 3 seeds. A
difference is that of two arms of one seed. Its spread is the standard deviation over seeds, all pairs of arms together.
A claim holds where the mean difference is greater than the spread.

Cost: 15 trainings (3 are the hybrids' natural phases) of 2 to 5 minutes of a core on 1,207 images.

Result on fod_a_lt (commit 0d83617; experiments/results/long_tail.md, with a picture), AP in percent, mean of 3 seeds:

                  all     head    middle  tail
    natural       38.1    51.9    28.2    35.2
    lambda 0.7    55.9    57.2    40.3    71.8
    class-aware   54.3    50.2    43.6    70.3
    spread        5.7     7.7     5.9     6.6

Soft-balance raises the tail, +36.7, and the whole, +17.8: both hold. Lambda 0.7 and class-aware cannot be told apart.
The hybrid and the experts are not trained yet: one seed of the hybrid came to 39.3.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from xray_det.display import printable
from xray_det.errors import InputError
from xray_det.orchestrate.study_command import StudyTold, beyond, called, conduct, points, runs

if TYPE_CHECKING:
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.study import Arm

LAM, EPOCHS, SIZE = 0.7, 6, 128
NATURAL, BALANCED, CLASS_AWARE, HYBRID = "natural", f"lambda {LAM:g}", "class-aware", "hybrid"


@dataclass(frozen=True, kw_only=True)
class Args(StudyTold):
    """What is tried, and on what."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Folder of an ingested dataset with a split train and a split val."""
    weights: str = "none"
    """ImageNet weights of the backbone: a file, "library" (downloaded), or "none"."""
    seeds: int = 3
    """0, 1, ...: of the weights' start, the order and the augmentation."""


def main(args: Args) -> None:
    """Train what is missing, print the table and what it shows."""
    from xray_det.labels.frequency import BANDS

    tried = arms(experiment(args))
    conduct(args, "long_tail", tried, verdicts, {"AP": "val/AP", **{f"AP {b}": f"val/AP_{b}" for b in BANDS}})
    if not args.smoke:
        print(printable(f"An expert for the tail: {experts_command(args, tried[NATURAL])}"))


def experiment(args: Args) -> "Experiment":
    """The natural training, all of it: read this to see what is trained."""
    from xray_det.data.annotations import Selection
    from xray_det.data.augmentation import Augmentation
    from xray_det.models.backbones import Backbone
    from xray_det.orchestrate import claims
    from xray_det.orchestrate.experiment import Data, Experiment

    train, val = (Selection(folder=args.dataset, split=split) for split in ("train", "val"))
    backbone = Backbone(name="mobilenet_v2", weights=args.weights)
    return Experiment(
        name=NATURAL,
        data=Data(train=(train,), val=(val,)),
        model=replace(claims.DETECTOR, backbone=backbone),
        augmentation=Augmentation(short_side=(SIZE,), max_side=SIZE, scale_jitter=(0.8, 1.25)),
        phases=(replace(claims.phase(1 if args.smoke else EPOCHS), lr=0.0005),),
        batch=16,
    )


def arms(natural: "Experiment") -> "dict[str, Arm]":
    """The experiment under each rule; the hybrid shares its length out, two thirds and one."""
    from xray_det.data.sampling import SoftBalance
    from xray_det.orchestrate import claims
    from xray_det.orchestrate.study import seeded

    (whole,) = natural.phases
    first = replace(claims.phase(max(1, int(whole.length) * 2 // 3)), lr=whole.lr)
    phases = {
        NATURAL: (whole,),
        BALANCED: (replace(whole, sampling=SoftBalance(lam=LAM)),),
        CLASS_AWARE: (replace(whole, sampling=SoftBalance(lam=1.0)),),
        HYBRID: (first, claims.second(first, SoftBalance(lam=LAM))),
    }
    return {name: seeded(replace(natural, phases=of_arm)) for name, of_arm in phases.items()}


def experts_command(args: Args, natural: "Arm") -> str:
    """What trains the experts, for the last third of the classes, that begin with each seed's natural training."""
    from xray_det.data.manifest import Manifest
    from xray_det.labels.frequency import BANDS, bands
    from xray_det.orchestrate.study import Training

    thirds = bands(Manifest.load(args.dataset).instances_of())
    last = sum(len(rows) for rows in thirds.values())
    first = last - len(thirds[BANDS[-1]]) + 1
    folders = [Training.of(NATURAL, natural(seed), runs(args)).experiment.folder for seed in range(args.seeds)]
    name = called(args, "long_tail", smoke=False)
    return f"python experiments/experts.py {' '.join(folders)} --bands {first}-{last} --longer --run {name}-experts"


def verdicts(found: "OverSeeds") -> Sequence[str]:
    """Whether each claim holds, by the rule of the module's docstring."""
    overall, tail = found.metrics[0], found.metrics[-1]
    claims = {
        "Soft-balance raises the tail": (tail, BALANCED, NATURAL),
        "Soft-balance beats natural order": (overall, BALANCED, NATURAL),
        "Soft-balance beats class-aware": (overall, BALANCED, CLASS_AWARE),
        "Hybrid beats natural order": (overall, HYBRID, NATURAL),
        "Hybrid beats soft-balance from the start": (overall, HYBRID, BALANCED),
    }
    lines = []
    for claim, (metric, arm, other) in claims.items():
        gain, spread = found.difference(metric, arm, other)[0], found.spread(metric)
        lines.append(f"{claim}: {beyond(spread, gain)}. {points(gain)} {metric}, the spread is {points(spread)}.")
    return lines


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"long_tail.py: {error}")
