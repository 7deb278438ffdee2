"""Weights in and out: every key's fate, class rows by name, the saved folder, what is said when one is missing."""

import dataclasses
import json
import urllib.error
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from tests.losses.made_statistics import statistics
from tests.models.scenes import CLASSES, scene, tiny_faster_rcnn, tiny_retinanet
from xray_det.errors import InputError
from xray_det.labels.space import Class, LabelSpace
from xray_det.losses.concurrent import ConcurrentSoftmax
from xray_det.losses.softmax import Softmax
from xray_det.models import Model, RetinaNet
from xray_det.models.backbones import Backbone
from xray_det.models.classifier import Cosine
from xray_det.models.predictions import Detector
from xray_det.models.weights import COUNTED, load_detector, read_weights, save_detector, transfer, transfer_from


def space(*names: str) -> LabelSpace:
    return LabelSpace(name="made", classes=tuple(Class(name=n, source_id=str(i)) for i, n in enumerate(names)))


SPACE = space("cat", "dog", "owl", "fox", "elk")


def outputs(detector: Detector) -> torch.Tensor:
    images, sizes, _ = scene(2)
    with torch.no_grad():
        return detector.eval()(images, sizes).logits


@pytest.mark.parametrize("config", [tiny_retinanet(), tiny_faster_rcnn()], ids=lambda c: type(c).__name__)
def test_a_saved_detector_is_the_same_when_loaded(config: Model, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = config.build(CLASSES)
    save_detector(
        tmp_path / "w", detector, SPACE, experiment={"name": "x"}, preprocessor={"size": {"shortest_edge": 96}}
    )
    loaded, classes = load_detector(tmp_path / "w")
    assert torch.equal(outputs(loaded), outputs(detector))
    assert classes == SPACE
    assert loaded.config == config
    written = json.loads((tmp_path / "w/config.json").read_text())
    assert written["id2label"] == {"0": "cat", "1": "dog", "2": "owl", "3": "fox", "4": "elk"}
    assert written["experiment"] == {"name": "x"}
    assert json.loads((tmp_path / "w/preprocessor_config.json").read_text())["size"] == {"shortest_edge": 96}
    assert safetensors.torch.load_file(tmp_path / "w/model.safetensors").keys() == detector.state_dict().keys()


def test_a_saved_detector_does_not_need_the_file_it_started_from(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    config = RetinaNet(backbone=Backbone(name="resnet18", weights=str(file)), channels=16, head_layers=1)
    detector = config.build(CLASSES)
    save_detector(tmp_path / "w", detector, SPACE)
    expected = outputs(detector)
    file.unlink()
    assert torch.equal(outputs(load_detector(tmp_path / "w")[0]), expected)


def test_pretrained_file_and_the_fate_of_its_keys(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["layer4.1.conv2.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "r.pth")
    safetensors.torch.save_file(state, tmp_path / "r.safetensors")
    for name in ("r.pth", "r.safetensors"):
        backbone = Backbone(name="resnet18", weights=str(tmp_path / name))
        detector = RetinaNet(backbone=backbone, channels=16, head_layers=1).build(2)
        fate = detector.loaded
        assert fate is not None
        assert set(fate.missing) == {"layer4.1.conv2.weight", "layer1.0.conv1.weight"}
        assert {key for key, _ in fate.left} == {"fc.weight", "fc.bias", "layer1.0.conv1.weight"}
        assert torch.equal(detector.pyramid.body.conv1.weight, state["conv1.weight"])
        assert any("layer1.0.conv1.weight" in line and "shape [3]" in line for line in fate.lines())


COSINE = dataclasses.replace(tiny_faster_rcnn(), classifier=Cosine())


@pytest.mark.parametrize("config", [tiny_retinanet(), tiny_faster_rcnn(), COSINE], ids=["RetinaNet", "R-CNN", "Cosine"])
def test_class_rows_follow_names(config: Model, tmp_path: Path) -> None:
    """Other classes in another order: a shared class's logits are the old ones."""
    torch.manual_seed(0)
    old = config.build(CLASSES)
    save_detector(tmp_path, old, SPACE)
    torch.manual_seed(1)
    new = config.build(4)
    fate = transfer_from(new, tmp_path, space("yak", "owl", "cat", "ant"))
    before, after = outputs(old), outputs(new)
    torch.testing.assert_close(after[..., [1, 2]], before[..., [2, 0]])
    if after.shape[-1] > 4:
        torch.testing.assert_close(after[..., -1], before[..., -1])
    assert {key for key, _ in fate.partly} == set(new.class_rows())
    assert not fate.missing
    assert not fate.left


@pytest.mark.parametrize("config", [tiny_retinanet(), tiny_faster_rcnn()], ids=lambda c: type(c).__name__)
def test_what_a_loss_counted_is_saved_and_never_transferred(config: Model, tmp_path: Path) -> None:
    config = dataclasses.replace(config, classification=ConcurrentSoftmax())
    torch.manual_seed(0)
    old = config.build(CLASSES, statistics(CLASSES, seed=0))
    save_detector(tmp_path, old, SPACE)
    images, sizes, _ = scene(2)
    loaded, _ = load_detector(tmp_path)
    with torch.no_grad():
        found, again = (each.eval().decode(each(images, sizes), sizes) for each in (old, loaded))
    assert torch.equal(found.scores, again.scores)
    counted = {key for key in old.state_dict() if key.startswith(COUNTED)}
    assert counted == {"classification.log_kept", "classification.kept"}

    new = config.build(CLASSES, statistics(CLASSES, seed=1))
    start = {key: new.state_dict()[key].clone() for key in counted}
    fate = transfer_from(new, tmp_path, SPACE)
    assert all(torch.equal(new.state_dict()[key], value) for key, value in start.items())
    assert not torch.equal(start["classification.kept"], old.state_dict()["classification.kept"])
    assert {key for key, _ in fate.left} == counted
    assert not fate.missing


def test_transfer_to_another_loss_keeps_the_head_and_says_so() -> None:
    old = tiny_retinanet().build(3)
    new = dataclasses.replace(tiny_retinanet(), classification=Softmax()).build(3)
    start = new.class_head.last.weight.clone()
    fate = transfer(new, old.state_dict(), "old", old=space("a", "b", "c"), new=space("a", "b", "c"))
    assert torch.equal(new.class_head.last.weight, start)
    assert any("another loss" in why for _, why in fate.left)


def test_what_cannot_be_loaded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "none.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a safetensors file"):
        read_weights(tmp_path / "bad.safetensors")
    torch.save(Path("/"), tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="more than tensors"):
        read_weights(tmp_path / "pickled.pth")
    torch.save({"a": 1}, tmp_path / "number.pth")
    with pytest.raises(InputError, match="no table of tensors"):
        read_weights(tmp_path / "number.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="no key of a resnet18"):
        RetinaNet(backbone=Backbone(name="resnet18", weights=str(tmp_path / "other.pth"))).build(2)

    def refused(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    with pytest.raises(InputError, match=r"Put resnet18-f37072fd\.pth into .*hub") as caught:
        RetinaNet(backbone=Backbone(name="resnet18", weights="library")).build(2)
    assert "no route to host" in str(caught.value)


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    detector = tiny_retinanet().build(CLASSES)
    with pytest.raises(InputError, match="3 classes"):
        save_detector(tmp_path / "w", detector, space("a", "b", "c"))
    save_detector(tmp_path / "w", detector, SPACE)
    config = json.loads((tmp_path / "w/config.json").read_text())
    config["architecture"]["channels"] = 8
    (tmp_path / "w/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"does not fit config\.json"):
        load_detector(tmp_path / "w")
    config["model_type"] = "bert"
    (tmp_path / "w/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not a detector"):
        load_detector(tmp_path / "w")
