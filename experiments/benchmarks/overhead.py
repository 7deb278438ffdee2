"""What does Ray cost a training? Ray Train and the loader against plain processes and torch's DataLoader.

The miniature at 320 px, the slim RetinaNet in bf16, the same loop, plan, threads and checkpoints:

- ours: ``train()``, Ray Train's workers, batches made by Ray Data;
- peer: as many plain processes (gloo), batches of the same plan made by torch's DataLoader, in the rank itself (0) and
  in one process beside each rank (1); the faster of the two is the peer.

    python experiments/benchmarks/overhead.py
    python experiments/benchmarks/overhead.py --scale 0.1 --size 128 --repeats 1

All must end with the same weights to the last bit, or nothing is printed. At scale 1 an epoch is 640 images, 40 global
batches, about a minute on two cores, and one chunk, as long as the loop makes it by itself: an epoch pays for one
checkpoint and one start of Ray Data. An epoch's time is between the last steps of two epochs; the first epoch, with
every start in it, is left out. Sides take turns; medians count. CPU time is of all processes of a side, Ray's servers
too: on a busy machine it tells more than the clock. The parts of a start are of the machine's clock, from the process
on. At last a worker is killed with SIGKILL in the middle of the second epoch, which has to be made again from its
beginning: time until a step is made that had not been made before.

Goal: an epoch takes at most 1.10 of the peer's, 1.03 is aimed for.

Result (``--peers 0``, a quiet machine, commit 85e7abb): an epoch takes 1.07 of the peer's time, 42.1 s against 39.5,
and 1.07 of its processor time: 125 ms an image against 117, of which workers 117 (117), data tasks 3, Ray's servers 2,
Ray's actors, each of which wakes a hundred times a second, 2. Between two epochs pass 1.1 s (0.4). Single trainings
differ: a pair of them, the same day, came to 1.12, so take three. From the process to the first step 24 s (7): imports
2, ray.init 4, worker processes 7, model 2, first batch 2, first step 7. A worker that is killed amid an epoch costs 8 s
until training goes on, and the steps since the last checkpoint. With the dashboard and the placement group cleaner,
which a sweep has and a single training had until then (``--repeats 1``, commit 591f565), it was 1.11.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import tyro

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes below, whoever starts them

if TYPE_CHECKING:
    from xray_det.data.batch import Batch
    from xray_det.orchestrate.experiment import Experiment, Prepared

PATIENCE_S = 3600.0
BATCH = 16
LOG, MARKS, STATIONS_FILE = "log.txt", "marks.json", "stations.json"
DATA_TASKS = "data tasks"
RELEASES = ("objects365", "open_images")
#: Lines of the table; those with an indent are parts of the one above.
EPOCH, CPU, START, TOTAL = "an epoch, s", "CPU of an image, ms", "process to first step, s", "fit to end, s"
KILL = "a killed worker: to the next new step, s"
#: The stations of a start, each with the line of what it is the end of.
STATIONS = {
    "imports": "  imports",
    "connected": "  ray.init",
    "called": "  dataset, run's folder",
    "workers": "  worker processes",
    "model": "  model",
    "first_batch": "  first batch",
    "first_step": "  first step",
}
#: Ray's processes by what stands in their command line; all others of Ray's are its servers.
KINDS = {
    "RayTrainWorker": "workers",
    "Agent": "Ray's servers",
    "ray::MapBatches": DATA_TASKS,
    "ray::IDLE": DATA_TASKS,
    "default_worker": DATA_TASKS,
    "ray::": "Ray's actors",
}

#: What is measured, by its line -> its values.
Figures = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Ray Train and the loader against plain processes and torch's DataLoader."""

    scale: float = 1.0
    """1: 640 images an epoch."""
    size: int = 320
    """Longer side of the images in pixels."""
    workers: int = 2
    """Training processes of either side."""
    repeats: int = 3
    """How often each side trains."""
    epochs: int = 3
    """Of each training; the first is not counted."""
    peers: tuple[int, ...] = (0, 1)
    """DataLoader workers a rank to try."""
    kill: bool = True
    """Train once more and kill a worker."""


def main(args: Args) -> None:
    """Measure and print one table."""
    from xray_det import storage
    from xray_det.display import terminal

    home = storage.home() / "benchmarks"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=home) as scratch:
        terminal().print(table(args, measure(args, Path(scratch))))


def measure(args: Args, scratch: Path) -> dict[str, Figures]:
    """The figures of ``ours`` and of each peer."""
    from tqdm import tqdm

    with side("data", args, scratch / "data"):
        pass
    found: dict[str, Figures] = {name: {} for name in ("ours", *(f"peer {count}" for count in args.peers))}
    turns = [(name, turn) for turn in range(args.repeats) for name in found]
    folders = [scratch / f"{name} {turn}".replace(" ", "-") for name, turn in turns]
    for (name, _), folder in zip(tqdm(turns, desc="trainings", leave=False), folders, strict=True):
        for what, values in trained(name, args, folder).items():
            found[name].setdefault(what, []).extend(values)
    if args.kill:
        folders.append(scratch / "killed")
        found["ours"] |= killed(args, folders[-1])
    demand_equal([weights_of(folder) for folder in folders])
    return found


def table(args: Args, found: dict[str, Figures]) -> Any:
    """The one table, of medians; the peer is the fastest one."""
    from xray_det.display import Table

    medians = {name: {what: statistics.median(v) for what, v in figures.items()} for name, figures in found.items()}
    ours, peers = medians.pop("ours"), medians
    fastest = min(peers, key=lambda name: peers[name][EPOCH])
    peer = peers[fastest]
    shown = Table("what", "ours", "peer", "ratio", "goal", title=f"{args.workers} workers, {args.size} px")
    shown.caption = f"peer: {fastest.removeprefix('peer ')} DataLoader workers a rank" + "".join(
        f"; with {name.removeprefix('peer ')}: {EPOCH} {figures[EPOCH]:.2f}, {CPU} {figures[CPU]:.1f}"
        for name, figures in peers.items()
        if name != fastest
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for what in dict.fromkeys([*ours, *peer]):
        if what in (START, KILL):
            shown.add_section()
        cells = [f"{side[what]:.2f}" if what in side else "-" for side in (ours, peer)]
        ratio = f"{ours[what] / peer[what]:.3f}" if what in (EPOCH, CPU, START) else ""
        shown.add_row(what, *cells, ratio, "1.10, aim 1.03" if what == EPOCH else "")
    return shown


def images(args: Args) -> int:
    """Of an epoch, a multiple of the batch; 32 at least."""
    return steps_per_epoch(args) * BATCH


def steps_per_epoch(args: Args) -> int:
    return max(2, round(40 * args.scale))


# The training


def configure(args: Args, out: Path) -> "Experiment":
    """What both sides train; its data lies in the project's home."""
    from xray_det import storage
    from xray_det.config import fingerprint
    from xray_det.data.annotations import Selection
    from xray_det.data.augmentation import Augmentation
    from xray_det.models.retinanet import slim
    from xray_det.orchestrate.experiment import Data, Experiment
    from xray_det.train.phase import AdamW, Phase

    folder = storage.home() / "benchmarks" / f"miniature-{fingerprint(miniature(args))[:8]}" / "shards"
    return Experiment(
        name="run",
        data=Data(train=tuple(Selection(folder=str(folder / name), split="train") for name in RELEASES)),
        model=slim(),
        augmentation=Augmentation(short_side=(args.size,), max_side=args.size, flip=0.0, scale_jitter=(0.8, 1.25)),
        phases=(Phase(epochs=args.epochs, optimizer=AdamW(), lr=0.001, warmup_steps=20, clip=10.0),),
        batch=BATCH,
        workers=args.workers,
        device="cpu",
        checkpoint_every=steps_per_epoch(args),  # with more steps the loop would aim at a minute too
        precision="bf16",
        log_every=1,  # the journal has the time of every step
        out=str(out),
    )


def miniature(args: Args) -> Any:
    from xray_det.data.miniature.parameters import Miniature

    count = images(args)
    return Miniature(
        images=count, validation_images=2, size=args.size, classes=min(40, count // 8), look_alikes=1, defects=0
    )


def make_data(args: Args, folder: Path) -> None:
    """Render and ingest, unless that is done; map the annotations, which the first training would do."""
    from xray_det.data.ingest import ingest_published
    from xray_det.data.miniature.releases import write
    from xray_det.orchestrate.experiment import prepare

    experiment = configure(args, folder)
    shards = Path(experiment.data.train[0].folder).parent
    releases = write(shards.parent, miniature(args), progress=False)
    for name in RELEASES:
        ingest_published([getattr(releases, name)], str(shards / name), progress=False)
    assert len(prepare(experiment).loader.annotations) == images(args)


def train_ours(args: Args, folder: Path) -> dict[str, float]:
    """Returns when it reached its stations."""
    from xray_det.data.cluster import connect
    from xray_det.orchestrate.trainer import train

    stations = {"imports": time.time()}
    connect(log_to_driver=False)
    stations["connected"] = before = time.time()
    result = train(configure(args, folder))
    for name, seconds in result.seconds.items():
        before += seconds
        stations["called" if name == "prepare" else name] = before
    stations["ended"] = stations["connected"] + result.seconds["total"]
    return stations


def train_peer(args: Args, folder: Path, loader_workers: int) -> dict[str, float]:
    """Returns when it reached its stations."""
    import torch.multiprocessing as mp

    stations = {"imports": time.time(), "called": time.time()}
    mp.spawn(rank, (args, folder, loader_workers), nprocs=args.workers)  # type: ignore[attr-defined,no-untyped-call]
    marks: dict[str, float] = json.loads((folder / MARKS).read_text())
    return stations | marks | {"ended": time.time()}


def rank(number: int, args: Args, folder: Path, loader_workers: int) -> None:
    """A rank of the peer: the project's loop and plan, no Ray."""
    import torch
    import torch.distributed as dist

    from xray_det.models.weights import save_detector
    from xray_det.orchestrate.experiment import prepare
    from xray_det.tracking.journal import Journal
    from xray_det.train.loop import run
    from xray_det.train.plain import PlainContext

    world = args.workers
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=world)
    marks = {"workers": time.time()}
    experiment = configure(args, folder)
    torch.set_num_threads(experiment.threads)
    prepared = prepare(experiment)
    torch.manual_seed(experiment.seed)
    detector = experiment.model.build(len(prepared.space))
    marks["model"] = time.time()

    def first_step(*_: object) -> None:
        marks.setdefault("first_step", time.time())

    context = PlainContext(
        Batches(prepared=prepared, rank=number, world=world, loader_workers=loader_workers, marks=marks),
        Path(experiment.folder),
        rank=number,
        world=world,
        on_log=Journal(experiment.folder, "rank0").log if number == 0 else None,
        on_step=first_step,
    )
    save = partial(
        save_detector,
        space=prepared.space,
        experiment=prepared.document["experiment"],
        preprocessor=prepared.preprocessor,
    )
    run(context, prepared.recipe, detector, lambda model, out: save(out, model))  # type: ignore[arg-type]
    if number == 0:
        (folder / MARKS).write_text(json.dumps(marks))
    dist.destroy_process_group()


@dataclass(kw_only=True)
class Batches:
    """The project's plan, executed by torch's DataLoader; ``train.plain.Batches``."""

    prepared: "Prepared"
    rank: int
    world: int
    loader_workers: int
    marks: dict[str, float]

    def plan(self, phase: int, epoch: int) -> np.ndarray:
        settings = self.prepared.experiment.phases[phase]
        return self.prepared.loader.plan(
            settings.sampling_at(epoch, self.prepared.loader.steps_per_epoch), settings.ratio, phase, epoch
        )

    def steps_per_epoch(self, phase: int) -> int:
        return len(self.plan(phase, 0)) // self.prepared.experiment.batch

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> "Iterator[Batch]":
        from xray_det.data.loader import TorchWorkers

        executor, plan = TorchWorkers(workers=self.loader_workers), self.plan(phase, epoch)
        made = self.prepared.loader.batches(plan, phase, epoch, start, stop, self.rank, self.world, executor)
        for batch in made:
            self.marks.setdefault("first_batch", time.time())
            yield batch


# Watching a training from outside


@contextmanager
def side(name: str, args: Args, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does a part of the benchmark (see ``act``); it is waited for, and nothing of it is left.

    Raises:
        SystemExit: it failed; with the end of what it printed.
    """
    folder.mkdir()
    environment = {n: value for n, value in os.environ.items() if n != "RAY_ADDRESS"}
    command = [sys.executable, __file__, "--side", name, json.dumps(asdict(args)), str(folder), str(time.time())]
    with open(folder / LOG, "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
        process.wait(PATIENCE_S)
    finally:
        if process.poll() is None:
            end(process)
    if process.returncode:
        raise SystemExit(f"{name} failed:\n" + (folder / LOG).read_text()[-3000:])


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it."""
    for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        with suppress(psutil.Error):
            one.kill()
    process.wait()


def act(name: str, text: str, folder: Path, began: float) -> None:
    """What a side's process does."""
    from xray_det import config

    args = config.from_dict(Args, json.loads(text))
    if name == "data":
        make_data(args, folder)
        return
    stations = train_ours(args, folder) if name == "ours" else train_peer(args, folder, int(name.split()[1]))
    (folder / STATIONS_FILE).write_text(json.dumps({"process": began, **stations}))


def trained(name: str, args: Args, folder: Path) -> Figures:
    """One training of a side."""
    with side(name, args, folder) as process:
        meter = CpuMeter(process.pid, named=name == "ours")
        process.wait(PATIENCE_S)
        meter.stop()
    steps, stations = steps_per_epoch(args), stations_of(folder)
    made = dict(step_times(folder))
    ends = [made[steps * epoch] for epoch in range(1, args.epochs + 1)]
    usual = statistics.median(made[s + 1] - made[s] for s in range(steps, steps * args.epochs) if s % steps)
    cpu = {f"  {kind}": spent for kind, spent in meter.between(ends[0], ends[-1]).items()}
    each = 1e3 / (images(args) * (args.epochs - 1))
    reached = [station for station in STATIONS if station in stations]
    before = ["process", *reached]
    return {
        EPOCH: np.diff(ends).tolist(),
        "  between two epochs": [made[s + 1] - made[s] - usual for s in range(steps, steps * args.epochs, steps)],
        CPU: [sum(cpu.values()) * each],
        **{kind: [spent * each] for kind, spent in cpu.items()},
        START: [stations["first_step"] - stations["process"]],
        **{STATIONS[s]: [stations[s] - stations[b]] for b, s in zip(before, reached, strict=False)},
        TOTAL: [stations["ended"] - stations["called"]],
    }


def killed(args: Args, folder: Path) -> Figures:
    """What a worker that dies in the middle of the second epoch costs."""
    steps = steps_per_epoch(args)
    with side("ours", args, folder) as process:
        wait_for(folder, steps + steps // 2, process)
        family = psutil.Process(process.pid).children(recursive=True)
        one, *others = [worker for worker in family if "RayTrainWorker" in " ".join(worker.cmdline())]
        one.kill()
        at = time.time()
        psutil.wait_procs(others, timeout=PATIENCE_S)
        noticed = time.time()
    last = max(step for step, made in step_times(folder) if made < at)
    again = min(made for step, made in step_times(folder) if step == last + 1)
    stations = stations_of(folder)
    return {
        KILL: [again - at],
        "  the others are stopped": [noticed - at],
        "  new workers": [stations["workers"] - noticed],
        "  model, checkpoint, first batch": [stations["first_batch"] - stations["workers"]],
        f"  {last - steps} steps again, 1 new": [again - stations["first_batch"]],
        "  fit to end, with the kill": [stations["ended"] - stations["called"]],
    }


def stations_of(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / STATIONS_FILE).read_text())
    return found


def wait_for(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not any(made >= step for made, _ in step_times(folder)):
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"step {step} was not reached:\n" + (folder / LOG).read_text()[-3000:])
        time.sleep(0.05)


def step_times(folder: Path) -> Iterator[tuple[int, float]]:
    """Steps and when they were made, as rank 0 noted them."""
    from xray_det.tracking.journal import Reader

    for _, _, record in Reader(str(folder / "run")).new():
        if "step" in record:
            yield record["step"], record["t"] / 1e3


def weights_of(folder: Path) -> Path:
    return folder / "run" / "phases" / "0" / "weights" / "model.safetensors"


def demand_equal(weights: Sequence[Path]) -> None:
    """The same work was done, or the figures mean nothing."""
    import torch
    from safetensors.torch import load_file

    expected = load_file(weights[0])
    for other in weights[1:]:
        found = load_file(other)
        if found.keys() != expected.keys() or not all(torch.equal(found[n], t) for n, t in expected.items()):
            raise SystemExit(f"{other} differs from {weights[0]}")


class CpuMeter:
    """CPU time of a process and all below it, read about once a second: what ended before is remembered.

    Args:
        named: the processes are Ray's; otherwise those below the first one are ranks, and below them the DataLoader's.
    """

    def __init__(self, pid: int, *, named: bool) -> None:
        self._root, self._named = psutil.Process(pid), named
        self._spent: dict[tuple[int, float], tuple[str, float]] = {}
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds in a span of time, by kind of process."""
        times = [at for at, _ in self._samples]
        spent = {kind: [sums.get(kind, 0.0) for _, sums in self._samples] for kind in self._samples[-1][1]}
        return {kind: float(np.diff(np.interp([begin, end], times, sums))[0]) for kind, sums in spent.items()}

    def _follow(self) -> None:
        while not self._stopped.wait(1.0):
            with suppress(psutil.Error):
                for process in (self._root, *self._root.children(recursive=True)):
                    self._read(process)
            sums: dict[str, float] = {}
            for kind, seconds in self._spent.values():
                sums[kind] = sums.get(kind, 0.0) + seconds
            self._samples.append((time.time(), sums))

    def _read(self, process: psutil.Process) -> None:
        with suppress(psutil.Error), process.oneshot():
            key = process.pid, process.create_time()
            kind = self._spent[key][0] if key in self._spent else DATA_TASKS
            if kind == DATA_TASKS:  # a process of Ray's bears a name when it is told what it is for
                kind = self._kind(process)
            self._spent[key] = kind, sum(process.cpu_times()[:2])

    def _kind(self, process: psutil.Process) -> str:
        if process.pid == self._root.pid:
            return "driver"
        if not self._named:
            return "workers" if process.ppid() == self._root.pid else DATA_TASKS
        command = " ".join(process.cmdline())
        return next((kind for part, kind in KINDS.items() if part in command), "Ray's servers")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        act(sys.argv[2], sys.argv[3], Path(sys.argv[4]), float(sys.argv[5]))
    else:
        main(tyro.cli(Args, description=__doc__))
