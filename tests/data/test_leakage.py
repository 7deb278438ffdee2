"""What is said of images that are trained on and measured on, against sets of made-up image ids."""

from dataclasses import replace

import pytest
from test_manifest import made

from xray_det.data.leakage import also_trained_on
from xray_det.data.manifest import Manifest

SPLITS = {"train": 5, "val": 3, "": 2}


def dataset(**changes: object) -> Manifest:
    counts = dict.fromkeys(SPLITS, (0, 0))
    manifest = replace(made(), splits=SPLITS, image_counts=counts, instance_counts=counts, repaired={}, folder="/d")
    return replace(manifest, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("trained", [(), (None,), ("train",), ("val",), ("train", "")])
@pytest.mark.parametrize("measured", [None, "train", "val", ""])
def test_the_images_in_common_are_counted(trained: tuple[str | None, ...], measured: str | None) -> None:
    images = {(split, number) for split, count in SPLITS.items() for number in range(count)}
    both = {one for one in images if measured in (None, one[0]) and any(t in (None, one[0]) for t in trained)}
    total = sum(measured in (None, split) for split, _ in images)
    said = also_trained_on([(dataset(), split) for split in trained], [(dataset(), measured)])
    if not both:
        assert said == ()
    else:
        (sentence,) = said
        assert sentence.startswith(f"cups (/d): {len(both)} of {total} validation images are also trained on")


def test_one_content_is_one_dataset_whatever_it_is_called() -> None:
    copy, other = dataset(name="copy", folder="/copy"), dataset(name="other", fingerprint="f" * 16)
    (said,) = also_trained_on([(dataset(), None)], [(other, None), (copy, None)])
    assert said == (
        "copy (/copy): 10 of 10 validation images are also trained on (trained on all its images, measured on all its "
        "images)"
    )


def test_copies_in_two_splits_are_said_where_these_are_chosen() -> None:
    copied = dataset(repaired={"in_two_splits": 1, "alike_in_two_splits": 1, "duplicate_image": 7})
    (said,) = also_trained_on([(copied, "train")], [(copied, "val")])
    assert said.startswith("cups (/d): up to 2 of 3 validation images are also trained on under another name")
    assert also_trained_on([(dataset(), "train")], [(dataset(), "val")]) == ()
