"""The dealt objects: exact counts along Zipf's law."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.miniature.glyphs import RELEASES
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.scenes import SPLITS, class_counts, deal, image_count
from xray_det.errors import InputError


@given(st.integers(1, 60), st.floats(0, 3), st.integers(0, 9), st.integers(0, 5000))
@settings(deadline=None)
def test_counts_sum_up_fall_and_keep_the_least(classes: int, zipf: float, least: int, extra: int) -> None:
    objects = classes * least + extra
    counts = class_counts(objects, classes, zipf, least)
    assert counts.sum() == objects
    assert (np.diff(counts) <= 0).all()
    assert counts.min() >= least


def test_counts_follow_zipf() -> None:
    counts = class_counts(1_000_000, 20, 1.2, 0)
    wanted = np.arange(1, 21) ** -1.2
    np.testing.assert_allclose(counts, 1_000_000 * wanted / wanted.sum(), atol=1)
    assert class_counts(100, 10, 0.0, 0).tolist() == [10] * 10
    with pytest.raises(InputError, match="do not fit"):
        class_counts(10, 4, 1.0, 3)


def test_the_default_tail_is_thin_in_training_and_measurable_in_validation() -> None:
    parameters = Miniature()
    held = {split: np.zeros(parameters.classes, int) for split in SPLITS}
    for release in RELEASES:
        for split in SPLITS:
            scenes = deal(parameters, release, split)
            assert len(scenes) == image_count(parameters, release, split)
            assert all(1 <= len(scene.classes) <= 3 for scene in scenes)
            for scene in scenes:
                held[split][list(set(scene.classes))] += 1
    assert held["train"][0] > 500
    assert 10 <= held["train"][-13:].min() <= held["train"][-13:].max() <= 24, "images of a tail class, both releases"
    assert held["val"].min() >= 8
    assert image_count(Miniature(images=7), RELEASES[0], "train") == 4
    assert image_count(Miniature(images=7), RELEASES[1], "train") == 3
