"""Classes that rose and fell, counted by hand."""

import numpy as np
import pytest

from xray_det.evaluation.gains import gains

NAN = np.nan


def test_gains_are_over_the_classes_that_the_detector_has_and_the_truth_too() -> None:
    before = np.array([0.8, 0.4, 0.0, 0.0, NAN, 0.5])
    after = np.array([0.8, 0.6, 0.0, 0.1, NAN, NAN])  # it lacks the last class; the truth has nothing of the fifth
    found = gains(after, before, {"head": np.array([0, 1]), "tail": np.array([2, 3, 4]), "none": np.array([4, 5])})
    assert (found.rose, found.fell, found.zero, found.classes) == (2, 0, 1, 4)
    assert found.ap == pytest.approx(1.5 / 4)
    assert found.bands["head"] == pytest.approx(0.7)
    assert found.bands["tail"] == pytest.approx(0.05)
    assert np.isnan(found.bands["none"])
    back = gains(before, after, {})
    assert (back.rose, back.fell, back.zero) == (0, 2, 2)
