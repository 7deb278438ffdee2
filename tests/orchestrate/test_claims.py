"""The claims' miniature: what its docstring promises, counted."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from xray_det.data.miniature.glyphs import line_up
from xray_det.data.miniature.scenes import deal
from xray_det.data.sampling import Natural, SoftBalance
from xray_det.models.faster_rcnn import FasterRCNN
from xray_det.orchestrate import claims


def test_the_tail_is_long_and_the_validation_flat() -> None:
    scenes = {split: deal(claims.DATA, "open_images", split) for split in ("train", "val")}
    images = {
        split: Counter(label for scene in found for label in set(scene.classes)) for split, found in scenes.items()
    }
    assert {split: len(found) for split, found in scenes.items()} == {"train": 800, "val": 300}
    counts = np.array([images["train"][label] for label in range(claims.DATA.classes)])
    assert (counts[0], counts[-1]) == (311, 8)
    tail = counts[2 * len(counts) // 3 :] * (1 - claims.DATA.parents_without_leaf)
    assert 5 <= tail.min() <= tail.max() <= 10
    assert 8 <= min(images["val"].values()) <= max(images["val"].values()) <= 12
    assert {len(scene.classes) for scene in scenes["train"]} == {1, 2}
    twins = [row for row, glyph in enumerate(line_up(claims.DATA)) if glyph.twin is not None]
    assert len(twins) == 10
    assert twins[0] < len(counts) / 3 < 2 * len(counts) / 3 < twins[-1]  # from the head to the tail


def test_a_second_phase_has_a_drop_of_its_own() -> None:
    first = claims.phase()
    then = claims.second(first, SoftBalance(lam=0.7))
    assert (first.epochs, first.drops, first.sampling) == (12, (8.0,), Natural())
    assert (then.epochs, then.drops, then.lr) == (6, (4.0,), first.lr / 2)
    assert claims.second(claims.phase(1), Natural()).epochs == 1


@pytest.mark.medium
def test_the_data_are_scored_with_their_noise_and_without() -> None:
    """Rendered and ingested in small, without Ray."""
    made = claims.experiment(smoke=True)
    noisy, clean = made.data.val
    assert made.data.train == (replace(noisy, split="train"),)
    assert clean.folder != noisy.folder
    assert isinstance(made.model, FasterRCNN)
    assert claims.experiment(smoke=True) == made  # and found again
