"""Natural order against soft-balance on a real long-tailed dataset of video frames: FOD-A, debris on runways.

    python experiments/fod_blocks.py --source ~/data/fod_a       # stop it, and the same command goes on
    python experiments/fod_blocks.py --source ~/data/fod_a --smoke

FOD-A (github.com/FOD-UNOmaha/FOD-data, VOC layout) has 31 classes, 3,300 boxes down to 50. It records no video
sequence, and its own lists split neighbouring frames at random. Here each class's run of image ids is cut into as many
blocks as there are folds; a fold tests on a block of every class and trains on the rest. So a test frame's neighbours
are not trained on but at the edges of blocks, and in the tail, where a class of 2 to 8 images leaves blocks of up to 3,
little is inside an edge. Training and test share scenes besides: a class was filmed at few places.
The numbers are for comparing two arms, not for what a detector is worth on another runway.

An image belongs to its rarest class. A class of fewer images than folds is tested in some folds alone; a fold's AP is
the mean over the classes that it tests. Bands are thirds of the classes by images; the table's head says how many boxes
are tested in all folds together. Fixed before the arms were compared, and not changed since: 3 folds; lambda 0.7, the
paper's; 160 px, 16 epochs, the detector and schedule of xray_det/orchestrate/claims.py with mirrored images. A
difference is that of two arms in one fold, its spread the standard deviation over folds. "Soft-balance raises the tail"
holds where the tail's mean difference is greater than that.

Cost: 6 trainings of 4 minutes, on 442 images.

Expect: the tail gains, as on the miniature (sampling.py); few boxes stand behind it.

Result on a part of FOD-A of 442 images (commit 0c25d2d; experiments/results/fod_blocks.md), VOC AP in percent, mean
over folds, the deviation over folds behind the difference:

                  all, 451 boxes    head, 272    middle, 132    tail, 47
    natural       15.3              17.6         17.8           10.3
    lambda 0.7    16.5              17.3         16.6           15.8
    difference    1.2 +- 3.9        -0.3 +- 4.7  -1.1 +- 2.1    5.5 +- 11.7

Soft-balance raises the tail: does not hold here. The tail's mean is 5.5 higher (folds: +2.3, -4.3, +18.5); with 16
boxes a fold in ten classes nothing can be said. Under the data's own lists, which share neighbouring frames, the tail
of a detector of this size had 16 to 25 (README).
"""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from xray_det import storage
from xray_det.errors import InputError
from xray_det.orchestrate.study_command import StudyTold, beyond, conduct, points

if TYPE_CHECKING:
    from xray_det.data.manifest import Manifest
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.study import Arm

LAM, EPOCHS, SIZE = 0.7, 16, 160


@dataclass(frozen=True, kw_only=True)
class Args(StudyTold):
    """What is tried, and on what."""

    source: Path
    """The published dataset: Annotations/ID.xml beside JPEGImages/ID.jpg, ids in the order of filming."""
    seeds: int = 3
    """Folds: of the blocks, and the seeds of their trainings."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise InputError("--seeds", f"{self.seeds} folds leave nothing to train on", "Give 2 or more")


def main(args: Args) -> None:
    """Cut, train what is missing, print the table and what it shows."""
    folds = [ingested(args, number, tested) for number, tested in enumerate(cut(classes_of(args.source), args.seeds))]

    def arm(lam: float | None) -> "Arm":
        return lambda fold: experiment(folds[fold], fold, lam, smoke=args.smoke)

    arms = {"natural": arm(None), f"lambda {LAM:g}": arm(LAM)}
    conduct(args, "fod_blocks", arms, verdicts, metrics(folds[0]))


def classes_of(source: Path) -> dict[str, str]:
    """Image id -> its rarest class, in the order of ids.

    Raises:
        InputError: no annotations, or one that cannot be understood.
    """
    from xray_det.data.formats.voc_xml import read_voc_xml

    files = sorted(Path(source).expanduser().joinpath("Annotations").glob("*.xml"))
    names = {file.stem: read.names for file in files if (read := read_voc_xml(file)) is not None and read.names}
    if not names:
        raise InputError(source, "has no Annotations/*.xml with a box", "Give the folder of FOD-A in VOC layout")
    counts = Counter(name for of_image in names.values() for name in of_image)
    return {image: min(of_image, key=lambda name: (counts[name], name)) for image, of_image in names.items()}


def cut(classes: Mapping[str, str], folds: int) -> list[set[str]]:
    """For each fold the images that it tests: a block of each class's run of ids, nearly equal ones. A class with
    fewer images than folds begins at another fold than the class before, so that folds stay alike in size."""
    runs: dict[str, list[str]] = defaultdict(list)
    for image, name in classes.items():
        runs[name].append(image)
    tested: list[set[str]] = [set() for _ in range(folds)]
    for number, run in enumerate(runs.values()):
        for block in range(folds):
            start, stop = (len(run) * end // folds for end in (block, block + 1))
            tested[(block + number) % folds].update(run[start:stop])
    return tested


def ingested(args: Args, number: int, tested: set[str]) -> "Manifest":
    """A fold in shards: the source's files under its own lists."""
    from xray_det.data.ingest import ingest_published

    source, name = Path(args.source).expanduser().absolute(), f"fold-{number}-of-{args.seeds}"
    folder = Path(storage.home(), "fod_blocks", name, source.name)
    images = sorted(file.stem for file in (source / "Annotations").glob("*.xml"))
    for part in ("Annotations", "JPEGImages"):
        if not (folder / part).exists():
            (folder / part).mkdir(parents=True)
            for file in (source / part).iterdir():
                os.symlink(file, folder / part / file.name)
    for split in ("train", "test"):
        chosen = [image for image in images if (image in tested) == (split == "test")]
        storage.write_bytes(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(chosen).encode())
    return ingest_published([folder], storage.join(storage.home(), "fod_blocks", name, "shards"))


def experiment(fold: "Manifest", seed: int, lam: float | None, *, smoke: bool) -> "Experiment":
    """One training of a fold."""
    from xray_det.data.annotations import Selection
    from xray_det.data.augmentation import Augmentation
    from xray_det.data.sampling import Natural, SoftBalance
    from xray_det.orchestrate import claims
    from xray_det.orchestrate.experiment import Data, Experiment

    train, test = (Selection(folder=fold.folder, split=split) for split in ("train", "test"))
    rule = Natural() if lam is None else SoftBalance(lam=lam)
    return Experiment(
        name="fold",
        data=Data(train=(train,), val=(test,)),
        model=claims.DETECTOR,
        augmentation=Augmentation(short_side=(SIZE,), max_side=SIZE, scale_jitter=(0.8, 1.25)),
        phases=(claims.phase(1 if smoke else EPOCHS, rule),),
        seed=seed,
        batch=16,
        precision="bf16",
    )


def metrics(fold: "Manifest") -> dict[str, str]:
    """The table's columns; every box is tested in one of the folds."""
    from xray_det.labels.frequency import bands

    boxes, images = fold.instances_of(), fold.images_of()
    columns = {f"{band}, {boxes[rows].sum()} boxes": f"val/AP_{band}" for band, rows in bands(images).items()}
    return {f"AP, {boxes.sum()} boxes": "val/AP", **columns}


def verdicts(found: "OverSeeds") -> Sequence[str]:
    """Whether the claim holds, by the rule of the module's docstring."""
    tail, arm = found.metrics[-1], found.arms[-1]
    gain, spread = found.difference(tail, arm)
    return [f"Soft-balance raises the tail: {beyond(spread, gain)}. {points(gain)}; over folds {points(spread)}."]


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"fod_blocks.py: {error}")
