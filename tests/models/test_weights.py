"""Weights in and out: every key's fate, class rows by name, the saved folder, what is said when one is missing."""

import dataclasses
import json
import urllib.error
from pathlib import Path
from typing import Any

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
from xray_det.models.anchors import Anchors
from xray_det.models.backbones import Backbone, Pyramid
from xray_det.models.keys import Loaded
from xray_det.models.predictions import Detector
from xray_det.models.weights import (
    COUNTED,
    load_backbone,
    load_detector,
    read_config,
    read_weights,
    save_detector,
    starting_from,
    transfer,
    transfer_from,
)


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
    # what is read is what was built, by name
    assert loaded.config == dataclasses.replace(config, backbone=Backbone(name="resnet18", norm="group"))
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
        backbone = Backbone(name="resnet18", weights=str(tmp_path / name), partial=True)
        detector = RetinaNet(backbone=backbone, channels=16, head_layers=1).build(2)
        fate = detector.loaded
        assert fate is not None
        assert set(fate.missing) == {"layer4.1.conv2.weight", "layer1.0.conv1.weight"}
        assert {key for key, _ in fate.left} == {"fc.weight", "fc.bias", "layer1.0.conv1.weight"}
        assert torch.equal(detector.pyramid.body.conv1.weight, state["conv1.weight"])
        assert any("layer1.0.conv1.weight" in line and "shape [3]" in line for line in fate.lines())


def body(state: dict[str, torch.Tensor], folder: Path, **backbone: Any) -> tuple[torch.nn.Module, Loaded]:
    """A backbone that was filled from a file of these tensors, and what became of them."""
    torch.save(state, folder / "w.pth")
    config = Backbone(weights=str(folder / "w.pth"), **backbone)
    made = Pyramid(config, levels=(3, 5), channels=8, extra="conv").body
    loaded = load_backbone(made, config)
    assert loaded is not None
    return made, loaded


def classifier(name: str) -> dict[str, torch.Tensor]:
    return torchvision.models.get_model(name, weights=None).state_dict()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("resnet50", "resnet18"),
        ("resnet18", "resnet34"),
        ("resnet34", "resnet18"),
        ("mobilenet_v3_large", "mobilenet_v3_small"),
    ],
)
def test_less_or_more_than_a_backbone_is_refused_unless_asked_for(file: str, name: str, tmp_path: Path) -> None:
    """A shallower network's tensors are all found in a deeper one's file: that is not the network either."""
    state = classifier(file)
    with pytest.raises(InputError) as caught:
        body(state, tmp_path, name=name)
    assert caught.value.where == str(tmp_path / "w.pth")
    assert f"does not fit a {name} with frozen norms" in caught.value.problem
    assert "partial=true" in caught.value.remedy
    _, fate = body(state, tmp_path, name=name, partial=True)
    assert fate.taken
    own = Pyramid(Backbone(name=name, norm="frozen"), levels=(3, 5), channels=8, extra="conv").body.state_dict()
    fits = {key for key, value in own.items() if key in state and state[key].shape == value.shape}
    assert set(fate.taken) == fits
    assert set(fate.missing) == own.keys() - fits


def test_what_is_missing_and_does_not_fit_is_named(tmp_path: Path) -> None:
    state = classifier("resnet18")
    for key in [key for key in state if key.startswith("layer4.1.bn")]:
        del state[key]
    state["layer1.0.conv1.weight"] = torch.zeros(3)
    state["conv1.weight"] = state["conv1.weight"].to(torch.int8)
    with pytest.raises(InputError) as caught:
        body(state, tmp_path, name="resnet18")
    assert caught.value.problem == (
        "does not fit a resnet18 with frozen norms: 90 keys fit, 10 keys are missing (conv1.weight; "
        "layer1.0.conv1.weight; layer4.1.bn1.weight; ...), 2 do not fit (conv1.weight: holds torch.int8, the model "
        "torch.float32; layer1.0.conv1.weight: shape [3], the model has [64, 64, 3, 3])"
    )


def test_every_norm_with_every_kind_of_file(tmp_path: Path) -> None:
    """Statistics go into frozen and sync norms, and a file without them into group norms alone."""
    name = "mobilenet_v3_small"
    counted = classifier(name)
    plain = {key: value for key, value in counted.items() if "running" not in key and "tracked" not in key}
    for norm, own, other, remedy in (
        ("frozen", counted, plain, "norm to group"),
        ("sync", counted, plain, "norm to group"),
        ("group", plain, counted, "norm to frozen or sync"),
    ):
        made, fate = body(own, tmp_path, name=name, norm=norm)
        assert not fate.missing
        assert all(torch.equal(made.state_dict()[key], own[key]) for key in fate.taken)
        with pytest.raises(InputError, match=remedy):
            body(other, tmp_path, name=name, norm=norm)
        _, fate = body(other, tmp_path, name=name, norm=norm, partial=True)
        assert set(fate.taken) == {key for key in plain if not key.startswith("classifier")}


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_a_saved_detectors_file_fills_a_backbone(norm: str, tmp_path: Path) -> None:
    old = with_backbone(tiny_faster_rcnn(), norm=norm).build(CLASSES)
    save_detector(tmp_path, old, SPACE)
    file = str(tmp_path / "model.safetensors")
    new = with_backbone(tiny_retinanet(), norm=norm, weights=file).build(2)
    own, start = new.state_dict(), old.state_dict()
    assert all(torch.equal(own[key], start[key]) for key in own if key.startswith("pyramid.body."))
    assert new.loaded is not None
    assert all(not key.startswith("pyramid.body.") for key, _ in new.loaded.left)


def test_the_published_weights_are_taken_whole(shared_data: Path, tmp_path: Path) -> None:
    """Their accuracy on ImageNet needs ImageNet; here they must be every tensor, and their features torchvision's."""
    file = shared_data / "weights" / "mobilenet_v2-b0353104.pth"
    config = dataclasses.replace(tiny_retinanet(), backbone=Backbone(name="mobilenet_v2", weights=str(file)))
    torch.manual_seed(0)
    detector = config.build(CLASSES)
    state = torch.load(file, weights_only=True)
    fate = detector.loaded
    assert fate is not None
    assert not fate.missing
    assert {key for key, _ in fate.left} == {"classifier.1.weight", "classifier.1.bias"}
    assert set(fate.taken) == {key for key in state if "tracked" not in key and "classifier" not in key}
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    theirs.load_state_dict(state)
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(detector.pyramid.body.eval()(x)[-1], theirs.features(x), rtol=1e-3, atol=1e-3)
    save_detector(tmp_path, detector, SPACE)
    assert read_config(tmp_path)["architecture"]["backbone"] == {
        "name": "mobilenet_v2", "norm": "frozen", "weights": "none", "partial": False,
    }  # fmt: skip
    assert torch.equal(outputs(load_detector(tmp_path)[0]), outputs(detector))


@pytest.mark.parametrize("config", [tiny_retinanet(), tiny_faster_rcnn()], ids=lambda c: type(c).__name__)
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


def started(old: Model, new: Model, folder: Path, *, partial: bool = False) -> tuple[Detector, Detector, Loaded]:
    """A detector, one that starts from it as a training does, and what became of the keys."""
    torch.manual_seed(0)
    theirs = old.build(CLASSES)
    with torch.no_grad():  # norms as after a training
        for key, value in theirs.state_dict().items():
            if key.startswith("pyramid.body") and value.dim() == 1:
                value.uniform_(0.5, 1.5)
    save_detector(folder, theirs, SPACE)
    torch.manual_seed(1)
    own = starting_from(new, folder, partial=partial).build(CLASSES)
    return theirs, own, transfer_from(own, folder, SPACE, partial=partial)


def with_backbone(model: Model, **changes: Any) -> Model:
    return dataclasses.replace(model, backbone=dataclasses.replace(model.backbone, **changes))


@pytest.mark.parametrize("config", [tiny_retinanet(), tiny_faster_rcnn()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(
    ("norm", "weights"), [("group", "none"), ("frozen", "none"), ("sync", "none"), ("group", "gone.pth")]
)
def test_a_start_takes_the_norm_of_the_detector_and_is_that_detector(
    config: Model, norm: str, weights: str, tmp_path: Path
) -> None:
    """Nobody names a norm, and the file that the backbone would begin with is not needed."""
    old, new, fate = started(with_backbone(config, norm=norm), with_backbone(config, weights=weights), tmp_path)
    assert new.config.backbone == Backbone(name="resnet18", norm=norm)
    assert torch.equal(outputs(new), outputs(old))
    assert not fate.missing
    assert not fate.left
    save_detector(tmp_path / "new", new, SPACE)
    assert read_config(tmp_path / "new")["architecture"]["backbone"]["norm"] == norm


@pytest.mark.parametrize(("theirs", "own"), [("frozen", "sync"), ("sync", "frozen")])
def test_batch_statistics_go_from_one_batch_norm_to_the_other(theirs: str, own: str, tmp_path: Path) -> None:
    old, new, fate = started(
        with_backbone(tiny_retinanet(), norm=theirs), with_backbone(tiny_retinanet(), norm=own), tmp_path
    )
    assert new.config.backbone.norm == own
    torch.testing.assert_close(outputs(new), outputs(old), rtol=1e-3, atol=1e-4)
    assert not fate.missing


@pytest.mark.parametrize(("theirs", "own"), [("frozen", "group"), ("sync", "group"), ("group", "frozen")])
def test_another_norm_by_name_is_refused_unless_asked_for(theirs: str, own: str, tmp_path: Path) -> None:
    old, new = (with_backbone(tiny_retinanet(), norm=norm) for norm in (theirs, own))
    with pytest.raises(InputError, match=rf"is {own}, the detector of .* has {theirs}") as caught:
        started(old, new, tmp_path)
    assert caught.value.where == "model.backbone.norm"
    _, made, fate = started(old, new, tmp_path, partial=True)
    assert made.config.backbone.norm == own
    odd = {key for key, _ in fate.left} | {*fate.missing}
    assert odd
    assert all(key.rsplit(".")[-1].startswith("running_") for key in odd)


@pytest.mark.parametrize(
    ("new", "odd"),
    [
        (tiny_faster_rcnn(), "proposals.conv.weight"),
        (with_backbone(tiny_retinanet(), name="resnet34"), "pyramid.body.layer1.2.conv1.weight"),
        (dataclasses.replace(tiny_retinanet(), channels=16), "pyramid.fpn.layer_blocks.0.0.bias"),
        (dataclasses.replace(tiny_retinanet(), levels=(2, 5)), "pyramid.fpn.inner_blocks.3.0.weight"),
        (dataclasses.replace(tiny_retinanet(), head_layers=2), "class_head.layers.2.weight"),
        (dataclasses.replace(tiny_retinanet(), head_layers=0), "class_head.layers.0.weight"),
        (dataclasses.replace(tiny_retinanet(), anchors=Anchors(scales=(4.0,))), "box_head.last.weight"),
        (dataclasses.replace(tiny_retinanet(), anchors=Anchors(scales=(4.0,))), "class_head.last.weight"),
    ],
)
def test_a_start_from_another_architecture_is_refused_unless_asked_for(new: Model, odd: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        started(tiny_retinanet(), new, tmp_path)
    assert caught.value.where == str(tmp_path / "model.safetensors")
    assert f"does not fit this {type(new).__name__}" in caught.value.problem
    assert "start_partial=true" in caught.value.remedy
    _, made, fate = started(tiny_retinanet(), new, tmp_path, partial=True)
    assert odd in {key for key, _ in fate.left} | {*fate.missing}
    state = read_weights(tmp_path / "model.safetensors")
    assert all(torch.equal(made.state_dict()[key], state[key]) for key in fate.taken)


def test_a_partial_start_leaves_the_rest_to_the_backbones_weights(tmp_path: Path) -> None:
    """A neck and heads of one detector on the published backbone of another kind."""
    state = classifier("resnet34")
    torch.save(state, tmp_path / "w.pth")
    new = with_backbone(tiny_retinanet(), name="resnet34", weights=str(tmp_path / "w.pth"))
    _, made, _ = started(with_backbone(tiny_retinanet(), norm="frozen"), new, tmp_path, partial=True)
    own = made.state_dict()
    assert torch.equal(own["pyramid.body.layer1.2.conv1.weight"], state["layer1.2.conv1.weight"])
    start = read_weights(tmp_path / "model.safetensors")
    assert torch.equal(own["class_head.layers.0.weight"], start["class_head.layers.0.weight"])


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
