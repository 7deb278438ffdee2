"""A driver on a cluster as a process of its own, so that a test can kill it: drive_cluster.py WHAT DATASET OUT ..."""

import hashlib
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from made_dataset import experiment
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from xray_det import storage
from xray_det.data.annotations import Selection
from xray_det.data.cluster import connect
from xray_det.data.sampling import SoftBalance
from xray_det.evaluation.measured import Measured
from xray_det.orchestrate.arms import Arms
from xray_det.orchestrate.experiment import Data, Experiment
from xray_det.orchestrate.sweep import sweep
from xray_det.orchestrate.trainer import train
from xray_det.orchestrate.tuner import run_tuner
from xray_det.tracking.journal import Journal, read_points
from xray_det.train.phase import Phase

LAM = "phases.0.sampling.lam"
LAMBDAS = (0.0, 0.3, 0.7, 1.0)
EPOCHS, BATCH, IMAGES = 2, 4, 48
STEPS = EPOCHS * IMAGES // BATCH


def validate(weights: str, detections: str, journal: Journal) -> Measured:
    """A score that any bit of the weights changes."""
    return Measured(metrics={"val/AP": score(storage.read_bytes(storage.join(weights, "model.safetensors")))})


def score(model: bytes) -> float:
    return int.from_bytes(hashlib.sha256(model).digest()[:4], "big") / 2**32


def made(dataset: str, out: str, **changes: Any) -> Experiment:
    """The weights depend on nothing but the dataset and lambda, as long as there are two workers."""
    phases = (Phase(epochs=EPOCHS, lr=0.005, clip=1.0, sampling=SoftBalance(lam=0.7)),)
    return replace(experiment(dataset, Path("below"), phases=phases, batch=BATCH, **changes), out=out)


def drive_sweep(dataset: str, out: str, name: str, tracking: str) -> None:
    selected = (Selection(folder=dataset),)
    plan = Arms(
        experiment=made(dataset, out, name=name, data=Data(train=selected, val=selected)),
        space={LAM: list(LAMBDAS)},
    )
    found = sweep(plan, validate=validate, tracking=tracking, mlflow_experiment="faults")
    print([(row.arm, row.score) for row in found.rows], flush=True)


def drive_preempted(dataset: str, out: str) -> None:
    """No failure is allowed, and without a notice only epochs end with a checkpoint."""
    train(made(dataset, out, checkpoint_every=12), max_failures=0)


def drive_elastic(dataset: str, out: str) -> None:
    train(made(dataset, out, min_workers=1))


class StopsWhatTrains(FIFOScheduler):
    """Stops trials once a training has made a few steps."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        with suppress(FileNotFoundError):
            if len(read_points(self._run).get("train/loss", {})) >= 2:
                for trial in list(tune_controller.get_live_trials()):
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)


def drive_stopped(dataset: str, out: str) -> None:
    """Ray Tune stops a trial in the midst of its training; how long until all is given back?"""
    connect()
    everything = ray.cluster_resources()["CPU"]
    phases = (Phase(epochs=10_000, lr=0.005, clip=1.0),)
    endless = replace(made(dataset, out, name="endless"), phases=phases)

    def trial(_: dict[str, Any]) -> None:
        train(endless)

    settings = tune.TuneConfig(scheduler=StopsWhatTrains(endless.folder))
    run_tuner(f"{out}/sweep", trial, {}, settings, concurrent=1)
    stopped = time.monotonic()
    while ray.available_resources().get("CPU", 0.0) < everything and time.monotonic() < stopped + 300:
        time.sleep(0.5)
    free = ray.available_resources().get("CPU", 0.0)
    print(f"\nfree: {free} of {everything} after {time.monotonic() - stopped:.1f} s", flush=True)


if __name__ == "__main__":
    globals()[f"drive_{sys.argv[1]}"](*sys.argv[2:])
