"""Images are shown as the loader shows them, and no other way."""

from pathlib import Path

import numpy as np
import pytest
from inference_made import dataset

from xray_det.data.annotations import Annotations, Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.loader import Loader
from xray_det.errors import InputError
from xray_det.inference.pictures import by_aspect, pictures
from xray_det.labels.supervision import Supervision


def test_the_same_pixels_as_the_loader_shows_in_evaluation(tmp_path: Path) -> None:
    selection = Selection(folder=dataset(tmp_path, images=10))
    augmentation = Augmentation(short_side=(40, 56), max_side=80, scale_jitter=(0.5, 2.0), photometric=1.0)
    supervision = Supervision(labelled=np.ones((1, 3), bool), ancestors=np.zeros((3, 3), bool))
    loader = Loader(
        selections=(selection,), maps=(np.arange(3),), supervision=supervision, augmentation=augmentation.evaluation(),
        batch=5,
    )  # fmt: skip
    rows = np.arange(10)
    annotations = Annotations.open([selection])
    for start, batch in zip((0, 5), loader.batches(rows, 0, 0), strict=True):
        shown = pictures(annotations.batch.slice(start, 5), augmentation)
        np.testing.assert_array_equal(shown.images, batch.images.permute(0, 2, 3, 1).numpy())
        np.testing.assert_array_equal(shown.sizes, batch.sizes.numpy())
        np.testing.assert_array_equal(shown.originals, batch.original_sizes.numpy())
        np.testing.assert_allclose(shown.scales, batch.scales.numpy(), rtol=1e-6)


def test_batches_of_like_aspect_hold_every_image_once(tmp_path: Path) -> None:
    batch = Annotations.open([Selection(folder=dataset(tmp_path))]).batch
    groups = by_aspect(batch, 4)
    assert sorted(np.concatenate(groups).tolist()) == list(range(23))
    assert [len(group) for group in groups] == [4] * 5 + [3]
    aspect = batch["width"].to_numpy() / batch["height"].to_numpy()
    assert all((np.diff(aspect[np.concatenate(groups)]) >= 0).tolist())


def test_an_image_that_changed_since_ingest_is_named(tmp_path: Path) -> None:
    from PIL import Image

    batch = Annotations.open([Selection(folder=dataset(tmp_path, images=3))]).batch
    file = tmp_path / "published" / "images" / "1.png"
    Image.new("RGB", (99, 99)).save(file)
    with pytest.raises(InputError, match="at ingest it was"):
        pictures(batch, Augmentation())
    file.unlink()
    with pytest.raises(InputError, match=r"1\.png"):
        pictures(batch, Augmentation())
