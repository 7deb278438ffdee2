"""A training on Ray: what it leaves, that it equals the plain loop, and how it fails."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_dataset import experiment, write_dataset
from safetensors.torch import load_file

from xray_det import storage
from xray_det.data.sampling import Natural, SoftBalance
from xray_det.errors import InputError
from xray_det.evaluation.measured import Measured
from xray_det.inference.predict import augmentation_at_test
from xray_det.models.weights import load_detector, read_config
from xray_det.orchestrate import trainer
from xray_det.orchestrate.experiment import Prepared, Validation, prepare, read_experiment
from xray_det.orchestrate.run_folder import CHECKPOINTS, RunFolder
from xray_det.orchestrate.trainer import train
from xray_det.orchestrate.validation import on_the_way
from xray_det.orchestrate.worker import weight_saver
from xray_det.tracking.journal import Journal, read_points
from xray_det.train.evidence import Diverged, replay
from xray_det.train.loop import run
from xray_det.train.phase import Phase
from xray_det.train.plain import PlainContext


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares")


class LoaderBatches:
    """The project's loader, executed in this process."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    def plan(self, phase: int, epoch: int):
        sampling = Natural() if phase == 0 else SoftBalance(lam=(0.2, 1.0)[epoch])
        return self.prepared.loader.plan(sampling, None, phase, epoch)

    def steps_per_epoch(self, phase: int) -> int:
        return len(self.plan(phase, 0)) // self.prepared.experiment.batch

    def batches(self, phase: int, epoch: int, start: int, stop: int):
        return self.prepared.loader.batches(self.plan(phase, epoch), phase, epoch, start, stop)


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_a_training_on_ray_equals_the_plain_loop_and_is_not_repeated(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    natural, balanced = experiment(dataset, tmp_path).phases
    moving = replace(balanced, sampling=SoftBalance(lam=(0.2, 1.0)))  # through the epochs of the phase
    made = experiment(dataset, tmp_path, workers=1, phases=(natural, moving))

    def validate(weights: str, detections: str, journal: Journal) -> Measured:
        phase = int(Path(weights).parent.name)
        tensors = len(load_file(f"{weights}/model.safetensors"))
        return Measured(metrics={"tensors": float(tensors), "val/AP": 0.5 - 0.1 * phase})

    result = train(made, validate=validate)
    assert result.steps == 24
    assert math.isfinite(result.metrics["loss"])
    # the same numbers without Ray, from another executor of the same plan
    prepared = prepare(made.absolute())
    torch.manual_seed(made.seed)
    detector = made.model.build(3)
    context = PlainContext(LoaderBatches(prepared), tmp_path / "plain")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(context, prepared.recipe, detector, weight_saver(prepared))
    finally:
        torch.set_num_threads(threads)
    for phase, weights in enumerate(result.phases):
        ours = load_file(f"{weights}/model.safetensors")
        plain = load_file(tmp_path / "plain" / "phases" / str(phase) / "ema" / "model.safetensors")
        assert all(torch.equal(ours[name], value) for name, value in plain.items())
    # what others can use
    # whoever predicts with the weights finds the sizes and the data of the training in them
    assert augmentation_at_test(result.weights) == made.augmentation.evaluation()
    assert read_experiment(read_config(result.weights)).data == made.absolute().data
    loaded, space = load_detector(result.weights)
    assert space.names == ("red", "green", "blue")
    assert loaded.num_classes == 3
    tensors = float(len(ours))
    assert result.validations == ({"tensors": tensors, "val/AP": 0.5}, {"tensors": tensors, "val/AP": 0.4})
    assert result.best == result.phases[0]
    assert read_points(made.folder)["val/AP"] == {12: 0.5, 24: 0.4}
    assert result.cost["cpu_hours"] > 0
    assert result.cost["gpu_hours"] == 0
    points = read_points(made.folder)
    assert sorted(points["train/loss"]) == list(range(1, 25))
    assert [points["train/lr"][step] for step in (1, 2, 13, 14)] == pytest.approx([5e-6, 0.005, 2e-6, 0.002])
    # both phases' ends lie in phases/, once
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()]
    # again: no fit
    monkeypatch.setattr(trainer, "_Trainer", None)
    assert train(made) == result
    with pytest.raises(InputError, match=r"experiment\.seed: 0 -> 7"):
        train(replace(made, seed=7))


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_phases_that_end_within_an_epoch_are_measured_at_their_ends(dataset: str, tmp_path: Path) -> None:
    """Epochs of 6 steps: one and a half of them, and 8 steps."""
    natural, balanced = experiment(dataset, tmp_path).phases
    part = replace(natural, epochs=1.5, drops=())
    counted = replace(balanced, epochs=None, iterations=8, drops=(), sampling=SoftBalance(lam=(0.2, 1.0)))
    made = experiment(dataset, tmp_path, workers=1, phases=(part, counted), validation=Validation(every=1))

    def validate(weights: str, detections: str, journal: Journal) -> Measured:
        return Measured(metrics={"val/AP": 0.5})

    result = train(made, validate=validate)
    assert result.steps == 17
    assert result.validations == ({"val/AP": 0.5},) * 2
    run = RunFolder(uri=made.folder, fingerprint="")
    assert [list(on_the_way(run, phase)) for phase in (0, 1)] == [[1, 1.5], [1, 8 / 6]]
    assert read_points(made.folder)["val/AP"] == dict.fromkeys((6, 9, 15, 17), 0.5)
    assert Path(run.validation(1)).name == "phase-1-end.json"


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_a_loss_that_is_not_finite_ends_the_training_with_evidence(dataset: str, tmp_path: Path) -> None:
    wild = experiment(
        dataset, tmp_path, phases=(Phase(lr=1e9, warmup_steps=0, clip=None),), checkpoint_every=None, ema=None
    )
    with pytest.raises(Diverged) as caught:
        train(wild)
    ranks = replay(caught.value.folder, lambda weights: load_detector(weights)[0], torch.device("cpu"))
    assert [rank.rank for rank in ranks] == [0, 1]
    for rank in ranks:
        for name, value in rank.losses.items():
            assert value == rank.recorded[name] or math.isnan(value) == math.isnan(rank.recorded[name])
    assert not all(math.isfinite(value) for rank in ranks for value in rank.losses.values())


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_cpus_are_refused_at_once(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would wait for ever"):
        train(experiment(dataset, tmp_path, batch=64, workers=64))
    with pytest.raises(InputError, match="0 GPUs would wait for ever"):
        train(experiment(dataset, tmp_path, device="cuda"))


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_a_workers_bad_input_is_told_as_such_and_not_tried_again_and_again(dataset: str, tmp_path: Path) -> None:
    broken = write_dataset(tmp_path / "broken", name="broken", images=4)
    (tmp_path / "broken" / "2.jpg").write_bytes(b"no image")
    made = experiment(broken, tmp_path)
    with pytest.raises(InputError, match=r"2\.jpg"):
        train(made)
    # mended, the same call goes on
    (tmp_path / "broken" / "2.jpg").write_bytes((tmp_path / "broken" / "1.jpg").read_bytes())
    assert train(made).steps == 4


def test_a_record_of_checkpoints_cut_off_by_a_kill_is_removed(tmp_path: Path) -> None:
    folder = RunFolder.open(str(tmp_path / "run"), {"experiment": {}})
    record = folder.path(CHECKPOINTS, "checkpoint_manager_snapshot.json")
    storage.write_bytes(record, b'{"ray_version": "2.60.0"}')
    trainer.mend_record(folder)
    assert storage.exists(record)
    storage.write_bytes(record, b'{"ray_ver')
    trainer.mend_record(folder)
    assert not storage.exists(record)


def test_of_a_finished_runs_checkpoints_the_best_within_a_phase_stay(tmp_path: Path) -> None:
    kept = Validation(every=1, keep=3)
    made = experiment("dataset", tmp_path, phases=(Phase(epochs=2), Phase(epochs=4)), validation=kept)
    folder = RunFolder.open(str(tmp_path / "run"), {"experiment": {}})
    # phase 0 ends after step 20; step 40 Ray removed; 45 it never heard of; 50 is one too many, which it had forgotten
    for step in (10, 20, 30, 45, 50, 60):
        storage.write_bytes(storage.join(folder.checkpoint(step, averaged=True), "model.safetensors"), b"weights")
    for phase in (0, 1):
        storage.write_bytes(storage.join(folder.weights(phase, averaged=True), "model.safetensors"), b"weights")
    record = folder.path(CHECKPOINTS, "checkpoint_manager_snapshot.json")
    storage.write_bytes(record, b"{}")
    validations = ((0, 1, 10, 0.5), (0, 2, 20, 0.6), (1, 1, 30, 0.7), (1, 2, 40, 0.9), (1, 3, 50, 0.4), (1, 4, 60, 0.3))
    for phase, epoch, step, score in validations:
        value = {"phase": phase, "epoch": epoch, "step": step, "metrics": {"val/AP": score}}
        ended = epoch == made.phases[phase].epochs
        storage.write_json(folder.validation(phase, None if ended else epoch), value)
    for _ in range(2):
        trainer.remove_spent(folder, made)
        left = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
        assert left == {"step-000000010", "step-000000030", "checkpoint_manager_snapshot.json"}
    best = [folder.checkpoint(30, averaged=True), folder.weights(0, averaged=True)]
    assert trainer.measured_weights(folder, made)[:2] == best
