"""Hybrid training: a natural phase that learns good features, then a balanced one that does the tail justice.

    python experiments/hybrid.py ~/xray_det/datasets/oid --val ~/xray_det/datasets/oid --run hybrid --phases 20 7@0.7
    python experiments/hybrid.py --config experiment.json --phases 12 4@0.5 4@1 --control
    python experiments/hybrid.py                      # paper 002's Table 4 on the miniature
    python experiments/hybrid.py --set phases.0.epochs=24 phases.0.drops=16 --seeds 2 --run hybrid-24  # twice as long
    python experiments/hybrid.py --smoke              # two arms on a few images, to see that everything is in its place

On your own datasets --phases says what is trained: EPOCHS is a phase in natural order, EPOCHS@LAMBDA one by
soft-balance sampling, EPOCHS@FIRST,LAST one whose lambda moves from its first epoch to its last. Their other values
are those of the first phase of --config, or the defaults, and are set by their paths (--set phases.1.lr=0.001); the
learning rate drops to a tenth after two thirds of each unless told. With --control the same epochs are trained in
natural order all through, from the end of the phases that both have in common, and the table says by how much the
balanced phases are better.

Without datasets the arms are those of paper 002's Table 4, on the miniature and the schedule of
xray_det/orchestrate/claims.py, with lengths in the paper's proportions (7 : 14 : 20 epochs, 20 + 7). Fixed before any
two arms were compared, and not changed since:

    natural     at two lengths, the second as long as the hybrids are together
    balanced    class-aware and lambda 0.7 from scratch at three lengths: balanced data over-fit by length, so the
                best length counts
    hybrid      natural, then half as long lambda 0.7, or class-aware; and natural again, as the control: what a second
                phase with its own learning-rate drop is worth by itself
    seeds       3: a difference is that of two arms of one seed, its spread the standard deviation over seeds, of all
                pairs of arms together

"Hybrid beats balanced from the start" holds where natural then lambda 0.7 is above both balanced rules at their best
lengths, and above the control, by more than the spread. "Balanced over-fits by length" holds where class-aware at its
greatest length is below its best one by more than the spread.

Cost: on the miniature 33 trainings, of which 9 are sampling.py's; the other 24 took 70 minutes on two quiet cores,
the 18 that are new with twice the lengths two and a half hours. The first line says it again, by what has been
measured.

Expect, if the miniature is like Open Images (paper 002, Table 4, mAP): natural 7 epochs 56.06, 14 59.85, from scratch
20 60.70; class-aware 7 epochs 64.68, 14 62.85; natural 14 then class-aware 7 65.60, natural 20 then class-aware 7
65.92, natural 20 then soft-balance 7 67.09. (The table's two rows for S20 have no rule's name in print; the text gives
it.)

Result (commit 0c25d2d, what sampling.py had trained at 591f565 and ee28074; experiments/results/hybrid.md, with a
picture): AP on the noise that was trained on, mean of three seeds:

                                      all classes    head    middle    tail
    natural 12                        45.0           58.9    41.3      34.4
    natural 18                        65.0           73.4    65.9      55.7
    class-aware 6                     19.2           26.0    15.6      15.8
    class-aware 12                    60.7           67.0    61.2      53.9
    class-aware 18                    80.3           83.4    81.6      75.9
    lambda 0.7 6                      22.0           30.7    19.8      15.4
    lambda 0.7 12                     61.3           68.7    61.6      53.4
    lambda 0.7 18                     80.3           83.2    81.1      76.6
    natural 12, then natural 6        62.4           70.8    60.9      55.3
    natural 12, then class-aware 6    72.4           78.6    72.0      66.4
    natural 12, then lambda 0.7 6     72.6           76.7    74.2      66.9
    spread of a difference             2.9            3.6     4.4       4.0

Hybrid beats balanced from the start: does not hold here. A soft-balance phase after the natural one is worth 10.2
more than natural order once more (paper: no such control), but 18 epochs balanced from the start are 7.7 above it.
Balanced over-fits by length: does not hold here, its greatest length is the best. Both claims are about balanced data
that have been learned by heart, and there the miniature is not after 18 epochs. Class-aware and lambda 0.7 cannot be
told apart, from the start or as a second phase (paper: 65.92 and 67.09).

With twice the lengths, since every arm still gained by length (--set phases.0.epochs=24 phases.0.drops=16 --seeds 2
--run hybrid-24; commits 38bed08 and bd68cac, class-aware and lambda 0.7 for 12 epochs at ee28074;
experiments/results/hybrid-24.md), mean of two seeds:

                                      all classes    head    middle    tail
    natural 24                        75.5           82.6    78.2      66.1
    natural 36                        83.0           86.4    86.2      76.6
    class-aware 12                    60.1           66.4    60.4      53.5
    class-aware 24                    85.8           86.9    88.3      82.2
    class-aware 36                    89.1           89.2    92.8      85.5
    lambda 0.7 12                     61.4           70.1    61.4      52.6
    lambda 0.7 24                     86.6           89.1    89.1      81.9
    lambda 0.7 36                     90.4           91.8    91.8      87.7
    natural 24, then natural 12       82.3           87.4    85.9      73.9
    natural 24, then class-aware 12   87.6           91.0    91.1      81.0
    natural 24, then lambda 0.7 12    87.0           89.6    90.5      81.1
    spread of a difference             2.4            2.9     3.2       2.3

The schedules are nearly long enough: balanced arms gain 3.3 and 3.8 from 24 to 36 epochs, after 25.6 and 25.3 from 12
to 24. Neither claim holds here either. The hybrid comes nearer: natural 24 then lambda 0.7 is 4.6 above its control,
2.1 below class-aware 36, which is less than the spread, and 3.4 below lambda 0.7 36; then class-aware is 1.5 below
class-aware 36, no more than the seeds differ. Balanced data do not over-fit in 36 epochs. What soft-balance is worth
at equal images shrinks as arms converge, 16.3 at 12 epochs, 11.1 at 24, 7.4 at 36 (lambda 0.7), and is then in the
tail above all: 15.9 and 11.1 there, 6.5 and 5.4 in the head.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.command_line import assigned, configure
from xray_det.orchestrate.study_command import OnAnyData, base, beyond, conduct, points

if TYPE_CHECKING:
    from xray_det.data.sampling import Sampling
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.study import Arm
    from xray_det.train.phase import Phase

LAM = 0.7


@dataclass(frozen=True, kw_only=True)
class Args(OnAnyData):
    """What is trained, and on what."""

    phases: tuple[str, ...] = ("20", "7@0.7")
    """EPOCHS in natural order, or by soft-balance sampling EPOCHS@LAMBDA, EPOCHS@FIRST,LAST; on your own datasets."""
    control: bool = False
    """Train the same epochs in natural order too; on your own datasets."""
    seeds: int = 3
    """0, 1, ...: of the weights' start, the order and the augmentation; on your own datasets 1 will often do."""


def main(args: Args) -> None:
    """Train what is missing, print the table and what it shows."""
    if args.own:
        conduct(args, "hybrid", own_arms(args), lambda _: ())
    else:
        conduct(args, "hybrid", table_4(args), verdicts)


# On own data


def own_arms(args: Args) -> "dict[str, Arm]":
    """The phases that were asked for, and perhaps their control."""
    from xray_det.data.sampling import Natural
    from xray_det.orchestrate.study import seeded
    from xray_det.train.phase import Phase

    experiment = configure(replace(args, set=()), name="hybrid", phases=(Phase(),))
    phases = tuple(read_phase(text, experiment.phases[0]) for text in args.phases)
    experiment = assigned(replace(experiment, phases=phases), args.set)
    arms = {", then ".join(args.phases): seeded(experiment)}
    if args.control:
        natural = tuple(replace(phase, sampling=Natural()) for phase in experiment.phases)
        arms = {"natural": seeded(replace(experiment, phases=natural)), **arms}
    return arms


def read_phase(text: str, like: "Phase") -> "Phase":
    """``20``, ``7@0.7`` or ``7@0.3,0.9``; what it does not say is as in another phase.

    Raises:
        InputError: it is none of these.
    """
    from xray_det import config
    from xray_det.data.sampling import Natural, SoftBalance
    from xray_det.orchestrate.claims import DROP

    count, balanced, lam = text.partition("@")
    try:
        epochs = int(count)
    except ValueError as error:
        raise InputError(f"--phases {text}", "does not begin with a number of epochs", "Write 20 or 7@0.7") from error
    sampling = config.replace(SoftBalance(), "lam", lam) if balanced else Natural()
    return replace(like, epochs=epochs, sampling=sampling, drops=(DROP * epochs,))


# Table 4


def table_4(args: Args) -> "dict[str, Arm]":
    """The arms of the paper's table, on the miniature."""
    from xray_det.data.sampling import Natural, SoftBalance
    from xray_det.orchestrate import claims
    from xray_det.orchestrate.study import seeded

    experiment = base(args, "hybrid")
    (first,) = experiment.phases
    if not isinstance(first.epochs, int):
        problem = f"the first phase has {first.length} {first.unit}"
        raise InputError("phases.0.epochs", problem, "Give a whole number of epochs: the table's arms are parts of it")
    half, once, more = lengths(first.epochs)

    def trained(*phases: "Phase") -> "Arm":
        return seeded(replace(experiment, phases=phases))

    rules: dict[str, Sampling] = {"class-aware": SoftBalance(lam=1.0), f"lambda {LAM:g}": SoftBalance(lam=LAM)}
    arms = {f"natural {epochs}": trained(claims.phase(epochs)) for epochs in (once, more)}
    arms |= {
        f"{name} {epochs}": trained(claims.phase(epochs, rule))
        for name, rule in rules.items()
        for epochs in (half, once, more)
    }
    rules = {"natural": Natural(), **rules}
    return arms | {
        f"natural {once}, then {name} {half}": trained(first, claims.second(first, rule))
        for name, rule in rules.items()
    }


def lengths(epochs: int) -> tuple[int, int, int]:
    """Half of a training's epochs, all of them, and both together."""
    half = max(1, epochs // 2)
    return half, epochs, epochs + half


def verdicts(found: "OverSeeds") -> Sequence[str]:
    """Whether each claim holds, by the rules of the module's docstring."""
    overall = found.metrics[0]
    spread = found.spread(overall)
    *_, control, _, hybrid = found.arms
    lines, beaten = [], {"more natural": control}
    for name in ("class-aware", f"lambda {LAM:g}"):
        of_rule = [arm for arm in found.arms if arm.startswith(name)]
        beaten[name] = found.best(overall, of_rule)
    ahead = {name: found.difference(overall, hybrid, arm)[0] for name, arm in beaten.items()}
    told = ", ".join(f"{points(gain)} above {beaten[name]}" for name, gain in ahead.items())
    held = beyond(spread, *ahead.values())
    lines.append(f"Hybrid beats balanced from the start: {held}. It is {told}; the spread is {points(spread)}.")
    longest = [arm for arm in found.arms if arm.startswith("class-aware")][-1]
    lost = -found.difference(overall, longest, beaten["class-aware"])[0]
    lines.append(
        f"Balanced over-fits by length: {beyond(spread, lost)}. {longest} is {points(-lost)} against "
        f"{beaten['class-aware']}."
    )
    return lines


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"hybrid.py: {error}")
