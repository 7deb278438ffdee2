"""Judging images in parts gives what judging them at once gives, to the last bit, ties of score included."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.schema import BoxFlag
from xray_det.evaluation import matching, open_images, voc
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.matching import blocks
from xray_det.evaluation.result import Result
from xray_det.evaluation.sorting import rising
from xray_det.evaluation.verdicts import Verdict, Verdicts

Make = Callable[..., Any]

#: Class 0 is a kind of 1 and of 2.
ANCESTORS = np.array([[False, True, True], [False, False, False], [False, False, False]])


def assert_same(found: Result, expected: Result) -> None:
    """Every number equal to the last bit."""
    np.testing.assert_equal(dict(found.metrics), dict(expected.metrics))
    np.testing.assert_array_equal(found.ap, expected.ap)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert found.curves.keys() == expected.curves.keys()
    for row, curve in found.curves.items():
        for name in ("recall", "precision", "scores"):
            np.testing.assert_array_equal(getattr(curve, name), getattr(expected.curves[row], name))


def parts(truth: Truth, detected: Detected, cuts: set[int]) -> Iterator[tuple[Truth, Detected]]:
    """The images cut in front of some of them; a part may have no detection, or no box."""
    for start, stop in pairwise([0, *sorted(cuts), len(truth.image_ids)]):
        some = detected.take((detected.image >= start) & (detected.image < stop))
        yield truth.images(start, stop), replace(some, image=some.image - start)


@pytest.fixture(scope="module")
def noisy_scene(crowded_scene: Make) -> Callable[[int], tuple[Truth, Detected]]:
    """Six images with groups, difficult boxes, verified labels, and scores of one decimal: most are tied."""

    def make(seed: int) -> tuple[Truth, Detected]:
        truth, detected = crowded_scene(seed)
        rng = np.random.default_rng(seed)
        difficult = np.where(rng.random(len(truth.flags)) < 0.2, int(BoxFlag.DIFFICULT), 0).astype(np.uint16)
        verified = [(i, c, int(rng.integers(0, 2))) for i in range(6) for c in range(3) if rng.random() < 0.5]
        truth = replace(
            truth,
            flags=truth.flags | difficult,
            verified=np.array(verified, np.int64).reshape(-1, 3),
            exhaustive=seed % 3 == 0,
        )
        return truth, detected.take(rising(detected.image))

    return make


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 50), cuts=st.sets(st.integers(1, 5)), weight=st.sampled_from([0.0, 0.3, 1.0]))
def test_parts_joined_are_the_whole(noisy_scene: Make, seed: int, cuts: set[int], weight: float) -> None:
    truth, detected = noisy_scene(seed)
    whole = open_images.evaluate(truth, detected, ancestors=ANCESTORS, group_of_weight=weight)
    judged = [open_images.judge(t, d, ancestors=ANCESTORS) for t, d in parts(truth, detected, cuts)]
    assert_same(open_images.result(Verdicts.join(judged), truth.space, group_of_weight=weight), whole)

    judged = [voc.judge(t, d) for t, d in parts(truth, detected, cuts)]
    assert_same(voc.result(Verdicts.join(judged), truth.space), voc.evaluate(truth, detected))


@pytest.mark.parametrize("module", [open_images, voc])
@pytest.mark.parametrize("seed", range(4))
def test_detections_in_any_order_in_small_blocks(
    noisy_scene: Make, module: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, detected = noisy_scene(seed)
    shuffled = detected.take(np.random.default_rng(seed).permutation(len(detected)))
    at_once = module.evaluate(truth, shuffled)
    monkeypatch.setattr(module, "blocks", partial(blocks, keys=1))  # one image
    monkeypatch.setattr(module, "best_overlap", partial(matching.best_overlap, block=1))  # one detection
    assert_same(module.evaluate(truth, shuffled), at_once)


def test_equal_scores_stay_as_they_were_written(truth_of: Make, detected_of: Make) -> None:
    box, far = [0, 0, 9, 9], [50, 50, 59, 59]
    truth = truth_of([(0, 0, box, 0), (1, 0, box, 0)], images=2, classes=1)
    found = [(1, 0, box, 0.5), (0, 0, far, 0.5)]
    for module in (open_images, voc):
        for rows, precision in ((found, [1.0, 0.5]), (found[::-1], [0.0, 0.5])):
            assert module.evaluate(truth, detected_of(rows)).curves[0].precision.tolist() == precision


def test_only_what_counts_is_kept(truth_of: Make, detected_of: Make) -> None:
    """A detection of an unverified class is left behind in the part; the others take 13 bytes."""
    box = [0, 0, 9, 9]
    truth = truth_of([(0, 0, box, 0)], images=2, classes=2, exhaustive=False)
    rows = [(0, 0, box, 0.9), (0, 1, box, 0.8), (1, 0, box, 0.7), (0, 0, [50, 50, 59, 59], 0.6)]
    judged = open_images.judge(truth, detected_of(rows))
    assert judged.verdict.tolist() == [Verdict.HIT, Verdict.MISS]
    assert sum(a.itemsize for a in (judged.label, judged.scores, judged.verdict)) == 13
