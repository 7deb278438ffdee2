"""Which lambda of soft-balance sampling is best, overall and for the tail: a sweep (paper 002, Table 3, Fig. 4).

    python experiments/sweep_lambda.py ~/xray_det/datasets/fod_a --val ~/xray_det/datasets/fod_a --run fod_lambda
    python experiments/sweep_lambda.py --config experiment.json --run finer --lam 0.5 0.6 0.7 0.8 --rungs 0.25 1
    python experiments/sweep_lambda.py --config experiment.json --run drawn --samples 16 --max-concurrent 4

The experiment is train.py's, by default in two phases: natural order, then soft-balance, whose lambda is tried. The
natural phase is the same for every lambda: it is trained once, and each lambda goes on from its end.

--rungs 0.25 1 gives every lambda a complete schedule of a quarter of the epochs, its own learning-rate drop in it, and
then the best third of them the full one. (In paper 002's Fig. 4 a lambda that is too high leads until the learning rate
drops: a schedule that is cut off would keep it. experiments/rungs.py measures both.) Without --rungs every lambda is
trained in full. --samples draws values between the least and the greatest --lam with Optuna instead of going through
them.

Start the same command again after Ctrl-C, a kill, a stopped job: finished trainings are not made again, the others go
on from their checkpoints. A sweep that has finished prints its table at once; another configuration under its name is
refused, with the differences.

In MLflow the sweep is a run with the table and the figures, and a child a training: mark them and press Compare. The
figures, also in the sweep's folder: AP of all classes, the head, the middle and the tail against lambda; the same after
every epoch for each lambda (Fig. 4); AP a class in order of frequency (Fig. 5); the last two for each rung, and of more
than ten values for ten. For the curves every epoch is measured, beside the training; with --config the file says how
often (validation.every). experiments/compare.py FOLDER says what differs class by class.

Cost: the natural phase, and for each value the soft-balance phase; as many side by side as the cluster has room for.
--gpus-per-worker 0.5 lets two share a GPU. Expect: the tail's AP rises with lambda, the head's falls beyond about 0.7
(experiments/sampling.py: measured on the miniature).
"""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.command_line import Told, configure

if TYPE_CHECKING:
    from rich.console import Console

    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.sweep import Swept


@dataclass(frozen=True, kw_only=True)
class Args(Told):
    """What is swept, and how."""

    lam: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0, 1.5)
    """Values of lambda."""
    rungs: tuple[float, ...] = (1.0,)
    """Shares of the schedule, rising to 1: the best of a rung get the next, once all have finished it."""
    reduction: int = 3
    """One lambda in so many gets the next rung."""
    samples: int = 0
    """Draw so many values with Optuna, between the least and the greatest --lam; 0: try each of --lam."""
    max_concurrent: int | None = None
    """Trainings side by side; as many as the cluster has room for unless given."""
    gpus_per_worker: float = 1.0
    """Below 1, trainings share a GPU."""
    mlflow_experiment: str = "sweep_lambda"
    """Name of the MLflow experiment."""


def main(args: Args) -> None:
    """Sweep, and print what was found."""
    from xray_det.data.sampling import SoftBalance
    from xray_det.display import terminal
    from xray_det.orchestrate.results import results_table
    from xray_det.train.phase import Phase

    console = terminal()
    natural, balanced = Phase(), Phase(sampling=SoftBalance())
    if args.config is None:
        args = replace(args, set=("validation.every=1", *args.set))
    experiment = configure(args, name="sweep_lambda", phases=(natural, balanced))
    found = run(args, experiment, console)
    console.print(results_table(found.rows, f"{experiment.name}: AP in percent"))
    console.print(f"best: {found.best.arm.rsplit(' ', 1)[0]}; weights: {found.best.weights}", soft_wrap=True)
    console.print(f"folder: {found.folder}; figures: tracking/artifacts/figures in there", soft_wrap=True)


def run(args: Args, experiment: "Experiment", console: "Console") -> "Swept":
    """The sweep, unless that has been done."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from xray_det.data.sampling import SoftBalance
    from xray_det.orchestrate.arms import Arms
    from xray_det.orchestrate.sweep import sweep

    number = next((n for n, p in enumerate(experiment.phases) if isinstance(p.sampling, SoftBalance)), None)
    if number is None:
        raise InputError("phases", "none samples by soft-balance", "Set phases.N.sampling=SoftBalance in one")
    drawn = args.samples > 0
    values = tune.uniform(min(args.lam), max(args.lam)) if drawn else list(args.lam)
    metric = experiment.validation.metric
    plan = Arms(
        experiment=experiment,
        space={f"phases.{number}.sampling.lam": values},
        rungs=args.rungs,
        reduction=args.reduction,
        samples=args.samples if drawn else 1,
        searcher=OptunaSearch(metric=metric, mode="max", seed=experiment.seed) if drawn else None,
    )
    return sweep(
        plan,
        tracking=args.tracking,
        mlflow_experiment=args.mlflow_experiment,
        max_concurrent=args.max_concurrent,
        gpus_per_worker=args.gpus_per_worker,
        console=console,
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"sweep_lambda.py: {error}")
