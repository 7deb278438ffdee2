"""What a loss is told of its data: shapes, and counts with descendants."""

from dataclasses import replace

import numpy as np
import pytest

from tests.losses.made_statistics import statistics
from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics


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
