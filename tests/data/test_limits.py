"""How much of what a detector says is kept."""

import pytest

from xray_det.data.limits import MANY_CLASSES, Limits, usual
from xray_det.errors import InputError
from xray_det.models.decoding import Decoding


def test_widened_keeps_what_either_keeps() -> None:
    few = Limits(score_threshold=0.3, candidates=50, max_detections=500)
    assert few.widened(Limits()) == Limits(score_threshold=0.05, candidates=1000, max_detections=500)
    assert Limits().widened(few) == few.widened(Limits())
    decoding = Decoding(nms_iou=0.7, max_detections=20).widened(MANY_CLASSES)
    assert decoding == Decoding(nms_iou=0.7, score_threshold=1e-4, candidates=10_000, max_detections=300)


def test_limits_cover_narrower_ones() -> None:
    limits = Limits(score_threshold=0.1, candidates=10, max_detections=10)
    assert limits.covers(limits)
    for narrower in ({"score_threshold": 0.2}, {"candidates": 9}, {"max_detections": 9}):
        other = Limits(**{**vars(limits), **narrower})
        assert limits.covers(other)
        assert not other.covers(limits)


def test_more_classes_than_cocos_need_more() -> None:
    assert usual(80) == Limits(score_threshold=0.05, candidates=1000, max_detections=100)
    assert usual(81) == Limits(score_threshold=1e-4, candidates=10_000, max_detections=300)


@pytest.mark.parametrize("value", [{"score_threshold": 1.5}, {"candidates": 0}, {"max_detections": 0}])
def test_bad_values_are_named(value: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"decoding\.{next(iter(value))}"):
        Limits(**value)  # type: ignore[arg-type]
