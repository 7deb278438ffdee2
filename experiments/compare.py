"""Compare runs class by class: what rose, what fell, in which band, for how many hours of processors.

    python experiments/compare.py ~/xray_det/runs/control ~/xray_det/runs/quickstart
    python experiments/compare.py control quickstart --set open_images/open_images
    python experiments/compare.py SWEEP                     # all finished trials of a sweep, the first is the baseline

A RUN is a run's folder or URI, its id in MLflow, or its name there (--experiment where a name is in several); a sweep
stands for its finished trials. The first RUN is the baseline that differences are taken from. Runs that differ in
nothing but the seed are one row, their mean with the smallest and the largest; one seed says nothing about chance.

Prints the bands (AP of head, middle and tail: thirds of the trained classes by training count), the hours, the
parameters that differ, and how many classes rose and fell. Writes report.html, one file that needs nothing else, and
report.png into --out: differences class by class in order of training frequency, a heat map for more than four runs.
When all runs are trials of one sweep, both become artifacts of its MLflow run, under compare/.

Each run counts by its newest validation, read from its folder. Runs are compared on the validation sets that they have
in common; the report says what was left out.

Cost: seconds, and five more where MLflow is asked.
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from xray_det import storage
from xray_det.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from xray_det.evaluation.comparison import Comparison
    from xray_det.tracking.resolve import Resolver

#: Differing parameters of a run that the terminal shows, and classes of each sign; the report has more.
PARAMETERS, CLASSES = 8, 3


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to compare."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN …")]
    """Run folders, MLflow ids or names; the first is the baseline."""
    out: str | None = None
    """Folder or URI for the report. Unless given: compare/ in the sweep's folder, else in ~/xray_det/comparisons."""
    tracking: str | None = None
    """Address of MLflow; MLFLOW_TRACKING_URI or a SQLite file in ~/xray_det unless given."""
    experiment: str | None = None
    """MLflow experiment in which names are looked up; all of them unless given."""
    set: tuple[str, ...] = ()
    """DATASET/PROTOCOL … to compare on; all that the runs have in common unless given."""


def main(args: Args) -> None:
    """Find the runs, compare them, print, write, log."""
    from xray_det.display import printable, terminal
    from xray_det.evaluation.comparison import compare
    from xray_det.tracking.records import read_run
    from xray_det.tracking.resolve import Resolver

    console = terminal()
    resolver = Resolver(args.tracking, args.experiment)
    folders = resolver.folders(args.runs)
    comparison = compare([read_run(folder) for folder in folders], args.set)
    show(comparison, console)
    for note in (*resolver.notes, *comparison.notes):
        console.print(f"- {printable(note, 1000)}", soft_wrap=True)
    parent = resolver.common_parent(folders)
    digest = hashlib.sha256("\n".join(folders).encode()).hexdigest()[:8]
    default = storage.join(parent, "compare") if parent else storage.join(storage.home(), "comparisons", digest)
    out, report = args.out or default, render(comparison)
    for name, payload in report.items():
        storage.write_bytes(storage.join(out, name), payload)
    console.print(f"report    {storage.join(out, 'report.html')} and report.png", soft_wrap=True)
    console.print(f"MLflow    {log(report, parent, resolver)}", soft_wrap=True)
    if page := resolver.compare_page(folders):
        console.print(f"          {page}", soft_wrap=True)


def show(comparison: "Comparison", console: "Console") -> None:
    """Bands and cost, below each name what differs; for each set how many classes moved, and which most."""
    from rich.text import Text

    from xray_det.display import Table, printable
    from xray_det.evaluation.comparison import COLUMNS

    def on_lines(texts: "Iterable[str]") -> Text:
        return Text("\n".join(map(printable, texts)))

    table = Table("", "run", *COLUMNS, "cost", keys=2, title=f"AP on {', '.join(comparison.headline)}")
    for column in table.columns[2:]:
        column.justify = "right"
    for number, variant in enumerate(comparison.variants):
        lines = [f"{path}={value}" for path, value in variant.changes.items()]
        more = [f"and {len(lines) - PARAMETERS} more"] if len(lines) > PARAMETERS else []
        name = on_lines((variant.label, *lines[:PARAMETERS], *more))
        values = [on_lines(str(spread).rstrip(")").split(" (")) for spread in comparison.spreads(number).values()]
        table.add_row(str(number + 1), name, *values, str(variant.cost or "-"))
    console.print(table)
    for key, classes in comparison.tables.items():
        title = f"{key}: {len(classes.names)} classes against {comparison.variants[0].label}"
        moved = Table("", "run", "rose", "fell", "beyond seeds", "most gained", "most lost", keys=2, title=title)
        for column in moved.columns[2:5]:
            column.justify = "right"
        for number, variant in enumerate(comparison.variants[1:], start=1):
            against = classes.against(number)
            named = [
                on_lines(f"{classes.names[row]} {100 * against.difference[row]:+.1f}" for row in rows)
                for rows in against.largest(CLASSES)
            ]
            counts = [str(n) if n is not None else "-" for n in (against.rose, against.fell, against.beyond)]
            moved.add_row(str(number + 1), variant.label, *counts, *named)
        console.print(moved)


def render(comparison: "Comparison") -> dict[str, bytes]:
    """The report's files by name."""
    from xray_det.evaluation.comparison_figure import sheet
    from xray_det.evaluation.comparison_html import page
    from xray_det.lettering import figure_bytes

    image = figure_bytes(sheet(comparison))
    return {"report.html": page(comparison, image).encode(), "report.png": image}


def log(report: dict[str, bytes], parent: str | None, resolver: "Resolver") -> str:
    """Make the report an artifact of the parent's MLflow run; what became of it, for the user."""
    from xray_det.tracking.journal import Journal
    from xray_det.tracking.resend import resend
    from xray_det.tracking.tracker import Destination

    if parent is None:
        return "not logged: the runs are not trials of one sweep"
    known = resolver.tracked(parent)
    if known is None or known.uri == "off":
        return f"not logged: the sweep {parent} is not tracked"
    with Journal(parent, "compare") as journal:
        for name, payload in report.items():
            journal.artifact(f"compare/{name}", payload)
    left = resend(parent, known.uri, patience_s=60)
    sent = resolver.tracked(parent)
    if left or sent is None or sent.run_id is None or sent.experiment_id is None:
        return f"{left} records wait for the server: python -m xray_det.tracking.resend {parent}"
    where = Destination(uri=sent.uri, run_id=sent.run_id, experiment_id=sent.experiment_id)
    return f"artifacts compare/report.html and report.png of {where.address}"


if __name__ == "__main__":
    # mlflow's own retries wait minutes for a server that is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"compare.py: {error}")
