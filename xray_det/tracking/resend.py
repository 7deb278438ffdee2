"""Sends what a run's journal holds and MLflow does not: ``python -m xray_det.tracking.resend RUNFOLDER [...]``.

For runs that ended while their MLflow server was away. Nothing is doubled, however often it is called. With ``--uri``
the runs go to another server: each becomes a run there, with its whole history.

    python -m xray_det.tracking.resend ~/xray_det/runs/fod-a
    python -m xray_det.tracking.resend --uri http://mlflow:5000 ~/xray_det/runs/*
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import tyro

from xray_det import storage
from xray_det.display import printable
from xray_det.errors import InputError
from xray_det.tracking.address import check_uri
from xray_det.tracking.journal import tracking_folder
from xray_det.tracking.outbox import Outbox
from xray_det.tracking.tracker import SenderProcess


def resend(run_folder: str, uri: str | None = None, patience_s: float = 300.0) -> int:
    """Send a run's unsent records; how many are left after at most ``patience_s``. A run that is tracked nowhere keeps
    its own: none is left.

    Args:
        run_folder: the folder of a run that was tracked.
        uri: tracking address; None: the one the run was tracked at.

    Raises:
        InputError: not a tracked run; the address cannot work.
    """
    target = check_uri(uri or tracked_at(run_folder))
    if target == "off":
        return 0
    sender = SenderProcess(run_folder, target)
    left = sender.finish(patience_s)
    sender.first_word(0.1)  # raises when the address was wrong
    return left


def tracked_at(run_folder: str) -> str:
    """A run's tracking address, ``off`` if it is tracked by its journal only."""
    address: str = storage.read_json(storage.join(tracking_folder(run_folder), "run.json"))["uri"]
    return address


def send_left(run_folders: Iterable[str], uri: str, patience_s: float = 60.0) -> list[str]:
    """Send what runs had left when they ended, because MLflow was away then; the folders that have some left now.

    Args:
        run_folders: tracked at ``uri``; most have nothing left, which costs a look at their journals.
        patience_s: how long to try; the first run that MLflow does not take in that time ends it.
    """
    waiting = [] if uri == "off" else [folder for folder in run_folders if Outbox(folder, uri).left()]
    while waiting and resend(waiting[0], uri, patience_s) == 0:
        del waiting[0]
    return waiting


@dataclass(frozen=True, kw_only=True)
class Args:
    run_folders: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, or pyarrow.fs URIs of them."""
    uri: str | None = None
    """Tracking address; by default the one the run was tracked at."""
    patience_s: float = 300.0
    """How long to try, in seconds a run."""


def main(args: Args) -> int:
    failed = 0
    for folder in args.run_folders:
        try:
            if (args.uri or tracked_at(folder)) == "off":
                raise InputError(folder, "was tracked by journal only (uri off)", "Give --uri ADDRESS")
            left = resend(folder, args.uri, args.patience_s)
        except InputError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        failed += left != 0
        print(printable(f"{folder}: " + (f"{left} records are left" if left else "all is sent")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
