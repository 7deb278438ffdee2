"""The sender: a process beside the training that sends the run's journals to MLflow.

A process of its own, so that a server that hangs can neither block nor slow a training, and mlflow's import (3 to 6 s)
and memory stay out of the training processes.
"""

import json
import logging
import os
import random
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final

from xray_det.errors import InputError
from xray_det.storage import Refused
from xray_det.tracking.mlflow_run import MlflowRun, first_line

POLL_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0  # between attempts to reach a dead server
ORPHAN_SECONDS: Final = 60.0  # longest life after the training process


def follow(run: MlflowRun, *, closing: threading.Event, orphaned: threading.Event, say: "Say") -> None:
    """Send until told to close (or the training process is gone), waiting out a dead server.

    While the server or the storage of the run folder is away, the pauses between attempts double from 0.5 s to
    LONGEST_PAUSE_SECONDS; ``closing`` cuts a pause short. Once closing, it goes on trying: whoever waits for this
    process sets the bound.
    """
    pause, down, told = 0.5, False, None
    while True:
        ending = closing.is_set() or orphaned.is_set()  # read before sending: later records are not promised
        try:
            run.connect()
            if told != run.outbox.run_id:  # the parent wants to know where the run is, before all is sent
                say(state="ready", run_id=run.outbox.run_id, experiment_id=run.outbox.experiment_id)
                told = run.outbox.run_id
            run.send(final=ending)
            pause, down = 0.5, False
            if ending:
                if orphaned.is_set():
                    run.mark_killed()
                return
            closing.wait(POLL_SECONDS)
        except Exception as error:  # mlflow, sqlalchemy, requests and storage each raise their own
            if isinstance(error, InputError) and not isinstance(error, Refused):
                say(state="wrong", where=error.where, problem=error.problem, remedy=error.remedy)
                return
            if not down:
                say(state="down", problem=first_line(error))
                down = True
            if orphaned.is_set():
                return
            wait = pause * random.uniform(0.8, 1.2)
            time.sleep(min(wait, 2.0)) if closing.is_set() else closing.wait(wait)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


class Say:
    """Tells the parent process a state, as a JSON line on stdout; a parent that is gone does not matter."""

    def __call__(self, **message: Any) -> None:
        with suppress(OSError):
            print(json.dumps(message), flush=True)


def main() -> None:
    """``python -m xray_det.tracking.sender RUNFOLDER``: stdin "close" ends it when all is sent, its end at once.

    The tracking address is the environment's ``MLFLOW_TRACKING_URI``.
    """
    run_folder, uri = sys.argv[1], os.environ["MLFLOW_TRACKING_URI"]
    closing, orphaned = threading.Event(), threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "close":
                closing.set()
                return
        orphaned.set()
        closing.set()
        time.sleep(ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    run = MlflowRun(run_folder, uri)
    follow(run, closing=closing, orphaned=orphaned, say=Say())
    os._exit(0)  # a connection that hangs must not hold the process


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
