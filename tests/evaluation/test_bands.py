"""AP by frequency, and the figures that show it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xray_det.errors import InputError
from xray_det.evaluation import figures, open_images
from xray_det.evaluation.bands import by_band
from xray_det.evaluation.result import Result
from xray_det.labels.frequency import bands

Make = Callable[..., Any]


@pytest.fixture
def result(truth_of: Make, detected_of: Make) -> Result:
    """Six classes: 0 to 3 found, 4 missed, 5 without truth."""
    boxes = [(0, label, [10 * label, 0, 10 * label + 5, 5], 0) for label in range(5)]
    found = [(0, label, box, 0.9 - label / 10) for _, label, box, _ in boxes[:4]]
    return open_images.evaluate(truth_of(boxes, images=1, classes=6), detected_of(found))


def test_a_band_is_the_mean_of_its_defined_classes(result: Result) -> None:
    counts = np.array([50, 40, 30, 20, 10, 5])
    assert by_band(result, bands(counts)) == pytest.approx({"AP_head": 1.0, "AP_middle": 1.0, "AP_tail": 0.0})
    empty = by_band(result, {"none": np.array([5]), "nobody": np.array([], np.int64)})
    assert np.isnan(list(empty.values())).all()
    with pytest.raises(InputError, match="row 6"):
        by_band(result, {"other": np.array([6])})


def test_curves_are_drawn_for_every_class_with_truth(result: Result) -> None:
    figure = figures.precision_recall(result)
    (axes,) = figure.axes
    assert len(axes.lines) == 5 + 1  # and their mean
    assert len(axes.get_legend().get_texts()) == 6
    mean = axes.lines[-1]
    np.testing.assert_allclose(mean.get_ydata(), 4 / 5)
    figure.canvas.draw()


def test_average_precision_stands_in_order_of_frequency(result: Result) -> None:
    counts = np.array([1, 2, 3, 4, 5, 6])
    figure = figures.by_frequency({"natural": result}, counts)
    points = figure.axes[1].lines[0]
    np.testing.assert_array_equal(points.get_ydata(), result.ap[::-1])
    figure.canvas.draw()
