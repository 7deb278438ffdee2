"""The trainings of drive_cluster.py's sweep as plain processes, without Ray: what their weights must be."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from drive_cluster import LAM, LAMBDAS, made

from xray_det.orchestrate.experiment import prepare
from xray_det.orchestrate.search import chosen
from xray_det.orchestrate.worker import weight_saver
from xray_det.train.loop import run
from xray_det.train.plain import PlainContext

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks"))
from overhead import Batches

WORLD = 2


def train(dataset: str, folder: Path) -> None:
    """All arms, one after another, each into FOLDER/LAMBDA."""
    folder.mkdir()
    mp.spawn(_work, (dataset, str(folder)), nprocs=WORLD)  # type: ignore[no-untyped-call]


def weights(folder: Path) -> Iterator[tuple[float, str, bytes]]:
    """Lambda, weights or ema, and the bytes of the model."""
    for lam in LAMBDAS:
        for kind in ("weights", "ema"):
            yield lam, kind, (folder / str(lam) / "phases" / "0" / kind / "model.safetensors").read_bytes()


def _work(rank: int, dataset: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    for lam in LAMBDAS:
        experiment = chosen(made(dataset, folder, name=str(lam)), {LAM: lam})
        torch.set_num_threads(experiment.threads)
        prepared = prepare(experiment)
        torch.manual_seed(experiment.seed)
        detector = experiment.model.build(len(prepared.space))
        batches = Batches(prepared=prepared, rank=rank, world=WORLD, loader_workers=0, marks={})
        context = PlainContext(batches, Path(experiment.folder), rank=rank, world=WORLD)
        run(context, prepared.recipe, detector, weight_saver(prepared))
    dist.destroy_process_group()
