"""What the background of an image teaches of a class that nobody verified there: nothing, or that it is absent.

    python experiments/unverified.py                  # on the miniature; stop it, and the same command goes on
    python experiments/unverified.py ~/xray_det/datasets/oid --val ~/xray_det/datasets/oid --config experiment.json
    python experiments/unverified.py --smoke          # two arms on a few images, to see that everything is in its place

Open Images says of each image which classes were verified, a few of 500. ``Data.unverified`` is ``unknown`` unless
told: of the others the background teaches nothing. Paper 002 trains with them as absent. Every arm is one training, in
natural order with the default loss, that differs in this alone, on two miniatures:

    all boxed     --negatives classes an image are verified to be away, beside those that are boxed. Whatever is there
                  has a box, so that absent is nearly right (a letter that has its parent's name alone is there too),
                  and unknown gives up true negatives
    overlooked    of the second class of a training image --overlooked are neither boxed nor verified, as the classes
                  that nobody proposed in Open Images: here absent teaches what is false

In the other studies' miniature every class that is away is verified, so that the two differ in missing leaves alone.

Fixed before any two arms were compared: 4 negatives, the miniature's default, 30 % overlooked, as many as objects of
look-alikes have both names; 2 seeds. A difference is that of two arms of one seed; its spread is the standard deviation
over seeds, of all pairs of arms together. "Unverified is absent" holds on a miniature where absent is above unknown by
more than the spread, on labels with noise, as the paper scores.

Cost: on the miniature 8 trainings of 6 to 7 minutes, half an hour on two quiet cores. The first line says it again, by
what has been measured. On other data two arms alone, the time of one training for each seed.

Result: not made yet.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.study_command import OnAnyData, base, beyond, conduct, points

if TYPE_CHECKING:
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.study import Arm


@dataclass(frozen=True, kw_only=True)
class Args(OnAnyData):
    """What is tried, and on what."""

    negatives: int = 4
    """Classes verified to be away in a training image of the miniature."""
    overlooked: float = 0.3
    """Share of the second classes of the miniature's training images that have no box."""


def main(args: Args) -> None:
    """Train what is missing, print the table and what it shows."""
    conduct(args, "unverified", arms(settings(args)), verdicts)


def settings(args: Args) -> "dict[str, Experiment]":
    """The experiment on each miniature, or the one on the user's own data."""
    made = base(args, "unverified")
    if args.own:
        return {"own": made}
    from xray_det.orchestrate import claims

    parameters, found = replace(claims.SMOKE if args.smoke else claims.DATA, negatives=args.negatives), {}
    for name, share in (("all boxed", 0.0), ("overlooked", args.overlooked)):
        there = claims.data(replace(parameters, overlooked=share))
        found[name] = replace(made, data=replace(made.data, train=there.train, val=there.val))
    return found


def arms(experiments: "Mapping[str, Experiment]") -> "dict[str, Arm]":
    """Each experiment with what is unverified unknown, and absent."""
    from xray_det.orchestrate.study import seeded

    return {
        f"{taken}, {name}": seeded(replace(one, data=replace(one.data, unverified=taken)))
        for name, one in experiments.items()
        for taken in ("unknown", "absent")
    }


def verdicts(found: "OverSeeds") -> Sequence[str]:
    """What taking the unverified to be absent gains, on each data."""
    overall = found.metrics[0]
    lines = []
    for name in dict.fromkeys(arm.partition(", ")[2] for arm in found.arms):
        gains = {m: found.difference(m, f"absent, {name}", f"unknown, {name}")[0] for m in found.metrics}
        told = ", ".join(f"{metric} {points(gain)}" for metric, gain in gains.items())
        spread = found.spread(overall)
        lines.append(
            f"Unverified is absent, {name}: {beyond(spread, gains[overall])}. Above unknown: {told}; the spread is "
            f"{points(spread)}."
        )
    return lines


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"unverified.py: {error}")
