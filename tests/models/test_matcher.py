"""Matching and assignment against loops over images, rows and boxes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from tests.models.scenes import CLASSES, targets
from xray_det.data.batch import Targets
from xray_det.models.anchors import Anchors
from xray_det.models.matcher import assign, match

ANCHORS = Anchors(scales=(2.0, 4.0)).boxes([(6, 8), (3, 4)], (8, 16), torch.device("cpu"))


def random_truth(seed: int, images: int = 3, regions: bool = True) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    boxes, marked = [], []
    for _ in range(images):
        count = int(torch.randint(0, 5, (1,), generator=generator))
        corner = torch.rand(count, 2, generator=generator) * 40
        boxes.append(torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 40], 1).tolist())
    for n in range(sum(map(len, boxes))):
        if regions and torch.rand(1, generator=generator) < 0.3:
            marked.append(n)
    return targets(boxes, regions=tuple(marked))


@given(st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_match_equals_torchvision_image_by_image(seed: int) -> None:
    truth = random_truth(seed)
    valid = torch.ones(3, len(ANCHORS), dtype=torch.bool)
    found = match(ANCHORS[None], valid, truth, foreground_iou=0.5, background_iou=0.4, low_quality=True)
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for b in range(3):
        own = ((truth.box_image == b) & ~truth.region).nonzero().flatten()
        # torchvision matches every anchor to a box that overlaps with none
        iou = box_iou(truth.boxes[own], ANCHORS)
        own, iou = own[iou.amax(1) > 0], iou[iou.amax(1) > 0]
        result = theirs(iou) if len(own) else torch.full((len(ANCHORS),), Matcher.BELOW_LOW_THRESHOLD)
        assert torch.equal(found.positive[b], result >= 0)
        assert torch.equal(found.background[b], result == Matcher.BELOW_LOW_THRESHOLD)
        at = found.positive[b]
        assert torch.equal(found.box[b][at], own[result[at]] if len(own) else found.box[b][at])


@given(st.integers(0, 100_000))
@settings(max_examples=15, deadline=None)
def test_regions_against_a_loop(seed: int) -> None:
    truth = random_truth(seed)
    valid = torch.rand(3, len(ANCHORS), generator=torch.Generator().manual_seed(seed)) < 0.9
    found = match(ANCHORS[None], valid, truth, foreground_iou=0.5, background_iou=0.4)
    goal = assign(found, ANCHORS[None], truth)
    listed = {
        (b, r): n for n, (b, r) in enumerate(zip(goal.classes.image.tolist(), goal.classes.row.tolist(), strict=True))
    }
    assert len(listed) == len(goal.classes.image)
    for b in range(3):
        own = [n for n in range(len(truth.boxes)) if truth.box_image[n] == b]
        for r, (x1, y1, x2, y2) in enumerate(ANCHORS.tolist()):
            known, on_region = truth.absence_known[b].clone(), False
            for n in own:
                u1, v1, u2, v2 = truth.boxes[n].tolist()
                shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
                if truth.region[n] and shared >= 0.5 * (x2 - x1) * (y2 - y1):
                    on_region, known = True, known & truth.classes_known[n]
            if found.background[b, r] and on_region:
                assert torch.equal(goal.classes.known[listed[b, r]], known)
                assert not goal.classes.values[listed[b, r]].any()
            assert goal.classes.background[b, r] == (found.background[b, r] and not on_region)
            assert ((b, r) in listed) == (found.positive[b, r] or (found.background[b, r] and on_region))
            assert valid[b, r] or not (found.positive[b, r] or found.background[b, r])


@given(st.integers(0, 100_000))
@settings(max_examples=15, deadline=None)
def test_parts_of_subjects_against_a_loop(seed: int) -> None:
    """A row that lies on a box learns nothing of what the box leaves unknown inside, but of its own labels."""
    truth = random_truth(seed)
    generator = torch.Generator().manual_seed(seed)
    truth.inside_unknown = torch.rand(len(truth.boxes), CLASSES, generator=generator) < 0.2
    valid = torch.ones(3, len(ANCHORS), dtype=torch.bool)
    found = match(ANCHORS[None], valid, truth, foreground_iou=0.5, background_iou=0.4)
    goal = assign(found, ANCHORS[None], truth)
    listed = {
        (b, r): n for n, (b, r) in enumerate(zip(goal.classes.image.tolist(), goal.classes.row.tolist(), strict=True))
    }
    for b in range(3):
        own = [n for n in range(len(truth.boxes)) if truth.box_image[n] == b]
        for r, (x1, y1, x2, y2) in enumerate(ANCHORS.tolist()):
            inside, lies_on_any, on_region = torch.zeros(CLASSES, dtype=torch.bool), False, False
            for n in own:
                u1, v1, u2, v2 = truth.boxes[n].tolist()
                shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
                if shared >= 0.5 * (x2 - x1) * (y2 - y1):
                    inside |= truth.inside_unknown[n]
                    lies_on_any |= bool(truth.inside_unknown[n].any())
                    if truth.region[n]:
                        on_region = True
                        inside |= ~truth.classes_known[n] & found.background[b, r]
            if found.positive[b, r]:
                box = found.box[b, r]
                expected = truth.classes_known[box] & ~(inside & (truth.classes[box] == 0))
                assert torch.equal(goal.classes.known[listed[b, r]], expected)
            elif found.background[b, r]:
                assert goal.classes.background[b, r] == (not lies_on_any and not on_region)
                if (b, r) in listed:
                    assert torch.equal(goal.classes.known[listed[b, r]], truth.absence_known[b] & ~inside)


def test_positive_rows_carry_their_boxes_classes_and_masks() -> None:
    truth = targets([[[4.0, 4, 28, 28]], [], [[0, 0, 16, 16], [16, 8, 48, 40]]])
    truth.classes[2] = torch.tensor([1.0, 0, 1, 0, 0])
    truth.classes_known[2, 4] = False
    valid = torch.ones(3, len(ANCHORS), dtype=torch.bool)
    goal = assign(match(ANCHORS[None], valid, truth, foreground_iou=0.5, background_iou=0.4), ANCHORS[None], truth)
    assert set(goal.box.tolist()) == {0, 1, 2}
    assert torch.equal(goal.classes.values, truth.classes[goal.box])
    assert torch.equal(goal.classes.known, truth.classes_known[goal.box])
    assert torch.equal(goal.image, truth.box_image[goal.box])


@pytest.mark.parametrize("chunk", [1, 3000])
def test_chunks_of_boxes_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    truth = random_truth(5)
    valid = torch.ones(3, len(ANCHORS), dtype=torch.bool)
    options = {"foreground_iou": 0.5, "background_iou": 0.4, "low_quality": True}
    whole = match(ANCHORS[None], valid, truth, **options)
    monkeypatch.setattr("xray_det.models.matcher._CHUNK_CPU", chunk)
    parts = match(ANCHORS[None], valid, truth, **options)
    assert torch.equal(whole.positive, parts.positive)
    assert torch.equal(whole.background, parts.background)
    assert torch.equal(whole.on_region, parts.on_region)
    assert torch.equal(whole.box[whole.positive], parts.box[parts.positive])


def test_a_batch_without_boxes_is_all_background() -> None:
    truth = targets([[], []])
    valid = torch.ones(2, len(ANCHORS), dtype=torch.bool)
    goal = assign(match(ANCHORS[None], valid, truth, foreground_iou=0.5, background_iou=0.4), ANCHORS[None], truth)
    assert goal.classes.background.all()
    assert goal.classes.values.shape == (0, CLASSES)
