"""RetinaNet's losses against torchvision's on the same outputs; what it teaches; how a batch may be split."""

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import box_iou

from tests.models.scenes import CLASSES, scene, targets, tiny_retinanet
from tests.models.split import assert_split_changes_nothing
from xray_det.errors import InputError
from xray_det.losses import EqualizationV2, Seesaw, Softmax
from xray_det.models import RetinaNet
from xray_det.models.backbones import Backbone


def test_losses_equal_torchvision_on_the_same_outputs() -> None:
    """One image, since torchvision divides an image at a time; all of it valid, since it knows no padding."""
    torch.manual_seed(0)
    detector = tiny_retinanet().build(CLASSES)
    images, _, _ = scene(1)
    truth = targets([[[10.0, 10, 50, 40], [60, 20, 90, 90], [30, 50, 42, 70]]])
    said = detector(images, torch.tensor([[96, 128]]))
    ours = detector.losses(said, truth).mean()

    anchors = said.references[0]
    matched = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(truth.boxes, anchors))
    theirs = [{"boxes": truth.boxes, "labels": torch.arange(3)}]
    heads = {"cls_logits": said.logits, "bbox_regression": said.deltas}
    classes = RetinaNetClassificationHead(8, 9, CLASSES).compute_loss(theirs, heads, [matched])
    boxes = RetinaNetRegressionHead(8, 9).compute_loss(theirs, heads, [anchors], [matched])
    assert ours["classification"].item() == pytest.approx(classes.item(), rel=1e-5)
    assert ours["box"].item() == pytest.approx(boxes.item(), rel=1e-5)


def test_every_score_starts_at_the_prior() -> None:
    torch.manual_seed(0)
    detector = tiny_retinanet().build(CLASSES)
    images, sizes, _ = scene(2)
    scores = detector(images, sizes).logits.sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.2)


def test_unknown_classes_get_no_gradient() -> None:
    torch.manual_seed(0)
    detector = tiny_retinanet().build(CLASSES)
    images, sizes, truth = scene(3)
    truth.absence_known[:, 3:] = False
    truth.classes_known[:, 3:] = truth.classes[:, 3:] > 0
    said = detector(images, sizes)
    (slope,) = torch.autograd.grad(detector.losses(said, truth).sums["classification"], said.logits)
    background = slope.clone()
    background[slope[..., 3:].lt(0).any(-1)] = 0  # rows that hold an object of these classes
    assert (background[..., 3:] == 0).all()
    assert (background[..., :3] != 0).any()


def test_padding_neither_teaches_nor_changes_what_is_seen() -> None:
    torch.manual_seed(0)
    detector = tiny_retinanet().build(CLASSES)
    images, sizes, truth = scene(3)
    said = detector(images, sizes)
    (slope,) = torch.autograd.grad(detector.losses(said, truth).sums["classification"], said.logits)
    assert (slope[~said.valid] == 0).all()
    assert not said.valid.all()
    noisy = images.clone()
    for b, (height, width) in enumerate(sizes.tolist()):
        noisy[b, :, height:] = 200
        noisy[b, :, :, width:] = 100
    assert torch.equal(detector(noisy, sizes).logits, said.logits)


def test_a_batch_may_be_split_over_ranks() -> None:
    torch.manual_seed(0)
    assert_split_changes_nothing(tiny_retinanet().build(CLASSES))


def test_any_loss_fits_and_an_empty_batch_is_ordinary() -> None:
    torch.manual_seed(0)
    detector = RetinaNet(
        backbone=Backbone(name="mobilenet_v3_small"),
        channels=16,
        head_layers=1,
        classification=Softmax(),
        head_norm=True,
    ).build(CLASSES)
    images, sizes, _ = scene(2)
    said = detector(images, sizes)
    assert said.logits.shape[-1] == CLASSES + 1
    losses = detector.losses(said, targets([[], []]))
    sum(losses.mean().values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    assert losses.counts["box"] == 0
    assert detector.decode(said, sizes).labels.numel() >= 0


def test_bad_values() -> None:
    for bad in ({"foreground_iou": 0.3}, {"channels": 0}):
        with pytest.raises(InputError):
            RetinaNet(**bad)
    with pytest.raises(InputError, match="levels"):
        RetinaNet(backbone=Backbone(name="resnet18"), levels=(3, 6)).build(2)
    with pytest.raises(InputError, match="num_classes"):
        tiny_retinanet().build(0)


@pytest.mark.parametrize(("channels", "layers"), [(256, 4), (64, 4), (256, 0)])
def test_heads_start_as_the_paper_s_at_any_width(channels: int, layers: int) -> None:
    """Std 0.01 in every layer at 256 channels; a narrower head passes on as much signal, so that no logit leaves the
    prior at the start."""
    torch.manual_seed(0)
    config = RetinaNet(backbone=Backbone(name="resnet18"), channels=channels, head_layers=layers)
    head = config.build(80).class_head
    hidden = [module.weight for module in head.layers if isinstance(module, torch.nn.Conv2d)]
    signal = [weight.std().item() * (9 * channels) ** 0.5 for weight in hidden]
    assert signal == pytest.approx([0.48] * layers, rel=0.02)
    assert head.last.weight.std().item() == pytest.approx(0.01, rel=0.02)
    with torch.no_grad():
        logits = head(torch.randn(1, channels, 16, 16))
    assert (logits + 4.595).abs().max() < (0.1 if layers else 3)


def test_softmax_starts_with_the_background_of_dense_anchors() -> None:
    torch.manual_seed(0)
    for loss in (Softmax(), Seesaw(), EqualizationV2()):
        detector = replace(tiny_retinanet(), classification=loss).build(CLASSES)
        images, sizes, _ = scene(2)
        scores = detector.classification.scores(detector(images, sizes).logits)
        assert scores.sum(-1).mean().item() < 0.012
