"""Which classification loss: paper 002's Table 1 and what came after it, and what concurrent softmax repairs (Table 2).

    python experiments/loss_functions.py              # on the miniature; stop it, and the same command goes on
    python experiments/loss_functions.py ~/xray_det/datasets/oid --val ~/xray_det/datasets/oid --config experiment.json
    python experiments/loss_functions.py --smoke      # two arms on a few images, to see that everything is in its place

Every arm is one training that differs in the classification loss and the sampling alone: each loss with the natural
sequence and with class-aware sampling (soft-balance with lambda 1), and dist-CE with repeat-factor sampling too
(LVIS). --losses takes some of them, the first named being what the others are compared with; to try another loss,
add a line to ``losses``. Where classes are parts of others (Open Images) Co-BCE is an arm too, beside the same loss
with everything taken to be absent that nobody verified; in the miniature none is, and every class that is away is
verified. The miniature and the schedule are in xray_det/orchestrate/claims.py, with the reasons: look-alikes of which
30 % of the objects carry both labels, and letters of which a fifth of the images name the parent alone.

Fixed before any two arms were compared: every loss as its paper sets it, but that federated loss draws at most a
quarter of the classes (its 50 of LVIS's 1,203 would be all of the miniature's 44; at first they were, which left
binary cross-entropy with another normaliser); 2 seeds. A difference is that of two arms of one seed, from dist-CE
(the default) with the same sampling where the verdicts speak of it; its spread is the standard deviation over seeds,
of all pairs of arms together.

"Concurrent softmax repairs look-alikes and missing leaves" holds for a sampling where concurrent softmax in training
and testing is above softmax by more than the spread, on labels with the noise that was trained on, as the paper scores;
what it gains on clean truth, in training alone, in testing alone and with the other hierarchy rates stands beside it.

Cost: on the miniature 58 trainings of 6 to 7 minutes, two side by side on two cores, of which other studies have six:
3 hours. The first line says it again, by what has been measured.

Expect, if the miniature is like Open Images (paper 002, Table 1, mini-val mAP; class-aware unless said): focal 50.18,
BCE 54.29, Co-BCE 55.74, dist-CE 55.90, softmax 55.45 (natural 38.16), concurrent softmax 56.58 (natural 39.14);
effective number 45.72 (Table 3, natural). Table 2, softmax tested by concurrent softmax 55.77, concurrent in both
56.95.

Result (commits e4ab920, facbadc, 38e0749 and, of federated loss, 3329c43, what other studies had trained at 591f565,
ee28074 and 0c25d2d; experiments/results/loss_functions.md, with the bands and a picture): AP on the noise that was
trained on, of all classes and of the tail, and AP on clean truth, mean of two seeds:

                                      natural                  class-aware
                                      all    tail    clean     all    tail    clean
    dist-CE                           44.0   33.0    35.8      60.1   53.5    49.0
    softmax                           57.7   45.8    44.3      76.2   71.8    57.7
    softmax of one label              43.1   31.5    34.3      59.8   50.2    48.9
    effective number                  15.7   12.3    12.5      35.9   28.5    29.2
    concurrent softmax                59.0   48.5    46.3      79.5   76.6    60.9
      in training alone               45.8   33.8    33.4      68.7   65.9    51.3
      in testing alone                61.3   51.2    47.5      79.6   74.7    60.9
      hierarchy 0 in testing          45.8   33.8    33.4      68.8   65.9    51.4
      hierarchy 1 in training         57.4   45.2    44.7      76.5   69.7    58.3
    federated, 11 of 44 classes       50.5   37.5    40.1      64.4   56.2    51.3
    Seesaw                            51.3   41.7    40.4      69.2   70.9    52.5
    EQL v2                            57.7   48.6    46.6      75.0   66.9    57.4
    dist-CE, repeat-factor            56.8   50.7    46.3
    spread of a difference             3.0    4.5     2.3

Concurrent softmax repairs look-alikes and missing leaves: does not hold here. With a third seed (--losses softmax
"concurrent softmax" and its four other lines, --seeds 3 --run concurrent_softmax, commit 36f85e3;
experiments/results/concurrent_softmax.md has the command) it is in both 2.0 above softmax in natural order and 2.8
class-aware, against a spread of 3.4 (paper: 1.5 class-aware); with two, 3.3 class-aware and a spread of 3.0 it would
have. In testing alone it does gain: there its weights are softmax's to the last bit, and its gains are 3.2 and 3.6,
each with a deviation of 0.6 (paper: 0.3). In training alone it loses 11.1 and 8.2 (paper: gains 1.1). What testing
adds to training comes from the rate 1 between a class and its ancestors: with 0 nothing is left of it, and with 1 in
training as well it is 1.1 below softmax and 1.6 above it. So it is by class (the last validations of the runs;
class-aware, softmax, tested by concurrent softmax, both): parents 74.5, 80.6, 82.3; letters that look like no other
75.6, 80.1, 79.0; look-alikes, all but one of them letters, 72.1, 75.6, 75.6; digits, which have neither, 79.9, 79.9,
78.4. Between the rates of look-alikes alone in testing and none, look-alikes gain 0.8, in natural order 0.2.

BCE and focal have no figures: they were trained with their sum divided by the boxes that hold an object, where all
other losses were divided by the sampled ones, which is another learning rate. They are to be measured again.

The paper's order of the losses does not show. dist-CE is below softmax, not above it: the two differ in the weight of a
box with several labels alone, as a letter's has with its parents', and no arm has converged in 12 epochs (hybrid.py).
Effective number is the worst (paper: above natural softmax). Of the later ones EQL v2 is level with softmax, federated
loss and Seesaw are below it. (With all 44 classes, as binary cross-entropy divided by all boxes that teach, the
federated arm had 63.2 and 76.6. Seesaw is its paper's eq. 6; its authors' bound on the compensation, eps, is not
measured yet.) Class-aware sampling helps every loss by 14 to 23 points (paper: softmax by 17).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.study_command import OnAnyData, base, beyond, conduct, points

if TYPE_CHECKING:
    from xray_det.data.sampling import Sampling
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.losses import Classification
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.study import Arm

NATURAL, BALANCED, REPEATED = "natural", "class-aware", "repeat-factor"
CONCURRENT = "concurrent softmax"


@dataclass(frozen=True, kw_only=True)
class Args(OnAnyData):
    """What is tried, and on what."""

    losses: tuple[str, ...] = ()
    """Of these names alone, as the table has them; the first is what the others are compared with."""
    repeat: float | None = None
    """Repeat-factor sampling shows classes in a smaller share of the images more often. LVIS's 0.001 unless given, on
    the miniature 0.125: either is a hundred images."""


def main(args: Args) -> None:
    """Train what is missing, print the table and what it shows."""
    repeat = (0.001 if args.own else 0.125) if args.repeat is None else args.repeat
    conduct(args, "loss_functions", arms(base(args, "loss_functions"), repeat, args.losses), verdicts)


def losses(classes: int) -> "dict[str, Classification]":
    """A line a loss, for so many classes; the first is what the others are compared with."""
    from xray_det.losses.concurrent import ConcurrentSoftmax
    from xray_det.losses.effective_number import EffectiveNumber
    from xray_det.losses.equalization import EqualizationV2
    from xray_det.losses.federated import Federated
    from xray_det.losses.focal import SigmoidFocal
    from xray_det.losses.seesaw import Seesaw
    from xray_det.losses.softmax import Softmax

    return {
        "dist-CE": Softmax(),
        "softmax": Softmax(labels="each"),
        "softmax of one label": Softmax(labels="one"),
        "BCE": SigmoidFocal(alpha=None, gamma=0.0),
        "focal": SigmoidFocal(),
        "effective number": EffectiveNumber(),
        CONCURRENT: ConcurrentSoftmax(),
        f"{CONCURRENT} in training": ConcurrentSoftmax(test="plain"),
        f"{CONCURRENT} in testing": ConcurrentSoftmax(train="plain"),
        f"{CONCURRENT}, hierarchy 0 in testing": ConcurrentSoftmax(hierarchy_rate_test=0.0),
        f"{CONCURRENT}, hierarchy 1 in training": ConcurrentSoftmax(hierarchy_rate_train=1.0),
        "federated": Federated(classes=max(1, min(50, classes // 4))),
        "Seesaw": Seesaw(eps=0.0),  # the paper's formula
        "EQL v2": EqualizationV2(),
    }


def arms(experiment: "Experiment", repeat: float, names: Sequence[str] = ()) -> "dict[str, Arm]":
    """The experiment with every loss, or those of some names, under both samplings, and the default loss by repeat
    factors of this threshold too; its phases before the last stay as they are.

    Raises:
        InputError: no loss has that name.
    """
    from xray_det.data.sampling import Natural, RepeatFactor, SoftBalance
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.study import seeded

    prepared = prepare(experiment)
    found = {
        name: replace(experiment, model=replace(experiment.model, classification=loss))
        for name, loss in losses(len(prepared.space)).items()
    }
    if any(one.hierarchy is not None and one.hierarchy.parts and not one.exhaustive for one in prepared.train):
        unverified: dict[str, Literal["absent", "absent_but_parts"]] = {
            "BCE, all absent": "absent",
            "Co-BCE": "absent_but_parts",
        }
        for name, taken in unverified.items():
            found[name] = replace(found["BCE"], data=replace(experiment.data, unverified=taken))
    if unknown := [name for name in names if name not in found]:
        raise InputError("--losses", f"there is no {unknown[0]!r}", f"Give some of {', '.join(found)}")

    def sampled(name: str, rule: "Sampling") -> "Arm":
        *before, last = experiment.phases
        return seeded(replace(found[name], phases=(*before, replace(last, sampling=rule))))

    rules: dict[str, Sampling] = {NATURAL: Natural(), BALANCED: SoftBalance(lam=1.0)}
    made = {f"{name}, {rule}": sampled(name, rules[rule]) for rule in rules for name in names or found}
    default = next(iter(found))
    if default in (names or found):
        made[f"{default}, {REPEATED}"] = sampled(default, RepeatFactor(threshold=repeat))
    return made


def verdicts(found: "OverSeeds") -> Sequence[str]:
    """The losses in order under each sampling, what each gains on the first one, and what concurrent softmax does."""
    overall = found.metrics[0]
    first = found.arms[0].removesuffix(f", {NATURAL}")
    lines = []
    for rule in (NATURAL, BALANCED):
        ordered = sorted((-found.mean(overall, arm), arm) for arm in found.arms if arm.endswith(rule))
        told = ", ".join(
            f"{arm.removesuffix(f', {rule}')} {points(found.difference(overall, arm, f'{first}, {rule}')[0])}"
            for _, arm in ordered
        )
        lines.append(f"{rule.capitalize()}, from {first}: {told}; the spread is {points(found.spread(overall))}.")
    for arm in (arm for arm in found.arms if arm.endswith(REPEATED)):
        loss = arm.removesuffix(f", {REPEATED}")
        gains = {rule: found.difference(overall, arm, f"{loss}, {rule}")[0] for rule in (NATURAL, BALANCED)}
        told = ", ".join(f"{points(gain)} on {rule}" for rule, gain in gains.items())
        lines.append(f"{REPEATED.capitalize()}, {loss}: {told}.")
    if {f"softmax, {NATURAL}", f"{CONCURRENT}, {NATURAL}"} <= set(found.arms):
        lines += [repairs(found, rule) for rule in (NATURAL, BALANCED)]
    return lines


def repairs(found: "OverSeeds", rule: str) -> str:
    """Whether concurrent softmax does what it is for, against the paper's softmax: each gain with its deviation."""
    overall = found.metrics[0]
    scored = [metric for metric in (overall, "clean") if metric in found.metrics]
    told = []
    for arm in (arm for arm in found.arms if arm.startswith(CONCURRENT) and arm.endswith(rule)):
        gains = [found.difference(metric, arm, f"softmax, {rule}") for metric in scored]
        what = arm.removeprefix(CONCURRENT).removesuffix(f", {rule}").strip(", ") or "both"
        told.append(f"{what} {' and '.join(f'{points(gain)} ± {100 * off:.1f}' for gain, off in gains)}")
    gain, spread = found.difference(overall, f"{CONCURRENT}, {rule}", f"softmax, {rule}")[0], found.spread(overall)
    return (
        f"{rule.capitalize()}: concurrent softmax repairs look-alikes and missing leaves: {beyond(spread, gain)}. "
        f"Above softmax, {' and '.join(scored)}: {'; '.join(told)}; the spread is {points(spread)}."
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"loss_functions.py: {error}")
