"""Trainings as plain processes, without Ray: what the weights of the same trainings under Ray must be."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from xray_det.orchestrate.experiment import Experiment, prepare
from xray_det.orchestrate.worker import weight_saver
from xray_det.train.loop import run
from xray_det.train.plain import PlainContext

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks"))
from overhead import Batches

WORLD = 2


def train(experiments: Sequence[Experiment], folder: Path) -> None:
    """One after another, each into its own folder; what the processes need to find one another goes into FOLDER."""
    mp.spawn(_work, (experiments, str(folder)), nprocs=WORLD)  # type: ignore[no-untyped-call]


def _work(rank: int, experiments: Sequence[Experiment], folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    for experiment in experiments:
        torch.set_num_threads(experiment.threads)
        prepared = prepare(experiment)
        torch.manual_seed(experiment.seed)
        detector = experiment.model.build(len(prepared.space))
        batches = Batches(prepared=prepared, rank=rank, world=WORLD, loader_workers=0, marks={})
        context = PlainContext(batches, Path(experiment.folder), rank=rank, world=WORLD)
        run(context, prepared.recipe, detector, weight_saver(prepared))
    dist.destroy_process_group()
