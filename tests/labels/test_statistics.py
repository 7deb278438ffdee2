"""What a loss is told of its data: shapes, and counts with descendants."""

from dataclasses import replace

import numpy as np
import pytest

from tests.losses.made_statistics import statistics
from xray_det.errors import InputError
from xray_det.labels.concurrence import Concurrence, PairCounts
from xray_det.labels.statistics import ClassStatistics
from xray_det.labels.supervision import Supervision


def test_a_descendants_boxes_are_positive_for_its_ancestors() -> None:
    ancestors = np.zeros((4, 4), bool)
    ancestors[1, 0] = ancestors[2, 0] = ancestors[2, 1] = True
    counts = np.array([5, 3, 2, 7])
    found = ClassStatistics(image_counts=counts, instance_counts=counts, ancestors=ancestors)
    assert found.with_descendants(counts).tolist() == [5 + 3 + 2, 3 + 2, 2, 7]


def test_what_does_not_fit_is_refused() -> None:
    know = statistics(4)
    for change in (
        {"instance_counts": np.ones(3, np.int64)},
        {"ancestors": np.zeros((3, 3), bool)},
        {"concurrence": statistics(3).concurrence},
    ):
        with pytest.raises(InputError, match="do not fit"):
            replace(know, **change)
    with pytest.raises(InputError, match="4 classes, the detector has 5"):
        know.require(5)


def test_the_statistics_of_some_classes() -> None:
    """Classes 0 and 1 are kinds of 2; 1 and 2 are learned, so what is labelled 0 counts as 2."""
    ancestors = np.zeros((4, 4), bool)
    ancestors[[0, 1], 2] = True
    counts = PairCounts.summed(np.array([4, 2, 8, 5]), np.array([1, 1, 3]), np.array([2, 3, 2]), np.array([1, 2, 5]))
    found = ClassStatistics(
        image_counts=np.array([3, 1, 7, 5]),
        instance_counts=np.array([4, 2, 8, 5]),
        ancestors=ancestors,
        concurrence=Concurrence.of(counts),
    )
    learned = np.array([1, 2])
    supervision = Supervision(labelled=np.ones((1, 4), bool), ancestors=ancestors, learned=learned)
    some = found.subset(learned, supervision.stands_for)
    assert some.image_counts.tolist() == [1, 10]
    assert some.instance_counts.tolist() == [2, 12]
    assert some.ancestors.tolist() == [[False, True], [False, False]]
    assert some.concurrence is not None
    assert found.concurrence is not None
    assert (some.concurrence.dense() == found.concurrence.dense()[np.ix_(learned, learned)]).all()
