"""What each part of paper 002 adds: the ladder of its Table 5, every part added to the one before.

    python experiments/ladder.py                      # on the miniature; stop it, and the same command goes on
    python experiments/ladder.py ~/xray_det/datasets/oid --val ~/xray_det/datasets/oid --config experiment.json
    python experiments/ladder.py --smoke              # the first rung and the last on a few images

On your own datasets the first rung is your experiment as it is; on the miniature it is the paper's, softmax in natural
order.

The miniature and the schedule are in xray_det/orchestrate/claims.py, with the reasons. All rungs but the last are one
training of equally many images; the last one, the hybrid schedule, trains half as long again (hybrid.py has the control
for that). Fixed before any two arms were compared, and not changed since: lambda 0.7, the paper's; 2 seeds. "A part
helps" holds where its rung is above the one before by more than the spread, the standard deviation over seeds of the
difference between two arms of one seed, of all pairs of arms together.

Cost: on the miniature 10 trainings of 6 to 10 minutes; those of the first three rungs are loss_functions.py's too, and
are made once.

Expect, if the miniature is like Open Images (paper 002, Table 5, public test mAP): baseline 53.88, class-aware sampling
57.56, concurrent softmax 58.60, soft-balance 59.86, hybrid training 60.90.

Result (commit 0c25d2d, what loss_functions.py had trained at 38e0749 and e4ab920; experiments/results/ladder.md, with a
picture): AP on the noise that was trained on, mean of two seeds, in parentheses the gain over the rung before:

                                all classes     head           middle          tail
    baseline, softmax           57.7            70.7           56.6            45.8
    + class-aware sampling      76.2 (+18.5)    80.7 (+10.0)   76.1 (+19.5)    71.8 (+26.0)
    + concurrent softmax        79.5 (+3.3)     82.7 (+2.0)    79.1 (+3.0)     76.6 (+4.8)
    + soft-balance              78.2 (-1.3)     81.9 (-0.8)    79.3 (+0.2)     73.4 (-3.2)
    + hybrid schedule           82.4 (+4.2)     88.9 (+7.0)    81.9 (+2.6)     76.2 (+2.8)
    spread of a difference       3.6             3.0            3.2             6.4

Class-aware sampling and the hybrid schedule help: holds. Concurrent softmax: does not hold, its 3.3 are less than the
spread. Soft-balance after class-aware sampling: does not hold here, the two cannot be told apart, as in sampling.py.
The hybrid schedule's 4.2 may be that it is half as long again: without concurrent softmax 18 epochs of lambda 0.7
gain 19.0 on 12, the hybrid schedule 11.3 (hybrid.py). (Until the softmax of the paper was an arm the baseline here
was dist-CE with 44.0, on which concurrent softmax gained 19.4: 16.1 of them are softmax's.)
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.study_command import OnAnyData, base, beyond, conduct, points

if TYPE_CHECKING:
    from xray_det.data.sampling import Sampling
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.study import Arm

    Part = Callable[[Experiment], Experiment]


@dataclass(frozen=True, kw_only=True)
class Args(OnAnyData):
    """What is tried, and on what."""


def main(args: Args) -> None:
    """Train what is missing, print the table and what it shows."""
    experiment = base(args, "ladder")
    conduct(args, "ladder", arms(experiment if args.own else of_softmax(experiment)), verdicts)


def of_softmax(experiment: "Experiment") -> "Experiment":
    """With the paper's baseline as its loss."""
    from xray_det.losses.softmax import Softmax

    return replace(experiment, model=replace(experiment.model, classification=Softmax(labels="each")))


def parts() -> "dict[str, Part]":
    """A line a part: what it changes of the rung before."""
    from xray_det.data.sampling import SoftBalance
    from xray_det.losses.concurrent import ConcurrentSoftmax

    return {
        "+ class-aware sampling": lambda rung: sampled(rung, SoftBalance(lam=1.0)),
        "+ concurrent softmax": lambda rung: replace(
            rung, model=replace(rung.model, classification=ConcurrentSoftmax())
        ),
        "+ soft-balance": lambda rung: sampled(rung, SoftBalance(lam=0.7)),
        "+ hybrid schedule": hybrid,
    }


def arms(experiment: "Experiment") -> "dict[str, Arm]":
    """The rungs, the experiment itself the first."""
    from xray_det.orchestrate.study import seeded

    rungs = {"baseline": seeded(experiment)}
    for name, part in parts().items():
        experiment = part(experiment)
        rungs[name] = seeded(experiment)
    return rungs


def sampled(experiment: "Experiment", rule: "Sampling") -> "Experiment":
    """The last phase by another rule."""
    *before, last = experiment.phases
    return replace(experiment, phases=(*before, replace(last, sampling=rule)))


def hybrid(experiment: "Experiment") -> "Experiment":
    """The last phase in natural order, then by its own rule half as long."""
    from xray_det.data.sampling import Natural
    from xray_det.orchestrate.claims import second

    *before, last = experiment.phases
    natural = replace(last, sampling=Natural())
    return replace(experiment, phases=(*before, natural, second(natural, last.sampling)))


def verdicts(found: "OverSeeds") -> Sequence[str]:
    """Whether each part helps, by the rule of the module's docstring."""
    overall = found.metrics[0]
    spread = found.spread(overall)
    lines = []
    for before, rung in pairwise(found.arms):
        gain = found.difference(overall, rung, before)[0]
        lines.append(
            f"{rung} helps: {beyond(spread, gain)}. {points(gain)} on {before}; the spread is {points(spread)}."
        )
    return lines


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"ladder.py: {error}")
