"""Which rungs find the best lambda: complete short schedules, or full ones cut off? (paper 002, Fig. 4)

    python experiments/rungs.py                 # the study; stop it, and the same command goes on
    python experiments/rungs.py --seeds 3       # a seed more, later: what is finished is not trained again
    python experiments/rungs.py --smoke         # two arms on a few images, to see that everything is in its place

A sweep gives every arm a short training, a rung, and only the best of them the full one. In paper 002's Fig. 4 a lambda
far too high leads until the learning rate drops and falls behind then: a rung that is the full schedule cut off would
keep it. Ours is a complete short schedule with its own drop (xray_det/orchestrate/arms.py). Here both are measured.

For each seed: a natural trunk, trained once; from its end a full soft-balance schedule for each lambda, measured after
every epoch, so that it holds the cut rungs too; and for each rung and lambda a complete schedule of that share. What
the rungs say of the end is told by rank correlation. Then sweeps are replayed from these numbers: by the sweep's own
rule, which lets nobody climb before the whole rung is measured, and by Ray Tune's ASHA, which is told them in many
orders of the arms, two arms side by side as on two cores. What is kept is the best of the arms that got the full
schedule.

Epochs are counted in full: a complete rung begins at the trunk, so its epochs come on top of the full schedule's; a cut
one goes on where it was. The trunk is the same for all and not counted. The share is that of the full grid's epochs.

Fixed before any two lambdas were compared (only the trunk's length was tried), and not changed since:

    lambda      paper 002's Table 3 (0, 0.3, 0.5, 0.7, 1, 1.5), and two beyond it that should be far too high (2, 3)
    data        the embedded miniature as in the demo, 42 classes at 128 px, but 640 images, for arms of three minutes
    trunk       12 natural epochs to 8 of the schedule (paper: 20 to 7); they leave the head at 41 % AP, 6 left it at 15
    schedule    8 epochs, learning rate half of the trunk's as in the demo, a tenth of it after two thirds (paper: 4 of
                7); the rungs, 2 and 4 epochs, both lie before that drop
    rungs       a quarter, a half, and a quarter then a half; one arm in 3 climbs (the sweep's own default). With 8 arms
                a rule that wastes nothing then costs exactly half of the grid
    seeds       2: of the trunk's weights, the order and the augmentation. Their spread is the standard deviation over
                seeds of the difference between two arms

"Leads, then falls behind" holds where, by the mean over seeds, the lambda that leads at the last measurement before the
drop is greater than the grid's best and ends below it by more than the spread. "Ranks better" holds where Spearman's
mean over seeds is higher for complete rungs than for cut ones at every rung. "Finds it for half" holds for a ladder
where the kept lambda is the grid's best, or within the spread of it, in 95 % of the replays, for half of the epochs.

Cost: 50 trainings, about 80 minutes on two quiet cores. The first line says it again, by what has been measured so far.

Expect three tables and a verdict for each claim, in experiments/results/rungs.md, and rungs.png in the study's folder
(~/xray_det/runs/studies/rungs): AP against epochs for every lambda beside what the rungs said of it. Whatever the
scores, Ray Tune's ASHA lets the first arms climb before it has seen others: with 8 arms, one in 3 and complete rungs it
costs about 0.75 of the grid with a quarter, 1 with a half, 0.9 with both.

Result (commit 56989ca; experiments/results/rungs.md has every table, experiments/pictures/rungs.png the curves). AP in
percent, mean of two seeds; own: a complete schedule of that share:

    lambda  cut 0.25  cut 0.5  before the drop   end  own 0.25  own 0.5  head  tail
         0      37.3     42.4             45.6  51.8      35.6     43.2  62.4  44.2
       0.3      38.6     43.9             48.3  54.4      36.5     44.6  63.5  48.0
       0.5      38.1     44.6             48.7  55.1      37.3     44.5  63.9  48.8
       0.7      39.1     46.3             50.6  55.5      38.4     46.2  64.6  50.4
         1      35.9     47.9             50.4  55.6      38.3     45.6  64.0  50.1
       1.5      39.1     47.7             48.9  54.9      37.3     45.7  61.7  50.4
         2      39.0     45.1             48.7  54.5      38.3     44.6  60.4  51.5
         3      37.6     44.1             47.3  52.8      37.5     44.0  57.4  49.3

    Leads, then falls behind    does not hold here: before the drop 0.7 leads, at the end 1 does, by 0.2; the seeds'
                                spread is 0.9, and of a seed's 8 arms 4.5 lie within it of the best
    Complete rungs rank better  at a quarter of the schedule (Spearman 0.46, cut -0.21; the tail 0.73, 0.18), not at a
                                half (0.65, 0.65; the tail 0.45, 0.57): does not hold at every rung
    Finds it for half           holds for the sweep's own rule: complete rungs of a quarter keep the best lambda or one
                                within the spread of it in all replays, for 0.50 of the grid's epochs. It does not hold
                                for Ray Tune's ASHA: 0.75

That most arms lie within the spread of the best makes the last claim an easy one here: the best itself is kept with one
seed of two.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import tyro

from xray_det import storage
from xray_det.errors import InputError
from xray_det.orchestrate.study_command import StudyTold, beyond, called, conduct, holds, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.rank import Climb, Correlation, Grid
    from xray_det.orchestrate.study import Arm

AP, HEAD, TAIL = "AP", "AP head", "AP tail"
METRICS = {AP: "val/AP", HEAD: "val/AP_head", TAIL: "val/AP_tail"}
TRUNK = "trunk"
#: Of the two kinds of rung in the figure.
MARKERS: dict[str, dict[str, Any]] = {
    "cut": {"marker": "s", "fillstyle": "none"},
    "complete": {"marker": "o"},
}
#: The schedule's drop, as a share of it.
DROP = 2 / 3
#: Arms side by side when ASHA is replayed.
SIDE_BY_SIDE = 2


@dataclass(frozen=True, kw_only=True)
class Args(StudyTold):
    """The study's parameters; the defaults are the study."""

    lam: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
    """The arms."""
    rungs: tuple[float, ...] = (0.25, 0.5)
    """Shares of the schedule below the full one, rising."""
    reduction: int = 3
    """One arm in so many climbs to the next rung."""
    images: int = 640
    """Of the miniature's two releases together."""
    epochs: tuple[int, int] = (12, 8)
    """Of the natural trunk, and of the full soft-balance schedule."""
    orders: int = 1000
    """Orders of the arms that ASHA is told, drawn by a seed; all of them where they are no more."""

    def __post_init__(self) -> None:
        for rung in self.rungs:
            if not 0 < rung < 1 or (rung * self.epochs[1]) % 1:
                problem = f"{rung} of {self.epochs[1]} epochs is no whole number of them below all"
                raise InputError("--rungs", problem, "Cut schedules are measured after whole epochs: give other shares")


def main(args: Args) -> None:
    """Train what is missing, then tell what came of it."""
    if args.smoke:
        args = replace(args, epochs=(1, 2), rungs=(0.5,))
    found = conduct(args, "rungs", arms(args, natural(args)), lambda found: conclusions(args, found), METRICS)
    if not args.smoke:
        from xray_det.display import printable
        from xray_det.lettering import figure_bytes

        address = storage.join(runs(args), called(args, "rungs", smoke=args.smoke), "rungs.png")
        storage.write_bytes(address, figure_bytes(draw(grid_of(args, found)), dpi=110))
        print(printable(f"figure: {address}"))


# What is trained


def natural(args: Args) -> "Experiment":
    """The trunk: the phase that all arms of a seed begin with, on the miniature's two releases."""
    from xray_det.data.annotations import Selection
    from xray_det.data.augmentation import Augmentation
    from xray_det.data.manifest import TRAINING, VALIDATION
    from xray_det.data.miniature.ingested import ingested, rendered
    from xray_det.data.miniature.parameters import Miniature
    from xray_det.data.sampling import Natural
    from xray_det.models.retinanet import slim
    from xray_det.orchestrate.experiment import Data, Experiment
    from xray_det.train.phase import AdamW, Phase

    smoke = {"classes": 8, "look_alikes": 1, "images": 64, "validation_images": 24, "defects": 1}
    parameters = Miniature(**smoke) if args.smoke else Miniature(images=args.images)  # type: ignore[arg-type]
    folder, releases = rendered(parameters)
    found = [ingested(folder, path) for path in (releases.objects365, releases.open_images)]
    train, val = (
        tuple(Selection(folder=m.folder, split=m.first_split(*names)) for m in found)
        for names in (TRAINING, VALIDATION)
    )
    phase = Phase(
        epochs=args.epochs[0],
        sampling=Natural(),
        optimizer=AdamW(),
        lr=0.001,
        warmup_epochs=0.5,
        drops=(DROP * args.epochs[0],),
        clip=10.0,
    )
    return Experiment(
        name=TRUNK,
        data=Data(train=train, val=val),
        model=slim(),
        augmentation=Augmentation(short_side=(128,), max_side=128, flip=0.0, scale_jitter=(0.8, 1.25)),
        phases=(phase,),
        batch=16,
        workers=1,
        precision="fp32" if args.smoke else "bf16",
    )


def arms(args: Args, trunk: "Experiment") -> "dict[str, Arm]":
    """The trunk; from its end each lambda by a full schedule that is measured after every epoch, and by complete short
    ones."""
    from xray_det.data.sampling import SoftBalance
    from xray_det.orchestrate.experiment import Validation
    from xray_det.orchestrate.search import shortened
    from xray_det.orchestrate.study import seeded

    (first,) = trunk.phases
    epochs, made = args.epochs[1], {TRUNK: seeded(trunk)}
    for share in (1.0, *args.rungs):
        for lam in args.lam:
            phase = replace(
                first, epochs=epochs, sampling=SoftBalance(lam=lam), lr=first.lr / 2, drops=(DROP * epochs,)
            )
            full = replace(trunk, phases=(first, phase))
            if share == 1:
                made[title(lam)] = seeded(replace(full, validation=Validation(every=1)))
            else:
                made[title(lam, share)] = seeded(shortened(full, share, 1))
    return made


def title(lam: float, share: float = 1.0) -> str:
    """Of the arm with a lambda, by the full schedule or a share of it."""
    return f"lambda {lam:g}" + (f", {share:g} of the schedule" if share < 1 else "")


def grid_of(args: Args, found: "OverSeeds") -> "Grid":
    """The study's numbers, by lambda and rung.

    Raises:
        InputError: one is missing.
    """
    import numpy as np

    from xray_det.orchestrate.rank import Grid

    curves, complete = {}, {}
    for number, metric in enumerate(found.metrics):
        ends = dict(zip(found.arms, found.values[..., number], strict=True))
        if missing := [arm for arm, seeds in ends.items() if np.isnan(seeds).any()]:
            raise InputError(missing[0], "has no result", "See the reason above, and start again: the rest is kept")
        on_their_way = [np.column_stack([ends[TRUNK], found.curves[title(lam)][..., number]]) for lam in args.lam]
        curves[metric] = np.stack(on_their_way, axis=1)
        complete[metric] = np.stack(
            [np.stack([ends[title(lam, rung)] for rung in args.rungs], axis=-1) for lam in args.lam], axis=1
        )
        if np.isnan(curves[metric]).any():
            seed, arm, epoch = np.argwhere(np.isnan(curves[metric]))[0]
            problem = f"was not measured after epoch {epoch} with seed {seed}: that validation failed"
            remedy = "Remove this training from the study's JSON file, and its folder: it alone is trained again"
            raise InputError(title(args.lam[arm]), problem, remedy)
    return Grid(lam=args.lam, epochs=args.epochs[1], rungs=args.rungs, curves=curves, complete=complete)


# What came of it


def conclusions(args: Args, found: "OverSeeds") -> list[str]:
    """The tables and the verdicts."""
    from xray_det.orchestrate.rank import climbs, correlations

    grid = grid_of(args, found)
    correlated = correlations(grid, (AP, TAIL))
    climbed = climbs(grid, AP, reduction=args.reduction, most=args.orders, concurrent=SIDE_BY_SIDE)
    return [
        f"AP in percent, mean over seeds; own: a complete schedule of that share\n\n{ends_table(grid)}",
        f"Rank correlation of a rung with the end\n\n{correlations_table(correlated)}",
        "How often a sweep keeps the best lambda, or one within the spread of it, in percent; epochs over the grid's"
        f"\n\n{climbs_table(climbed)}",
        *verdicts(grid, correlated, climbed),
    ]


def verdicts(grid: "Grid", correlated: "Sequence[Correlation]", climbed: "Sequence[Climb]") -> list[str]:
    """Whether each claim holds, by the rules of the module's docstring."""
    import numpy as np

    from xray_det.evaluation.over_seeds import seed_spread

    end, spread = grid.end(AP).mean(axis=0), seed_spread(grid.end(AP))
    before = grid.curves[AP][..., last_before_drop(grid)].mean(axis=0)
    leader, best = int(np.argmax(before)), int(np.argmax(end))
    lost = float(end[best] - end[leader])
    behind = grid.end(AP).max(axis=1, keepdims=True) - grid.end(AP)
    near = float((behind <= np.nan_to_num(spread)).sum(axis=1).mean())
    fell = beyond(spread, lost) if grid.lam[leader] > grid.lam[best] else holds(False)
    lines = [
        f"Leads, then falls behind: {fell}. Before the drop "
        f"lambda {grid.lam[leader]:g} leads ({_percent(before[leader])}); at the end {grid.lam[best]:g} does "
        f"({_percent(end[best])}), {_percent(lost)} above it. The seeds' spread is {_percent(spread)}; of a seed's "
        f"{len(end)} arms {near:.1f} lie within it of the best."
    ]
    means = {(c.metric, c.rung, c.kind): float(np.mean(c.spearman)) for c in correlated}
    for metric in (AP, TAIL):
        pairs = [(rung, means[metric, rung, "complete"], means[metric, rung, "cut"]) for rung in grid.rungs]
        told = ", ".join(f"{complete:.2f} against {cut:.2f} at {rung:g}" for rung, complete, cut in pairs)
        better = all(complete > cut for _, complete, cut in pairs)
        lines.append(f"Complete rungs rank better, {metric}: {holds(better)}. Spearman {told}.")
    for rule in dict.fromkeys(climb.rule for climb in climbed):
        ours = [climb for climb in climbed if climb.rule == rule and climb.kind == "complete"]
        fit = [climb for climb in ours if climb.odds.within >= 0.95 and climb.odds.cost <= 0.5 + 1e-9]
        told = "; ".join(
            f"{_ladder(climb)}: {100 * climb.odds.within:.0f} % for {climb.odds.cost:.2f} of the epochs"
            for climb in ours
        )
        lines.append(f"Complete rungs, {rule}, find it for half: {holds(bool(fit))}. {told}.")
    return lines


def last_before_drop(grid: "Grid") -> int:
    """The last epoch that ends before the learning rate drops."""
    return math.ceil(DROP * grid.epochs) - 1


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _ladder(climb: "Climb") -> str:
    return ", ".join(f"{share:g}" for share in climb.ladder.shares)


def ends_table(grid: "Grid") -> str:
    """A line a lambda: AP on its way and at its end, mean over seeds."""
    cuts, complete = (found.mean(axis=0) for found in grid.kinds(AP).values())
    late = last_before_drop(grid)
    shares = [f"{rung:g}" for rung in grid.rungs]
    heads = ["lambda", *(f"cut {s}" for s in shares), f"epoch {late}", "end", *(f"own {s}" for s in shares)]
    rows = []
    for arm, lam in enumerate(grid.lam):
        ends = [grid.end(metric)[:, arm].mean() for metric in (AP, HEAD, TAIL)]
        before = grid.curves[AP][:, arm, late].mean()
        values = [*cuts[arm], before, ends[0], *complete[arm], *ends[1:]]
        rows.append([f"{lam:g}", *(_percent(value) for value in values)])
    return _table([*heads, "head", "tail"], rows)


def correlations_table(found: "Sequence[Correlation]") -> str:
    """A line a metric, rung and kind."""
    import numpy as np

    seeds = [f"seed {seed}" for seed in range(len(found[0].spearman))]
    rows = []
    for line in found:
        values = [*line.spearman, float(np.mean(line.spearman)), float(np.mean(line.kendall))]
        rows.append([line.metric, f"{line.rung:g}", line.kind, *(f"{value:.2f}" for value in values)])
    return _table(["of", "rung", "kind", *seeds, "Spearman", "Kendall"], rows)


def climbs_table(found: "Sequence[Climb]") -> str:
    """A line a ladder, kind and rule."""
    rows = [
        [_ladder(c), c.kind, c.rule, f"{100 * c.odds.best:.0f}", f"{100 * c.odds.within:.0f}", f"{c.odds.cost:.2f}"]
        for c in found
    ]
    return _table(["rungs", "kind", "rule", "the best", "or near", "epochs"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---:"] * len(heads), *rows))


def draw(grid: "Grid") -> "Figure":
    """AP against epochs for each lambda, a thin line a seed, beside what each rung said of the end; the tail below."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from xray_det.orchestrate.rank import correlations

    colours = [colormaps["viridis"](at) for at in np.linspace(0, 0.93, len(grid.lam))]
    figure = Figure(figsize=(5.6 + 3.6 * len(grid.rungs), 7.6), layout="constrained")
    widths = [1.4, *(1.0 for _ in grid.rungs)]
    panels = figure.subplots(2, 1 + len(grid.rungs), squeeze=False, width_ratios=widths)
    spearman = {(c.metric, c.rung, c.kind): float(np.mean(c.spearman)) for c in correlations(grid, (AP, TAIL))}
    for metric, row in zip((AP, TAIL), panels, strict=True):
        _draw_curves(row[0], grid, metric, colours)
        row[0].set(ylabel=f"{metric}, percent", title=f"{metric}, full schedules")
        for number, rung in enumerate(grid.rungs):
            axes, ends = row[1 + number], 100 * grid.end(metric)
            for kind, scores in grid.kinds(metric).items():
                for arm, colour in enumerate(colours):
                    axes.plot(100 * scores[:, arm, number], ends[:, arm], color=colour, ls="", **MARKERS[kind])
            told = ", ".join(f"{kind} {spearman[metric, rung, kind]:.2f}" for kind in MARKERS)
            axes.set(xlabel=f"{metric} of the rung", ylabel="at the end", title=f"rung {rung:g}: Spearman {told}")
            axes.title.set_fontsize("medium")
            axes.grid(alpha=0.3)
    lines = [Line2D([], [], color=colour, label=f"{lam:g}") for lam, colour in zip(grid.lam, colours, strict=True)]
    marks = [Line2D([], [], color="black", ls="", label=f"{kind} rung", **style) for kind, style in MARKERS.items()]
    figure.legend(handles=[*lines, *marks], title="lambda", loc="outside lower center", ncols=len(lines) + 2)
    return figure


def _draw_curves(axes: "Axes", grid: "Grid", metric: str, colours: Sequence[Any]) -> None:
    epochs = range(grid.epochs + 1)
    for arm, colour in enumerate(colours):
        of_arm = 100 * grid.curves[metric][:, arm]
        axes.plot(epochs, of_arm.T, color=colour, lw=0.6, alpha=0.5)
        axes.plot(epochs, of_arm.mean(axis=0), color=colour, lw=1.8)
    axes.axvline(DROP * grid.epochs, color="black", ls="--", lw=1)
    axes.annotate("lr / 10", (DROP * grid.epochs, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                  textcoords="offset points", fontsize="small")  # fmt: skip
    for rung in grid.rungs:
        axes.axvline(rung * grid.epochs, color="grey", ls=":", lw=1)
    axes.set_xlabel("epochs after the trunk; dotted: where the rungs cut")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"rungs.py: {error}")
