"""Faster R-CNN: proposals against torchvision's, what is sampled, losses against brute force, splitting a batch."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from tests.models.scenes import CLASSES, key, scene, targets, tiny_faster_rcnn
from tests.models.split import assert_split_changes_nothing
from xray_det.data.batch import Targets
from xray_det.errors import InputError
from xray_det.losses.focal import SigmoidFocal
from xray_det.models import FasterRCNN
from xray_det.models.faster_rcnn import FasterRCNNDetector
from xray_det.models.rpn import Proposals
from xray_det.models.sampling import priorities


@pytest.fixture(scope="module")
def detector() -> FasterRCNNDetector:
    torch.manual_seed(0)
    return tiny_faster_rcnn().build(CLASSES)


def test_proposals_equal_torchvision(detector: FasterRCNNDetector) -> None:
    images, _, _ = scene(2)
    sizes = torch.tensor([[96, 128]] * 2)  # all valid, as torchvision takes it
    said = detector(images, sizes).proposals
    assert said is not None
    said.logits = torch.randn(said.logits.shape, generator=torch.Generator().manual_seed(1))
    boxes, filled = detector.proposals.propose(said, sizes, training=True)
    model = SimpleNamespace(
        pre_nms_top_n=lambda: 100, post_nms_top_n=lambda: 60, min_size=1e-3, score_thresh=0.0, nms_thresh=0.7
    )
    model._get_top_n_idx = lambda objectness, per_level: RegionProposalNetwork._get_top_n_idx(
        model, objectness, per_level
    )
    decoded = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(
        said.deltas.detach().flatten(0, 1), said.references.repeat(2, 1, 1).flatten(0, 1)
    )
    theirs, _ = RegionProposalNetwork.filter_proposals(
        model, decoded.view(2, -1, 4), said.logits, [(96, 128)] * 2, list(said.levels)
    )
    for b in range(2):
        torch.testing.assert_close(boxes[b][filled[b]], theirs[b])


def test_sampled_rois(detector: FasterRCNNDetector) -> None:
    """Up to a quarter positive, true boxes among them, the rest background, the draw bound to the plan position."""
    images, sizes, truth = scene(4)
    said = detector(images, sizes, truth, key(4))
    assert said.references.shape == (4, 32, 4)
    for b in range(4):
        own = truth.boxes[truth.box_image == b]
        rois = said.references[b][said.valid[b]]
        best = box_iou(rois, own).amax(1) if len(own) else torch.zeros(len(rois))
        assert (best >= 0.5).sum() <= 8
        assert len(rois) == 32
        assert all((rois == box).all(1).any() for box in own)  # fewer than 8 boxes: each is drawn
    again = detector(images, sizes, truth, key(4))
    assert torch.equal(again.references, said.references)
    assert not torch.equal(detector(images, sizes, truth, key(4, epoch=1)).references, said.references)


def brute_proposal_loss(
    detector: FasterRCNNDetector, said: object, truth: Targets, images: int
) -> tuple[float, float, int]:
    """Objectness and box sums and their count with loops; regions by the share of the anchor they cover."""
    said = said.proposals
    anchors, order = said.references[0], priorities(key(images), said.references.shape[1], "proposals")
    objectness, box, count = 0.0, 0.0, 0
    for b in range(images):
        ordinary = ((truth.box_image == b) & ~truth.region).nonzero().flatten()
        regions = ((truth.box_image == b) & truth.region).nonzero().flatten()
        iou = box_iou(truth.boxes[ordinary], anchors)
        iou[:, ~said.valid[b]] = -1
        best, slot = iou.max(0) if len(ordinary) else (torch.zeros(len(anchors)), None)
        positive = best >= 0.7
        for row in iou:
            positive |= (row == row.max()) & (row.max() > 0)
        negative = (best < 0.3) & ~positive & said.valid[b]
        positive &= said.valid[b]
        for n in regions:
            u1, v1, u2, v2 = truth.boxes[n]
            wide = (anchors[:, 2].clamp(max=u2) - anchors[:, 0].clamp(min=u1)).clamp(min=0)
            high = (anchors[:, 3].clamp(max=v2) - anchors[:, 1].clamp(min=v1)).clamp(min=0)
            area = (anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])
            negative &= wide * high < 0.5 * area
        chosen = sorted(positive.nonzero().flatten().tolist(), key=lambda r: -order[b, r])[:16]
        others = sorted(negative.nonzero().flatten().tolist(), key=lambda r: -order[b, r])[: 32 - len(chosen)]
        for r in chosen:
            goal = detector.proposals.code.encode(anchors[r], truth.boxes[ordinary[slot[r]]])
            objectness += F.binary_cross_entropy_with_logits(said.logits[b, r, 0], torch.tensor(1.0)).item()
            box += F.smooth_l1_loss(said.deltas[b, r], goal, beta=1 / 9, reduction="sum").item()
        for r in others:
            objectness += F.binary_cross_entropy_with_logits(said.logits[b, r, 0], torch.tensor(0.0)).item()
        count += len(chosen) + len(others)
    return objectness, box, count


def test_losses_against_brute_force(detector: FasterRCNNDetector) -> None:
    images, sizes, truth = scene(4)
    truth = targets(
        [[], [[8.0, 8, 60, 60]], [[0, 0, 128, 40], [30, 40, 62, 76]], [[20, 10, 52, 40], [60, 30, 90, 70]]],
        regions=(1,),
    )
    said = detector(images, sizes, truth, key(4))
    losses = detector.losses(said, truth)
    objectness, box, count = brute_proposal_loss(detector, said, truth, 4)
    assert losses.sums["proposal_objectness"].item() == pytest.approx(objectness, rel=1e-5)
    assert losses.sums["proposal_box"].item() == pytest.approx(box, rel=1e-4)
    assert losses.counts["proposal_objectness"] == count

    classes, boxes = 0.0, 0.0
    for b in range(4):
        own = ((truth.box_image == b) & ~truth.region).nonzero().flatten()
        for r in said.valid[b].nonzero().flatten():
            roi, logits = said.references[b, r], said.logits[b, r].clone()
            iou = box_iou(roi[None], truth.boxes[own])[0] if len(own) else torch.zeros(1)
            if len(own) and iou.max() >= 0.5:
                n = own[iou.argmax()]
                classes += F.cross_entropy(logits, truth.classes[n].argmax()).item()
                goal = detector.code.encode(roi, truth.boxes[n])
                boxes += F.smooth_l1_loss(said.deltas[b, r], goal, beta=1 / 9, reduction="sum").item()
            else:
                if b == 2:  # on the region, its class (1) leaves the denominator
                    shared = (roi[3].clamp(max=40) - roi[1]).clamp(min=0) * (roi[2] - roi[0])
                    if shared >= 0.5 * (roi[2] - roi[0]) * (roi[3] - roi[1]):
                        logits[1] = -torch.inf
                classes += F.cross_entropy(logits, torch.tensor(CLASSES)).item()
    assert losses.sums["classification"].item() == pytest.approx(classes, rel=1e-5)
    assert losses.sums["box"].item() == pytest.approx(boxes, rel=1e-4)
    assert losses.counts["classification"] == losses.counts["box"] == said.valid.sum()


def test_a_batch_may_be_split_over_ranks(detector: FasterRCNNDetector) -> None:
    assert_split_changes_nothing(detector)


def test_empty_batch_other_loss_and_detections() -> None:
    torch.manual_seed(0)
    config = tiny_faster_rcnn()
    detector = FasterRCNN(
        backbone=config.backbone, channels=16, head_channels=16, rois=16, classification=SigmoidFocal(prior=0.1)
    ).build(CLASSES)
    images, sizes, _ = scene(2)
    empty = targets([[], []])
    losses = detector.losses(detector(images, sizes, empty, key(2)), empty)
    sum(losses.mean().values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    found = detector.decode(detector(images, sizes), sizes)
    assert found.scores.max() <= 1
    assert len(found.boxes) > 0
    width = sizes[found.image, 1]
    assert (found.boxes[:, 2] <= width).all()


def test_bfloat16_keeps_losses_in_float32(detector: FasterRCNNDetector) -> None:
    images, sizes, truth = scene(4)
    exact = detector.losses(detector(images, sizes, truth, key(4)), truth).mean()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = detector(images, sizes, truth, key(4))
    rough = detector.losses(said, truth).mean()
    assert said.logits.dtype == torch.bfloat16
    for name, value in rough.items():
        assert value.dtype == torch.float32
        # other rounding, other proposals: the box losses of the few positive RoIs differ most
        assert value.item() == pytest.approx(exact[name].item(), rel=0.5)


def test_bad_values(detector: FasterRCNNDetector) -> None:
    for bad in ({"foreground_iou": 0.0}, {"positive_share": 2.0}, {"rois": 0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            FasterRCNN(**bad)
    with pytest.raises(InputError, match="foreground_iou"):
        Proposals(foreground_iou=0.2)
    images, sizes, truth = scene(2)
    with pytest.raises(ValueError, match="key"):
        detector(images, sizes, truth)
    with pytest.raises(ValueError, match="without targets"):
        detector.losses(detector(images, sizes), truth)
