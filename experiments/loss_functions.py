"""Which classification loss: paper 002's Table 1 and what came after it, and what concurrent softmax repairs (Table 2).

    python experiments/loss_functions.py              # on the miniature; stop it, and the same command goes on
    python experiments/loss_functions.py ~/xray_det/datasets/oid --val ~/xray_det/datasets/oid --config experiment.json
    python experiments/loss_functions.py --smoke      # two arms on a few images, to see that everything is in its place

Every arm is one training that differs in the classification loss and the sampling alone: each loss with the natural
sequence and with class-aware sampling (soft-balance with lambda 1), and the first loss with repeat-factor sampling too
(LVIS). To try another loss, add a line to ``losses``. The miniature and the schedule are in
xray_det/orchestrate/claims.py, with the reasons: look-alikes of which 30 % of the objects carry both labels, and
letters of which a fifth of the images name the parent alone.

Fixed before any two arms were compared, and not changed since: every loss as its paper sets it, 2 seeds. A difference
is that of two arms of one seed, from dist-CE (the default) with the same sampling where the verdicts speak of it; its
spread is the standard deviation over seeds, of all pairs of arms together. Every class that is away is verified in the
miniature and none is a part of another, so that Co-BCE (``data.unverified``) would be BCE here: it is no arm.

"Concurrent softmax repairs look-alikes and missing leaves" holds for a sampling where concurrent softmax in training
and testing is above softmax by more than the spread, on labels with the noise that was trained on, as the paper scores;
what it gains on clean truth, in training alone, in testing alone and with the other hierarchy rates stands beside it.

Cost: on the miniature 58 trainings of 6 to 7 minutes, of which other studies have six; 3 hours on two quiet cores. The
first line says it again, by what has been measured.

Expect, if the miniature is like Open Images (paper 002, Table 1, mini-val mAP; class-aware unless said): focal 50.18,
BCE 54.29, Co-BCE 55.74, dist-CE 55.90, softmax 55.45 (natural 38.16), concurrent softmax 56.58 (natural 39.14);
effective number 45.72 (Table 3, natural). Table 2, softmax tested by concurrent softmax 55.77, concurrent in both
56.95.

Result: under way, 18 of the 58 trainings are made (experiments/results/loss_functions.json); no table yet.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.study_command import OnAnyData, base, conduct, holds, points

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

    repeat: float = 0.125
    """Repeat-factor sampling shows classes in a smaller share of the images more often. LVIS's 0.001 is 100 of its
    images, as the default is of the miniature's."""


def main(args: Args) -> None:
    """Train what is missing, print the table and what it shows."""
    conduct(args, "loss_functions", arms(base(args, "loss_functions"), args.repeat), verdicts)


def losses() -> "dict[str, Classification]":
    """A line a loss; the first is what the others are compared with."""
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
        "federated": Federated(),
        "Seesaw": Seesaw(),
        "EQL v2": EqualizationV2(),
    }


def arms(experiment: "Experiment", repeat: float) -> "dict[str, Arm]":
    """The experiment with every loss under both samplings, and the first by repeat factors of this threshold; its
    phases before the last stay as they are."""
    from xray_det.data.sampling import Natural, RepeatFactor, SoftBalance
    from xray_det.orchestrate.study import seeded

    def trained(loss: "Classification", rule: "Sampling") -> "Arm":
        *before, last = experiment.phases
        phases = (*before, replace(last, sampling=rule))
        return seeded(replace(experiment, model=replace(experiment.model, classification=loss), phases=phases))

    rules: dict[str, Sampling] = {NATURAL: Natural(), BALANCED: SoftBalance(lam=1.0)}
    found = {f"{name}, {rule}": trained(loss, rules[rule]) for rule in rules for name, loss in losses().items()}
    name, loss = next(iter(losses().items()))
    return found | {f"{name}, {REPEATED}": trained(loss, RepeatFactor(threshold=repeat))}


def verdicts(found: "OverSeeds") -> Sequence[str]:
    """The losses in order under each sampling, what each gains on the first one, and what concurrent softmax does."""
    overall = found.metrics[0]
    first = next(iter(losses()))
    lines = []
    for rule in (NATURAL, BALANCED):
        ordered = sorted((-found.mean(overall, arm), arm) for arm in found.arms if arm.endswith(rule))
        told = ", ".join(
            f"{arm.removesuffix(f', {rule}')} {points(found.difference(overall, arm, f'{first}, {rule}')[0])}"
            for _, arm in ordered
        )
        lines.append(f"{rule.capitalize()}, from {first}: {told}; the spread is {points(found.spread(overall))}.")
    arm = f"{first}, {REPEATED}"
    gains = {rule: found.difference(overall, arm, f"{first}, {rule}")[0] for rule in (NATURAL, BALANCED)}
    told = ", ".join(f"{points(gain)} on {rule}" for rule, gain in gains.items())
    lines.append(f"{REPEATED.capitalize()}, {first}: {told}.")
    return lines + [repairs(found, rule) for rule in (NATURAL, BALANCED)]


def repairs(found: "OverSeeds", rule: str) -> str:
    """Whether concurrent softmax does what it is for, against the paper's softmax."""
    overall = found.metrics[0]
    scored = [metric for metric in (overall, "clean") if metric in found.metrics]
    told = []
    for loss in (name for name in losses() if name.startswith(CONCURRENT)):
        gains = [points(found.difference(metric, f"{loss}, {rule}", f"softmax, {rule}")[0]) for metric in scored]
        told.append(f"{loss.removeprefix(CONCURRENT).strip(', ') or 'both'} {' and '.join(gains)}")
    gain, spread = found.difference(overall, f"{CONCURRENT}, {rule}", f"softmax, {rule}")[0], found.spread(overall)
    return (
        f"{rule.capitalize()}: concurrent softmax repairs look-alikes and missing leaves: {holds(gain > spread)}. "
        f"Above softmax, {' and '.join(scored)}: {'; '.join(told)}; the spread is {points(spread)}."
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"loss_functions.py: {error}")
