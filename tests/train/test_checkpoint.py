"""A checkpoint gives back what was saved, bit for bit, and refuses what does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
from toy_training import ToyData, ToyDetector, save_weights

from xray_det.errors import InputError
from xray_det.models.sampling import SampleKey
from xray_det.train import checkpoint
from xray_det.train.context import Position
from xray_det.train.optimizer import build_optimizer
from xray_det.train.phase import SGD, AdamW, Phase

OPTIMIZERS = [SGD(), SGD(momentum=0.0), AdamW()]


def trained(config: SGD | AdamW, steps: int = 3) -> tuple[ToyDetector, torch.optim.Optimizer]:
    detector = ToyDetector().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(detector, Phase(optimizer=config))
    for batch in ToyData().batches(0, 0, 0, steps):
        key = SampleKey(seed=0, phase=0, epoch=0, positions=batch.positions)
        out = detector.losses(detector(batch.images, batch.sizes, batch.targets, key), batch.targets)
        optimizer.zero_grad()
        sum(out.mean().values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    return detector, optimizer


def write(
    folder: Path, config: SGD | AdamW = OPTIMIZERS[0], **changes: Any
) -> tuple[ToyDetector, torch.optim.Optimizer]:
    detector, optimizer = trained(config)
    position = Position(phase=1, epoch=2, batch=3, step=40)
    parts = {"detector": detector, "ema": None, "optimizer": optimizer, "position": position, "fingerprint": "f"}
    folder.mkdir()
    checkpoint.save(folder, save_weights=save_weights, **{**parts, **changes})
    return detector, optimizer


@pytest.mark.parametrize("config", OPTIMIZERS)
def test_everything_comes_back(tmp_path: Path, config: SGD | AdamW) -> None:
    detector, optimizer = write(tmp_path / "c", config)
    other = ToyDetector().to(memory_format=torch.channels_last)
    saved = checkpoint.load(tmp_path / "c", detector=other, ema=None, fingerprint=lambda position: "f")
    assert saved.position == Position(phase=1, epoch=2, batch=3, step=40)
    assert all(torch.equal(a, b) for a, b in zip(detector.parameters(), other.parameters(), strict=True))
    fresh = build_optimizer(other, Phase(optimizer=config))
    checkpoint.restore_optimizer(fresh, saved.optimizer, exact=True)
    was, now = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert was.keys() == now.keys()
    for index in was:
        for name, value in was[index].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(now[index][name], value)
                # elements in another order in memory are added in another order
                assert now[index][name].stride() == value.stride()
            else:
                assert now[index][name] == value


def test_the_average_and_its_count_come_back(tmp_path: Path) -> None:
    average = AveragedModel(ToyDetector())
    for _ in range(4):
        average.update_parameters(trained(SGD(), steps=1)[0])
    write(tmp_path / "c", ema=average)
    other = AveragedModel(ToyDetector())
    checkpoint.load(tmp_path / "c", detector=ToyDetector(), ema=other, fingerprint=lambda position: "f")
    assert int(other.n_averaged) == 4
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), other.parameters(), strict=True))


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c")
    with pytest.raises(InputError, match="another configuration"):
        checkpoint.load(tmp_path / "c", detector=ToyDetector(), ema=None, fingerprint=lambda position: "g")


def _drop_weight(folder: Path) -> None:
    file = folder / "weights" / "model.safetensors"
    tensors = load_file(file)
    del tensors["boxes.bias"]
    save_file(tensors, file)


def _other_format(folder: Path) -> None:
    document = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**document, "format": 99}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "training.json").unlink(), "no whole checkpoint"),
        (lambda folder: (folder / "training.json").write_text('{"format"'), "no whole checkpoint"),
        (lambda folder: (folder / "weights" / "model.safetensors").unlink(), "does not fit"),
        (_drop_weight, "boxes.bias"),
        (_other_format, "format 99"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Any, says: str) -> None:
    write(tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(InputError, match=says):
        checkpoint.load(tmp_path / "c", detector=ToyDetector(), ema=None, fingerprint=lambda position: "f")


def test_a_truncated_tensor_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c")
    file = tmp_path / "c" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InputError, match="no whole checkpoint"):
        checkpoint.load(tmp_path / "c", detector=ToyDetector(), ema=None, fingerprint=lambda position: "f")


def test_optimizer_state_of_other_parameters_is_refused_unless_shared_is_enough() -> None:
    detector, optimizer = trained(SGD())
    state = checkpoint.optimizer_state(optimizer)
    detector.pyramid.requires_grad_(False)
    fresh = build_optimizer(detector, Phase())
    with pytest.raises(InputError, match=r"pyramid.0.bias.* are not trained now"):
        checkpoint.restore_optimizer(fresh, state, exact=True)
    checkpoint.restore_optimizer(fresh, state, exact=False)
    restored = checkpoint.optimizer_state(fresh)
    assert set(restored) == {name for name in state if not name.startswith("pyramid")}
    assert torch.equal(restored["boxes.weight"]["momentum_buffer"], state["boxes.weight"]["momentum_buffer"])
