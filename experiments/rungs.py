"""Which rungs find the best lambda: complete short schedules, or full ones cut off? (paper 002, Fig. 4)

    python experiments/rungs.py                 # the study; stop it, and the same command goes on
    python experiments/rungs.py --seeds 3       # a seed more, later: what is finished is not trained again
    python experiments/rungs.py --smoke         # a few images and steps, to see that everything is in its place

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

Cost: 50 trainings, about 70 minutes on two quiet cores: 2 trunks of 4.7 minutes, 16 full schedules of 2.7 and as much
as 1.8 to start and to measure eight times, 32 short ones of 1.3 and 2. The first line says it again; each training that
finishes says what is left.

Expect three tables, a verdict for each claim, and rungs.png in the study's folder (~/xray_det/runs/rungs): AP against
epochs for every lambda beside what the rungs said of it. In MLflow a sweep is a run with a child a training. Whatever
the scores, Ray Tune's ASHA lets the first arms climb before it has seen others: with 8 arms, one in 3 and complete
rungs it costs about 0.75 of the grid with a quarter, 1 with a half, 0.9 with both.

Result so far, of one seed (`--seeds 1` at commit 7696abe; the second is to come, so no spread yet):

    lambda  cut 0.25  cut 0.5  before the drop   end  own 0.25  own 0.5  head  tail
         0      39.1     47.1             47.4  53.0      39.0     44.6  60.5  45.6
       0.3      37.4     47.6             49.9  55.9      38.5     46.7  61.5  49.9
       0.5      40.8     48.5             49.5  55.4      40.7     48.9  60.7  50.7
       0.7      41.9     46.0             53.8  56.4      40.8     48.4  62.0  51.5
         1      44.3     48.3             49.7  57.0      41.4     47.5  61.4  53.3
       1.5      42.8     50.4             50.5  57.1      42.7     49.5  60.7  52.9
         2      41.2     49.6             47.6  56.0      41.3     48.1  60.7  50.3
         3      42.2     46.0             48.7  53.5      41.1     48.9  56.9  49.0

The paper's Fig. 4 does not show: no lambda that is too high leads before the drop. Complete rungs rank a little better
at a quarter of the schedule (Spearman 0.71, cut 0.64) and worse at a half (0.36, 0.45). With complete rungs of a
quarter, Ray Tune's ASHA keeps the best lambda in every order of the arms, for 0.75 of the grid's epochs; a rule that
waits for the whole rung keeps it for 0.50. The curves are in experiments/pictures/rungs.png.
"""

import io
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import tyro

from xray_det import storage
from xray_det.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

    from xray_det.orchestrate.arms import Arms
    from xray_det.orchestrate.experiment import Data, Experiment
    from xray_det.orchestrate.rank import Climb, Correlation, Grid
    from xray_det.orchestrate.results import Row
    from xray_det.orchestrate.run_folder import Result

LAM = "phases.0.sampling.lam"
AP, HEAD, TAIL = "val/AP", "val/AP_head", "val/AP_tail"
METRICS = (AP, HEAD, TAIL)
#: Of the two kinds of rung in the figure.
MARKERS: dict[str, dict[str, Any]] = {
    "cut": {"marker": "s", "fillstyle": "none"},
    "complete": {"marker": "o"},
}
#: The schedule's drop, as a share of it.
DROP = 2 / 3
#: What starting a training and measuring a checkpoint take, in epochs, and how long an epoch is; for the estimate.
START_EPOCHS, MEASURE_EPOCHS, EPOCH_S = 1.5, 0.5, 20.0


@dataclass(frozen=True, kw_only=True)
class Args:
    """The study's parameters; the defaults are the study."""

    name: str = "rungs"
    """Of the folder below ~/xray_det/runs; another configuration needs another."""
    lam: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
    """The arms."""
    seeds: int = 2
    """0, 1, ...: each has a trunk and a grid of its own."""
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
    concurrent: int = 2
    """Trainings side by side, a core each."""
    out: str | None = None
    """Folder or URI of the runs."""
    tracking: str | None = None
    """Address of MLflow; MLFLOW_TRACKING_URI or a SQLite file in ~/xray_det unless given; off for none."""
    mlflow_experiment: str = "rungs"
    """Name of the MLflow experiment."""
    smoke: bool = False
    """Two lambdas, one seed and one rung on a few images."""

    def __post_init__(self) -> None:
        for rung in self.rungs:
            if not 0 < rung < 1 or (rung * self.epochs[1]) % 1:
                problem = f"{rung} of {self.epochs[1]} epochs is no whole number of them below all"
                raise InputError("--rungs", problem, "Cut schedules are measured after whole epochs: give other shares")
        if self.seeds < 1:
            raise InputError("--seeds", f"{self.seeds} is less than one", "Give at least 1")

    @property
    def folder(self) -> str:
        return storage.join(self.out or str(storage.home() / "runs"), self.name)


def main(args: Args) -> None:
    """Train what is missing, then tell what came of it."""
    from rich.console import Console

    console = Console(highlight=False)
    if args.smoke:
        small = {"lam": (0.0, 3.0), "seeds": 1, "rungs": (0.5,), "epochs": (1, 2)}
        args = replace(args, name=f"{args.name}-smoke", **small)  # type: ignore[arg-type]
    work = Work(args, console)
    work.announce()
    grid = trained(args, datasets(args), work)
    storage.write_json(storage.join(args.folder, "rungs.json"), grid.to_json())
    conclude(args, grid, console)


# What is trained


def datasets(args: Args) -> "Data":
    """The miniature's two releases, rendered and ingested unless they are there."""
    from xray_det.data.annotations import Selection
    from xray_det.data.miniature.ingested import ingested, rendered
    from xray_det.data.miniature.parameters import Miniature
    from xray_det.orchestrate.experiment import Data

    smoke = {"classes": 8, "look_alikes": 1, "images": 64, "validation_images": 24, "defects": 1}
    parameters = Miniature(**smoke) if args.smoke else Miniature(images=args.images)  # type: ignore[arg-type]
    folder, releases = rendered(parameters)
    found = [ingested(folder, path) for path in (releases.objects365, releases.open_images)]
    train, val = (
        tuple(Selection(folder=m.folder, split=m.first_split(*names)) for m in found)
        for names in (("train", "trainval"), ("val", "test"))
    )
    return Data(train=train, val=val)


def trunk(args: Args, data: "Data", seed: int) -> "Experiment":
    """The natural phase that all arms of a seed begin with."""
    from xray_det.data.augmentation import Augmentation
    from xray_det.data.sampling import Natural
    from xray_det.models.retinanet import slim
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.train.phase import AdamW, Phase

    epochs = args.epochs[0]
    phase = Phase(
        epochs=epochs,
        sampling=Natural(),
        optimizer=AdamW(),
        lr=0.001,
        warmup_epochs=0.5,
        drops=(DROP * epochs,),
        clip=10.0,
    )
    return Experiment(
        name=f"seed-{seed}-trunk",
        out=args.folder,
        data=data,
        model=slim(),
        augmentation=Augmentation(short_side=(128,), max_side=128, flip=0.0, scale_jitter=(0.8, 1.25)),
        phases=(phase,),
        seed=seed,
        batch=16,
        workers=1,
        precision="bf16",
    )


def grid_of(args: Args, begun: "Experiment", weights: str, share: float) -> "Arms":
    """Every lambda from the end of a trunk: a full schedule that is measured after each epoch, or a complete short one.

    The trunk is given by its weights: grids of several schedules begin with it, and a sweep trains a trunk of its own.
    """
    from xray_det.data.sampling import SoftBalance
    from xray_det.orchestrate.arms import Arms
    from xray_det.orchestrate.experiment import Validation
    from xray_det.orchestrate.search import shortened

    (natural,) = begun.phases
    epochs = args.epochs[1]
    phase = replace(natural, epochs=epochs, sampling=SoftBalance(), lr=natural.lr / 2, drops=(DROP * epochs,))
    experiment = replace(
        begun,
        name=f"seed-{begun.seed}-{f'{share:g}' if share < 1 else 'full'}",
        phases=(phase,),
        start_from=weights,
        validation=Validation(every=1 if share == 1 else None),
    )
    return Arms(experiment=shortened(experiment, share, 0), space={LAM: list(args.lam)})


def trained(args: Args, data: "Data", work: "Work") -> "Grid":
    """Train, or read what has been trained."""
    import numpy as np

    from xray_det.orchestrate.rank import Grid
    from xray_det.orchestrate.sweep import sweep

    curves, complete = [], []
    for seed in range(args.seeds):
        begun = trunk(args, data, seed).absolute()
        natural = trained_trunk(args, begun, work)
        rows: dict[float, list[Row]] = {}
        for share in (1.0, *args.rungs):
            plan = grid_of(args, begun, natural.weights, share)
            with work.watched(plan, share):
                found = sweep(
                    plan,
                    tracking=args.tracking,
                    mlflow_experiment=args.mlflow_experiment,
                    max_concurrent=args.concurrent,
                    console=work.console,
                )
            by_lam = {row.values[LAM]: row for row in found.rows if row.metrics}
            if missing := [lam for lam in args.lam if lam not in by_lam]:
                raise InputError(found.folder, f"lambda {missing[0]:g} has no result", "See the reason in its table")
            rows[share] = [by_lam[lam] for lam in args.lam]
        curves.append([curve(row, natural, args.epochs[1]) for row in rows[1.0]])
        complete.append([[rows[rung][arm].metrics for rung in args.rungs] for arm in range(len(args.lam))])
    return Grid(
        lam=args.lam,
        epochs=args.epochs[1],
        rungs=args.rungs,
        curves={m: np.array([[[at[m] for at in arm] for arm in seed] for seed in curves]) for m in METRICS},
        complete={m: np.array([[[at[m] for at in arm] for arm in seed] for seed in complete]) for m in METRICS},
    )


def trained_trunk(args: Args, experiment: "Experiment", work: "Work") -> "Result":
    """The trunk's result; trained unless it has been."""
    from xray_det.orchestrate.experiment import prepare
    from xray_det.orchestrate.run_folder import RunFolder
    from xray_det.orchestrate.trainer import train
    from xray_det.tracking.tracker import Tracker

    folder = RunFolder.open(experiment.folder, prepare(experiment).document)
    result = folder.finished()
    if now := result is None:
        where, name = experiment.folder, experiment.name
        with Tracker(where, experiment=args.mlflow_experiment, name=name, uri=args.tracking) as tracker:
            result = train(experiment, tracker=tracker, console=work.console)
    work.trunk(experiment.seed, result, now=now)
    return result


def curve(row: "Row", begun: "Result", epochs: int) -> list[dict[str, float]]:
    """What was measured of a full schedule, [epochs + 1]; first the trunk."""
    from xray_det.orchestrate.run_folder import RunFolder
    from xray_det.orchestrate.validation import read_measured

    folder = RunFolder(uri=row.folder, fingerprint="")
    found = [begun.validations[-1]]
    for epoch in range(1, epochs + 1):
        if (measured := read_measured(folder.validation(0, epoch))) is None:
            problem = f"was not measured after epoch {epoch}: that validation failed"
            remedy = "Remove it, and tune/ and results.json of its sweep, and start again: it alone is trained again"
            raise InputError(row.folder, problem, remedy)
        found.append(dict(measured.metrics))
    return found


class Work:
    """How much there is to train and how much is left, told line by line. Its unit is an epoch's wall time."""

    def __init__(self, args: Args, console: "Console") -> None:
        self.console = console
        natural, full = args.epochs
        lengths = {1.0: full * (1 + MEASURE_EPOCHS)} | {rung: rung * full + MEASURE_EPOCHS for rung in args.rungs}
        self._of = {share: (START_EPOCHS + length) / args.concurrent for share, length in lengths.items()}
        self._trunk = START_EPOCHS + natural + MEASURE_EPOCHS  # beside it nothing runs
        self._concurrent, self._trainings = args.concurrent, args.seeds * (1 + len(args.lam) * len(self._of))
        self._left = args.seeds * (self._trunk + len(args.lam) * sum(self._of.values()))
        self._told, self._made, self._began = 0, 0.0, time.monotonic()

    def announce(self) -> None:
        """The first line: trainings x minutes."""
        minutes = {_schedule(share): units * self._concurrent for share, units in self._of.items()}
        told = ", ".join(
            f"{what} {units * EPOCH_S / 60:.1f}" for what, units in {"trunk": self._trunk, **minutes}.items()
        )
        self.console.print(
            f"{self._trainings} trainings x minutes ({told}), {self._concurrent} side by side: about "
            f"{self._left * EPOCH_S / 60:.0f} minutes on as many quiet cores",
            soft_wrap=True,
        )

    def trunk(self, seed: int, result: "Result", *, now: bool) -> None:
        """A trunk is finished; ``now``: in this session."""
        self._tell(f"seed {seed}, trunk", result, self._trunk, now=now)

    def _tell(self, title: str, result: "Result", units: float, *, now: bool) -> None:
        self._told, self._left = self._told + 1, self._left - units
        self._made += units if now else 0.0
        unit_s = (time.monotonic() - self._began) / self._made if self._made else EPOCH_S
        found, took = result.validations[-1], result.seconds.get("total", 0.0)
        self.console.print(
            f"{self._told} of {self._trainings}: {title}: AP {_percent(found[AP])}, tail {_percent(found[TAIL])}, "
            f"after {took:.0f} s; about {self._left * unit_s / 60:.0f} minutes left",
            soft_wrap=True,
        )

    @contextmanager
    def watched(self, plan: "Arms", share: float) -> Iterator[None]:
        """Tell of each training of a sweep that finishes while the body runs, first of those that have before."""
        from xray_det.orchestrate.run_folder import RunFolder

        plan = replace(plan, experiment=plan.experiment.absolute())
        told, ended = set(), threading.Event()

        def tell(*, now: bool) -> None:
            for row in plan.rows():
                result = RunFolder(uri=row.folder, fingerprint="").finished()
                if row.folder not in told and result is not None:
                    told.add(row.folder)
                    title = f"seed {plan.experiment.seed}, {_schedule(share)}, lambda {row.values[LAM]:g}"
                    self._tell(title, result, self._of[share], now=now)

        def follow() -> None:
            while not ended.wait(3.0):
                with suppress(OSError, InputError):  # of storage that is away for a moment
                    tell(now=True)

        tell(now=False)
        thread = threading.Thread(target=follow, daemon=True, name="finished trainings")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        tell(now=True)


# What came of it


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
    lines = [
        f"Leads, then falls behind: {_holds(grid.lam[leader] > grid.lam[best] and lost > spread)}. Before the drop "
        f"lambda {grid.lam[leader]:g} leads ({_percent(before[leader])}); at the end {grid.lam[best]:g} does "
        f"({_percent(end[best])}), {_percent(lost)} above it. The seeds' spread is {_percent(spread)}; of a seed's "
        f"{len(end)} arms {near:.1f} lie within it of the best."
    ]
    means = {(c.metric, c.rung, c.kind): float(np.mean(c.spearman)) for c in correlated}
    for metric in (AP, TAIL):
        pairs = [(rung, means[metric, rung, "complete"], means[metric, rung, "cut"]) for rung in grid.rungs]
        told = ", ".join(f"{complete:.2f} against {cut:.2f} at {rung:g}" for rung, complete, cut in pairs)
        better = all(complete > cut for _, complete, cut in pairs)
        lines.append(f"Complete rungs rank better, {metric.removeprefix('val/')}: {_holds(better)}. Spearman {told}.")
    for rule in dict.fromkeys(climb.rule for climb in climbed):
        ours = [climb for climb in climbed if climb.rule == rule and climb.kind == "complete"]
        fit = [climb for climb in ours if climb.odds.within >= 0.95 and climb.odds.cost <= 0.5 + 1e-9]
        told = "; ".join(
            f"{_ladder(climb)}: {100 * climb.odds.within:.0f} % for {climb.odds.cost:.2f} of the epochs"
            for climb in ours
        )
        lines.append(f"Complete rungs, {rule}, find it for half: {_holds(bool(fit))}. {told}.")
    return lines


def last_before_drop(grid: "Grid") -> int:
    """The last epoch that ends before the learning rate drops."""
    return math.ceil(DROP * grid.epochs) - 1


def _holds(value: bool) -> str:
    return "holds" if value else "does not hold here"


def _schedule(share: float) -> str:
    return "full schedule" if share == 1 else f"{share:g} of the schedule"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _ladder(climb: "Climb") -> str:
    return ", ".join(f"{share:g}" for share in climb.ladder.shares)


def conclude(args: Args, grid: "Grid", console: "Console") -> None:
    """The tables, the verdicts, the figure."""
    from xray_det.orchestrate.rank import climbs, correlations
    from xray_det.tracking.environment import commit

    correlated = correlations(grid, (AP, TAIL))
    climbed = climbs(grid, AP, reduction=args.reduction, most=args.orders, concurrent=args.concurrent)
    console.print(
        "\nAP in percent, mean over seeds; own: a complete schedule of that share", ends_table(grid), sep="\n"
    )
    console.print("\nRank correlation of a rung with the end", correlations_table(correlated), sep="\n")
    console.print(
        "\nHow often a sweep keeps the best lambda, or one within the spread of it, in percent; epochs over the grid's",
        soft_wrap=True,
    )
    console.print(climbs_table(climbed))
    console.print()
    for line in verdicts(grid, correlated, climbed):
        console.print(line, soft_wrap=True)
    image, address = io.BytesIO(), storage.join(args.folder, "rungs.png")
    draw(grid, correlated).savefig(image, format="png", dpi=110)
    storage.write_bytes(address, image.getvalue())
    console.print(f"figure: {address}", soft_wrap=True)
    console.print(f"{' '.join(['experiments/rungs.py', *sys.argv[1:]])} at commit {commit()}", soft_wrap=True)


def ends_table(grid: "Grid") -> "Table":
    """A line a lambda: AP on its way and at its end, mean over seeds."""
    cuts, complete = (found.mean(axis=0) for found in grid.kinds(AP).values())
    late = last_before_drop(grid)
    shares = [f"{rung:g}" for rung in grid.rungs]
    heads = ["lambda", *(f"cut {s}" for s in shares), f"epoch {late}", "end", *(f"own {s}" for s in shares)]
    table = _table(*heads, "head", "tail")
    for arm, lam in enumerate(grid.lam):
        ends = [grid.end(metric)[:, arm].mean() for metric in (AP, HEAD, TAIL)]
        before = grid.curves[AP][:, arm, late].mean()
        values = [*cuts[arm], before, ends[0], *complete[arm], *ends[1:]]
        table.add_row(f"{lam:g}", *(_percent(value) for value in values))
    return table


def correlations_table(found: "Sequence[Correlation]") -> "Table":
    """A line a metric, rung and kind."""
    import numpy as np

    seeds = [f"seed {seed}" for seed in range(len(found[0].spearman))]
    table = _table("AP of", "rung", "kind", *seeds, "Spearman", "Kendall")
    for line in found:
        name = line.metric.removeprefix("val/AP").strip("_") or "all"
        values = [*line.spearman, float(np.mean(line.spearman)), float(np.mean(line.kendall))]
        table.add_row(name, f"{line.rung:g}", line.kind, *(f"{value:.2f}" for value in values))
    return table


def climbs_table(found: "Sequence[Climb]") -> "Table":
    """A line a ladder, kind and rule."""
    table = _table("rungs", "kind", "rule", "the best", "or near", "epochs")
    for climb in found:
        odds = climb.odds
        row = (_ladder(climb), climb.kind, climb.rule, f"{100 * odds.best:.0f}", f"{100 * odds.within:.0f}")
        table.add_row(*row, f"{odds.cost:.2f}")
    return table


def _table(*heads: str) -> "Table":
    """Plain text, that can be pasted."""
    from rich.table import Table

    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    return table


def draw(grid: "Grid", correlated: "Sequence[Correlation]") -> "Figure":
    """AP against epochs for each lambda, a thin line a seed, beside what each rung said of the end; the tail below."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = [colormaps["viridis"](at) for at in np.linspace(0, 0.93, len(grid.lam))]
    figure = Figure(figsize=(5.6 + 3.6 * len(grid.rungs), 7.6), layout="constrained")
    widths = [1.4, *(1.0 for _ in grid.rungs)]
    panels = figure.subplots(2, 1 + len(grid.rungs), squeeze=False, width_ratios=widths)
    spearman = {(c.metric, c.rung, c.kind): float(np.mean(c.spearman)) for c in correlated}
    for metric, row in zip((AP, TAIL), panels, strict=True):
        name = "AP" if metric == AP else "AP of the tail"
        _draw_curves(row[0], grid, metric, colours)
        row[0].set(ylabel=f"{name}, percent", title=f"{name}, full schedules")
        for number, rung in enumerate(grid.rungs):
            axes, ends = row[1 + number], 100 * grid.end(metric)
            for kind, scores in grid.kinds(metric).items():
                for arm, colour in enumerate(colours):
                    axes.plot(100 * scores[:, arm, number], ends[:, arm], color=colour, ls="", **MARKERS[kind])
            told = ", ".join(f"{kind} {spearman[metric, rung, kind]:.2f}" for kind in MARKERS)
            axes.set(xlabel=f"{name} of the rung", ylabel="at the end", title=f"rung {rung:g}: Spearman {told}")
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
