"""Several workers (gloo processes) do what one does: DDP, all-reduced counts, and a resume to the last bit."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from toy_training import CountingDetector, ToyData, ToyDetector, recipe, save_weights

from xray_det.losses import EqualizationV2, Seesaw
from xray_det.train.context import Position
from xray_det.train.loop import run
from xray_det.train.phase import SGD, Phase
from xray_det.train.plain import PlainContext

ONE_STEP = Phase(epochs=1, lr=1.0, optimizer=SGD(momentum=0.0, weight_decay=0.0))


def worker(rank: int, world: int, folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Trainings one after the other in one process group; each into its own folder below ``folder``."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    for job in jobs:

        def on_step(position: Position, total: int, stop_at: int | None = job.get("stop_at")) -> None:
            if position.step == stop_at:
                raise StopIteration

        data = ToyData(batch=12, steps=job.get("steps", 5), rank=rank, world=world)
        context = PlainContext(data, folder / job["name"], rank=rank, world=world, on_step=on_step)
        try:
            run(context, recipe(*job["phases"]), job.get("detector", ToyDetector)(), save_weights)
        except StopIteration:
            dist.barrier()
    dist.destroy_process_group()


def train(folder: Path, world: int, *jobs: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    mp.start_processes(worker, (world, folder, list(jobs)), nprocs=world, start_method="fork")  # type: ignore[no-untyped-call]


def weights(folder: Path, phase: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / "phases" / str(phase) / "weights" / "model.safetensors")


def test_one_step_is_the_same_on_1_2_and_4_workers(tmp_path: Path) -> None:
    start = ToyDetector().state_dict()
    updates = {}
    for world in (1, 2, 4):
        train(tmp_path / str(world), world, {"name": "run", "phases": (ONE_STEP,), "steps": 1})
        end = weights(tmp_path / str(world) / "run")
        updates[world] = {name: start[name] - value for name, value in end.items()}  # lr 1: the gradient itself
    scale = max(float(update.abs().max()) for update in updates[1].values())
    assert scale > 0.01
    for world in (2, 4):
        for name, update in updates[world].items():
            torch.testing.assert_close(update, updates[1][name], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("world", [2, 3])
def test_resume_on_several_workers_is_bit_identical(tmp_path: Path, world: int) -> None:
    phases = (Phase(epochs=2, lr=0.05), Phase(epochs=1, lr=0.02))
    common = {"phases": phases, "detector": partial(ToyDetector, wide=True)}
    jobs = [{"name": "whole", **common}]
    for stop in (3, 11):
        jobs += [
            {"name": f"stopped-{stop}", **common, "stop_at": stop},
            {"name": f"stopped-{stop}", **common},
        ]
    train(tmp_path, world, *jobs)
    whole = weights(tmp_path / "whole", phase=1)
    for stop in (3, 11):
        resumed = weights(tmp_path / f"stopped-{stop}", phase=1)
        assert all(torch.equal(resumed[name], value) for name, value in whole.items()), stop


@pytest.mark.parametrize("loss", [EqualizationV2(), Seesaw()], ids=lambda loss: type(loss).__name__)
def test_a_loss_that_counts_sees_the_rows_of_all_workers(tmp_path: Path, loss: EqualizationV2 | Seesaw) -> None:
    common = {"phases": (Phase(epochs=2, lr=0.05),), "detector": partial(CountingDetector, loss)}
    train(tmp_path / "1", 1, {"name": "whole", **common})
    stopped = ({"name": "stopped", **common, "stop_at": 5}, {"name": "stopped", **common})
    train(tmp_path / "2", 2, {"name": "whole", **common}, *stopped)
    one, two = (weights(tmp_path / world / "whole") for world in ("1", "2"))
    counted = [name for name in one if name.startswith("loss.")]
    assert counted
    assert all(one[name].min() > 0 for name in counted)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    resumed = weights(tmp_path / "2" / "stopped")
    assert all(torch.equal(resumed[name], value) for name, value in two.items())


class Following(ToyDetector):
    """Its pixels pass a batch norm, whose running statistics depend on the images it was shown and on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid.insert(0, torch.nn.BatchNorm2d(3))


def test_running_statistics_follow_the_steps_and_no_pass_that_is_thrown_away(tmp_path: Path) -> None:
    common = {"phases": (Phase(epochs=1, lr=0.05), Phase(epochs=1, lr=0.05)), "detector": Following}
    stopped = ({"name": "stopped", **common, "stop_at": 3}, {"name": "stopped", **common})
    train(tmp_path, 2, {"name": "whole", **common}, *stopped)
    mean = torch.zeros(3)
    for phase in range(2):
        for batch in ToyData(batch=12, world=2).batches(phase, 0, 0, 5):  # of rank 0, which writes the weights
            mean = 0.9 * mean + 0.1 * (batch.images.float() / 255).mean((0, 2, 3))
    whole, resumed = (weights(tmp_path / name, phase=1) for name in ("whole", "stopped"))
    torch.testing.assert_close(whole["pyramid.0.running_mean"], mean)
    assert whole["pyramid.0.num_batches_tracked"] == 10
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_parameter_without_a_part_in_the_loss_does_not_hang_ddp(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phases = (Phase(epochs=1, lr=0.05),)
    train(
        tmp_path,
        2,
        {"name": "spare", "phases": phases, "detector": partial(ToyDetector, unused=True)},
        {"name": "plain", "phases": phases},
    )
    spare, plain = weights(tmp_path / "spare"), weights(tmp_path / "plain")
    assert torch.equal(spare["spare.weight"], ToyDetector(unused=True).state_dict()["spare.weight"])
    assert all(torch.equal(spare[name], value) for name, value in plain.items())
