"""Published datasets through ingest to batches: the right pictures, upright, with their boxes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from xray_det.data.annotations import Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.batch import Batch
from xray_det.data.formats.source import open_source
from xray_det.data.ingest import ingest
from xray_det.data.loader import Loader
from xray_det.data.sampling import SoftBalance
from xray_det.labels.supervision import Supervision


def loader_of(folder: str, classes: int) -> Loader:
    return Loader(
        selections=(Selection(folder=folder),),
        maps=(np.arange(classes, dtype=np.int32),),
        supervision=Supervision(labelled=np.ones((1, classes), bool), ancestors=np.zeros((classes, classes), bool)),
        augmentation=Augmentation(short_side=(96,), max_side=160),
        batch=6,
    )


def batches(loader: Loader, stop: int) -> Iterator[Batch]:
    return loader.batches(loader.plan(SoftBalance(lam=0.7), None, 0, 0), 0, 0, stop=stop)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of the averages of 8 x 8 patches."""
    height, width = (side // 8 * 8 for side in one.shape[:2])
    patches = (one - other)[:height, :width].reshape(height // 8, 8, width // 8, 8, 3).mean(axis=(1, 3))
    return float(abs(patches).mean())


@pytest.mark.medium
@pytest.mark.parametrize("name", ["fod_a", "raccoon", "coco_tiny", "voc2012_100"])
def test_a_published_dataset_reaches_the_step(name: str, shared_data: Path, tmp_path: Path) -> None:
    manifest = ingest(open_source(shared_data / name), str(tmp_path / "out"), progress=False)
    loader = loader_of(str(tmp_path / "out"), len(manifest.space))
    annotations = loader.annotations
    assert len(annotations) == manifest.images
    row_of = {image_id: row for row, image_id in enumerate(annotations.image_ids.to_pylist())}
    seen, differences = 0, []
    for batch in batches(loader, stop=3):
        for image, image_id in enumerate(batch.image_ids):
            (row,) = annotations.take(np.array([row_of[image_id]])).to_pylist()
            height, width = batch.sizes[image].tolist()
            assert (min(height, width) == 96) or max(height, width) == 160
            shown = batch.images[image, :, :height, :width].permute(1, 2, 0).numpy().astype(float)
            with Image.open(row["path"]) as opened:
                upright = (
                    ImageOps.exif_transpose(opened).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
                )
            expected = np.asarray(upright).astype(float)
            # resampling filters differ in sharpness, not in what a patch of 8 x 8 pixels shows on average
            differences.append(min(apart(shown, expected), apart(shown[:, ::-1], expected)))
        seen += len(batch.targets.boxes)
        assert torch.equal(batch.targets.classes.sum(1) >= 1, torch.ones(len(batch.targets.boxes), dtype=torch.bool))
    assert seen > 0
    # over all images of these datasets the mean is 0.6 to 0.8 and the greatest 2.2; another image is 30 and more away
    assert np.mean(differences) < 1.2
    assert max(differences) < 3


@pytest.mark.medium
def test_packed_images_are_read_by_range_to_the_same_bits(shared_data: Path, tmp_path: Path) -> None:
    manifests = [
        ingest(open_source(shared_data / "raccoon"), str(tmp_path / name), pack=pack, pack_bytes=2**20, progress=False)
        for name, pack in (("plain", False), ("packed", True))
    ]
    assert manifests[1].packed
    plain, packed = (loader_of(str(tmp_path / name), 1) for name in ("plain", "packed"))
    offsets = packed.annotations.batch.column("offset")
    assert offsets.null_count == 0
    assert len(set(packed.annotations.batch.column("path").to_pylist())) > 1
    compared = 0
    for one, other in zip(batches(plain, stop=4), batches(packed, stop=4), strict=True):
        assert one.image_ids == other.image_ids
        assert torch.equal(one.images, other.images)
        compared += len(one)
    assert compared == 24
