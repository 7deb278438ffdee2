"""Detections against torchvision's own post-processing."""

from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import BoxCoder

from xray_det.errors import InputError
from xray_det.losses.box import BoxCode
from xray_det.losses.focal import SigmoidFocal
from xray_det.losses.softmax import Softmax
from xray_det.models.anchors import Anchors
from xray_det.models.decoding import Decoding, clip, detect
from xray_det.models.predictions import Predictions

GRIDS, STRIDES = [(12, 16), (6, 8)], (8, 16)
ANCHORS = Anchors(scales=(3.0,)).boxes(GRIDS, STRIDES, torch.device("cpu"))
LEVELS = (12 * 16 * 3, 6 * 8 * 3)
SIZES = torch.tensor([[96, 128], [80, 100]])


def predictions(outputs: int, *, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    return Predictions(
        logits=torch.randn(2, len(ANCHORS), outputs, generator=generator) * 2 - 2,
        deltas=torch.randn(2, len(ANCHORS), 4, generator=generator) * 0.5,
        references=ANCHORS[None],
        valid=torch.ones(2, len(ANCHORS), dtype=torch.bool),
        levels=LEVELS,
    )


@pytest.mark.parametrize("candidates", [50, 1000])
def test_equals_torchvisions_retinanet(candidates: int) -> None:
    said = predictions(4)
    config = Decoding(candidates=candidates, max_detections=40)
    found = detect(said, SIZES, config, SigmoidFocal(), BoxCode())
    model = SimpleNamespace(
        score_thresh=0.05,
        topk_candidates=candidates,
        nms_thresh=0.5,
        detections_per_img=5000,
        box_coder=BoxCoder((1.0, 1.0, 1.0, 1.0)),
    )
    heads = {"cls_logits": list(said.logits.split(LEVELS, 1)), "bbox_regression": list(said.deltas.split(LEVELS, 1))}
    theirs = TorchvisionRetinaNet.postprocess_detections(
        model, heads, [list(ANCHORS.split(LEVELS))] * 2, [tuple(size) for size in SIZES.tolist()]
    )
    for b, expected in enumerate(theirs):
        own = found.image == b
        area = (expected["boxes"][:, 2:] > expected["boxes"][:, :2]).all(1)  # torchvision keeps boxes outside the image
        expected = {name: value[area][:40] for name, value in expected.items()}
        torch.testing.assert_close(found.scores[own], expected["scores"])
        torch.testing.assert_close(found.boxes[own], expected["boxes"])
        assert torch.equal(found.labels[own], expected["labels"])


def test_rows_that_are_not_valid_detect_nothing_and_background_is_no_class() -> None:
    said = predictions(5)
    said.valid[0] = False
    found = detect(said, SIZES, Decoding(), Softmax(), BoxCode())
    assert found.image.unique().tolist() == [1]
    assert found.labels.max() <= 3


def test_a_confident_background_leaves_nothing() -> None:
    said = predictions(5)
    said.logits[..., 4] = 50.0
    found = detect(said, SIZES, Decoding(), Softmax(), BoxCode())
    assert found.boxes.shape == (0, 4)


def test_clip_cuts_each_image_at_its_own_size() -> None:
    boxes = torch.tensor([-5.0, 10, 500, 500]).expand(2, 1, 4)
    assert clip(boxes, SIZES).flatten(0, 1).tolist() == [[0, 10, 128, 96], [0, 10, 100, 80]]


def test_bad_values() -> None:
    for name, value in (("score_threshold", 1.5), ("nms_iou", -0.1), ("candidates", 0), ("max_detections", 0)):
        with pytest.raises(InputError, match=name):
            Decoding(**{name: value})
