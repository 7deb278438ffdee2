"""A weights folder that nobody trained: what is wrong is said by file and key, without a traceback, and soon."""

import json
import os
import pickle
import resource
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.models.scenes import tiny_retinanet
from xray_det.errors import InputError
from xray_det.labels.space import Class, LabelSpace
from xray_det.models.backbones import Backbone
from xray_det.models.weights import (
    load_detector,
    read_architecture,
    read_config,
    read_space,
    read_weights,
    save_detector,
)

NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    space = LabelSpace(name="s", classes=tuple(Class(name=name, source_id=name) for name in NAMES))
    save_detector(folder, tiny_retinanet().build(len(NAMES)), space)
    return folder


def with_config(saved: Path, folder: Path, text: str | bytes) -> Path:
    for file in saved.iterdir():
        os.link(file, folder / file.name)
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def changed(saved: Path, path: str, value: Any) -> str:
    """config.json with the value at a path exchanged, or gone where it is ``...``."""
    config = json.loads((saved / "config.json").read_text())
    *before, last = path.split(".")
    at = config
    for key in before:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return json.dumps(config)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("label_space", ..., "label_space: is missing or no table"),
        ("label_space", [], "label_space: is missing or no table"),
        ("label_space.name", 3, "label_space: name: 3 is no text"),
        ("label_space.classes", ..., "label_space: classes: is no list"),
        ("label_space.classes", {}, "label_space: classes: is no list"),
        ("label_space.classes", [], "num_classes: 0 is below 1"),
        ("label_space.classes.1", 7, "label_space: classes.1: is no table of name"),
        ("label_space.classes.1.name", ..., "label_space: classes.1: is no table of name"),
        ("label_space.classes.1.colour", "red", "label_space: classes.1: is no table of name"),
        ("label_space.classes.1.name", None, "label_space: classes.1.name: is no text"),
        ("label_space.classes.0.source_id", 1, "label_space: classes.0.source_id: is no text"),
        ("label_space.classes.0.frequency", 1, "label_space: classes.0.frequency: is no text"),
        ("label_space.classes.0.aliases", "cats", "label_space: classes.0.aliases: is no list of texts"),
        ("label_space.classes.0.aliases", [1], "label_space: classes.0.aliases: is no list of texts"),
        ("label_space.classes.1.name", "cat", "label_space: s: categories: two classes share the name 'cat'"),
        ("label_space.classes.1.name", "\ud83d", r"\\ud83d' in position \d+: surrogates not allowed"),
        ("label_space.name", "\udc00", r"\\udc00' in position \d+: surrogates not allowed"),
        ("label_space.classes.1.aliases", ["\udfff"], r"\\udfff' in position \d+: surrogates not allowed"),
        ("architecture", ..., "architecture: is missing or no table"),
        ("architecture", "RetinaNet", "architecture: is missing or no table"),
        ("architecture.type", "YOLO", "architecture: type: 'YOLO' is not allowed"),
        ("architecture.type", ["RetinaNet"], r"architecture: type: \['RetinaNet'\] is not allowed"),
        ("architecture.type", ..., "architecture: type: has no type"),
        ("architecture.wings", 2, "architecture: wings: RetinaNet has no field 'wings'"),
        ("architecture.backbone", None, "architecture: backbone: None is not allowed"),
        ("architecture.backbone.name", "resnet5", "architecture: backbone.name: 'resnet5' is not allowed"),
        ("architecture.channels", "64", "architecture: channels: '64' is not allowed"),
        ("architecture.channels", -1, "architecture: channels, head_layers: -1, 1"),
        ("architecture.channels", 10**9, r"architecture: asks for a network that cannot be"),
        ("architecture.channels", 10**6, r"model\.safetensors: does not fit config\.json beside it"),
        ("architecture.channels", 10**30, r"architecture: asks for a network that cannot be"),
        ("architecture.head_layers", 10**9, "architecture: channels, head_layers: 32, 1000000000"),
        ("architecture.levels", [3, 10**9], "architecture: levels: "),
        ("architecture.levels", [3], "architecture: levels: "),
        ("architecture.foreground_iou", 10**400, "architecture: foreground_iou: "),
        ("architecture.foreground_iou", float("nan"), "architecture: foreground_iou, background_iou: "),
        ("architecture.anchors.scales", [float("inf")], "architecture: anchors.scales: "),
        ("architecture.anchors.scales", [1.0] * 1_000, r"model\.safetensors: does not fit config\.json beside it"),
        ("experiment", [1], "experiment: is missing or no table"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_file_and_key(
    path: str, value: Any, says: str, saved: Path, tmp_path: Path
) -> None:
    folder = with_config(saved, tmp_path, changed(saved, path, value))
    with pytest.raises(InputError, match=says) as caught:
        load_detector(folder)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1500
    str(caught.value).encode()


def test_a_network_is_compared_with_its_file_before_it_takes_memory(saved: Path, tmp_path: Path) -> None:
    folder = with_config(saved, tmp_path, changed(saved, "architecture.channels", 4096))  # 0.6 GB a convolution
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"does not fit config\.json beside it"):
        load_detector(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_as_many_classes_as_a_file_can_name(saved: Path, tmp_path: Path) -> None:
    classes = [{"name": str(n), "source_id": str(n), "aliases": []} for n in range(20_000)]
    folder = with_config(saved, tmp_path, changed(saved, "label_space.classes", classes))
    with pytest.raises(InputError, match=r"does not fit config\.json beside it.*class_head\.last\.weight"):
        load_detector(folder)


DEEP = 200_000


@pytest.mark.parametrize(
    "text",
    [
        "[" * DEEP + "]" * DEEP,
        '{"a":' * DEEP + "1" + "}" * DEEP,
        '{"model_type": "xray_det", "experiment": ' + "[" * DEEP + "]" * DEEP + "}",
        b"\xff\xfe",
        "",
        "null",
        "[]",
        '{"model_type": "bert"}',
        '{"model_type": "xray_det"',
        "1" * 5000,
    ],
    ids=range(10),
)
@pytest.mark.parametrize("read", [read_config, read_space, read_architecture, load_detector])
def test_what_is_no_config_is_refused_by_its_name(
    read: Callable[[Path], Any], text: str | bytes, saved: Path, tmp_path: Path
) -> None:
    folder = with_config(saved, tmp_path, text)
    with pytest.raises(InputError) as caught:
        read(folder)
    assert caught.value.where == str(tmp_path / "config.json")


def test_values_nested_deeper_than_python_can_spell(saved: Path, tmp_path: Path) -> None:
    value: Any = 1.0
    for _ in range(900):
        value = [value]
    folder = with_config(saved, tmp_path, changed(saved, "architecture.anchors.scales", value))
    with pytest.raises(InputError, match=r"config\.json"):
        load_detector(folder)


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8 + 1) + b" " * 100,
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 2 * DEEP) + b"[" * DEEP + b"]" * DEEP,
        header(a={"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}) + b"\x00" * 4,
        header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}) + b"\x00" * 4,
        header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + b"\x00" * 400,
        header(a={"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}) + b"\x00" * 4,
        header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"\x00" * 4,
        header(a={"shape": [1]}),
        header(a=1),
    ],
    ids=range(13),
)
def test_a_damaged_safetensors_file_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file") as caught:
        read_weights(file)
    assert caught.value.where == str(file)


class Code:
    """What a pickle can hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["HOSTILE"],)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE", str(tmp_path / "ran"))
    torch.save({"conv1.weight": torch.zeros(1), "x": Code()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code()))
    torch.save({"x": Code()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "plain.pth", "old.pth"):
        with pytest.raises(InputError, match="holds more than tensors or is damaged") as caught:
            read_weights(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "state",
    [
        {0: torch.zeros(1)},
        {"a": torch.zeros(3).to_sparse()},
        {"a": torch.zeros(3, device="meta")},
        {"a": [torch.zeros(3)]},
        [torch.zeros(3)],
        torch.zeros(3),
    ],
    ids=["numbered", "sparse", "empty", "lists", "list", "tensor"],
)
def test_what_is_no_table_of_plain_tensors_is_refused(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match="is no table of tensors by name"):
        read_weights(tmp_path / "w.pth")


def test_a_pickle_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["model"] = {"state_dict": state}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match="is no table of tensors by name"):
        read_weights(tmp_path / "w.pth")


def test_a_tensor_that_claims_more_than_it_holds_costs_nothing(saved: Path, tmp_path: Path) -> None:
    """A billion equal rows are one in a file."""
    torch.save({"conv1.weight": torch.zeros(1).expand(10**12)}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")["conv1.weight"].shape == (10**12,)
    config = replace(tiny_retinanet(), backbone=Backbone(name="resnet18", weights=str(tmp_path / "w.pth")))
    with pytest.raises(InputError, match="holds no key of a resnet18"):
        config.build(2)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "gone", "unreadable"])
def test_what_is_no_file_is_refused_by_its_name_without_waiting(
    kind: str, name: str, saved: Path, tmp_path: Path
) -> None:
    for file in saved.iterdir():
        os.link(file, tmp_path / file.name)
    file = tmp_path / name
    file.unlink()
    says = {"pipe": "is a named pipe", "device": "is a device", "folder": "is a folder", "gone": "no such file"}.get(
        kind
    )
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "unreadable":
        file.touch(0o000)
    with pytest.raises(InputError, match=says) as caught:
        load_detector(tmp_path)
    assert caught.value.where == str(file)


def test_a_backbones_file_is_no_folder_and_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "w.pth").mkdir()
    os.mkfifo(tmp_path / "p.pth")
    for name in ("w.pth", "p.pth"):
        with pytest.raises(InputError, match="not a regular file"):
            read_weights(tmp_path / name)


def test_half_precision_is_read_as_it_was_built(saved: Path, tmp_path: Path) -> None:
    with_config(saved, tmp_path, (saved / "config.json").read_bytes())
    state = safetensors.torch.load_file(saved / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    safetensors.torch.save_file({key: value.half() for key, value in state.items()}, tmp_path / "model.safetensors")
    detector, _ = load_detector(tmp_path)
    assert {value.dtype for value in detector.state_dict().values()} == {torch.float32}
    state["class_head.last.bias"] = state["class_head.last.bias"].to(torch.int8)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"class_head\.last\.bias: holds torch\.int8"):
        load_detector(tmp_path)
