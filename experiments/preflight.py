"""Look, in seconds, whether a training can run on this cluster: before it fails in hours.

    python experiments/preflight.py ~/xray_det/datasets/fod_a --run fod --set workers=2
    python experiments/preflight.py --config experiment.json --out s3://bucket/runs --tracking http://mlflow:5000
    ray job submit --working-dir . -- python experiments/preflight.py --config experiment.json

It takes what train.py takes, connects to the cluster that RAY_ADDRESS names (or starts Ray on this machine), and asks
every node at the same time; a node that does not answer within 20 s is named. Nothing is trained, nothing left behind.

    nodes       who is there, with how many CPUs and GPUs
    experiment  its datasets go together, its classes exist
    resources   the workers and their data tasks fit on the nodes; what others use now
    gpus        the GPUs that Ray hands out are there, and torch is built for them
    storage     what the driver writes to --out, every node reads, and the other way round
    data        every node reads the same datasets: manifest, shards, some images; weights to start from
    home        XRAY_DET_HOME can be written: annotations are cached there, on each node or for all
    versions    Python, ray, torch, pyarrow, numpy and the source of xray_det are the same
    tracking    MLflow answers: a wrong address, 401 and 403 are failures, a server that is down a warning
    clocks      differ by no more than 5 s
    disk        there is room for checkpoints and for Ray's objects, and /dev/shm is large enough
    upload      what `ray job submit --working-dir .` would send of this folder; not looked at inside a job

Prints a table, check by node, then what is wrong and what mends it. Exit code 1 when a check failed; a warning is none.

A cluster with an autoscaler may have too few nodes now: that is a warning, with the numbers. Where Ray does not know of
the autoscaler, or it cannot grow any more, say so by XRAY_DET_AUTOSCALER=1 or 0.

Cost: no GPU and no CPU of the cluster. On one machine about a second beyond the imports (4 s) and the start of Ray
(6 s); on a cluster what a worker process takes to start on each node, 1 to 3 s.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from xray_det.errors import InputError
from xray_det.orchestrate.command_line import Told, configure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from xray_det.display import Table
    from xray_det.orchestrate.verdicts import Finding

#: More columns than this a terminal does not hold; then nodes without a problem share one.
COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class Args(Told):
    """The training that is meant."""

    trials: int = 1
    """Trainings of this kind at the same time, as in a sweep."""
    gpus_per_worker: float = 1.0
    """Below 1 where trials share a GPU."""
    working_dir: Path | None = Path()
    """The folder that would be uploaded; none where nothing is."""
    json: Path | None = None
    """Write all findings to this file."""


def main(args: Args) -> bool:
    """Look, print, and tell whether nothing failed."""
    from xray_det.data.cluster import connect
    from xray_det.display import terminal
    from xray_det.orchestrate.preflight import preflight
    from xray_det.train.phase import Phase

    experiment = configure(args, name="train", phases=(Phase(),))
    connect()
    began = time.monotonic()
    findings = preflight(
        experiment,
        tracking=args.tracking,
        trials=args.trials,
        gpus_per_worker=args.gpus_per_worker,
        working_dir=args.working_dir,
    )
    seconds = time.monotonic() - began
    failed = [finding for finding in findings if finding.ok is False]
    if args.json is not None:
        document = {"ok": not failed, "seconds": seconds, "findings": [asdict(finding) for finding in findings]}
        args.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    show(findings, seconds, terminal())
    return not failed


def show(findings: "Sequence[Finding]", seconds: float, console: "Console") -> None:
    """The table, then a paragraph for each finding that is no ok."""
    from rich.text import Text

    from xray_det.display import lines

    console.print(table(findings))
    for finding in findings:
        if finding.ok is not True:
            text = f" {finding.check}, {finding.where}: {finding.detail}"
            console.print(
                Text.assemble(word(finding.ok), lines(text), "\n        ", lines(finding.remedy)), soft_wrap=True
            )
    counts = [sum(finding.ok is kind for finding in findings) for kind in (True, None, False)]
    console.print("{} ok, {} warnings, {} failed".format(*counts) + f", in {seconds:.1f} s")


def table(findings: "Sequence[Finding]") -> "Table":
    """Rows are checks, columns nodes: the worst of what was found."""
    from xray_det.display import Table
    from xray_det.orchestrate.preflight import CHECKS

    names = [finding.where for finding in findings if finding.check == "nodes"]
    odd = {finding.where for finding in findings if finding.ok is not True}
    shown = names if len(names) <= COLUMNS else [name for name in names if name in odd][: COLUMNS - 1]
    rest = len(names) - len(shown)
    columns = {**{name: {name} for name in shown}, **({f"{rest} others": {*names} - {*shown}} if rest else {})}
    made = Table("check", *columns, "cluster", title="preflight")
    for check in CHECKS:
        own = [finding for finding in findings if finding.check == check]
        if own:
            cells = [cell([f for f in own if f.where in members]) for members in columns.values()]
            made.add_row(check, *cells, cell([f for f in own if f.where not in names]))
    return made


def cell(findings: "Sequence[Finding]") -> "Text | str":
    """The worst of some findings as a coloured word."""
    return word(min((finding.ok for finding in findings), key=(False, None, True).index)) if findings else ""


def word(ok: bool | None) -> "Text":
    """How a finding is called, in its colour."""
    from rich.text import Text

    return {True: Text("ok", "green"), None: Text("warning", "yellow"), False: Text("failed", "red")}[ok]


if __name__ == "__main__":
    try:
        sys.exit(0 if main(tyro.cli(Args, description=__doc__)) else 1)
    except InputError as error:
        sys.exit(f"preflight.py: {error}")
