"""What a detector of some classes is counted by and measured on."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xray_det.data.annotations import Selection
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError
from xray_det.evaluation.assess import sharing, trained_counts

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from made_shards import made_dataset


def test_datasets_without_a_class_of_the_detector_count_nothing_and_are_not_measured(tmp_path: Path) -> None:
    for name in "ab":
        made_dataset(tmp_path / name, name, 4)  # classes "a 0" ... and "b 0" ...
    selections = [Selection(folder=str(tmp_path / name)) for name in "ab"]
    a, b = (Manifest.load(selection.folder) for selection in selections)
    some = a.space.subset([1, 3])
    counted = replace(a, image_counts={"train": (5, 6, 7, 8), "val": (9, 9, 9, 9)})
    assert trained_counts(some, [(counted, "train"), (b, None)], a).tolist() == [0, 6, 0, 8]
    assert trained_counts(some, [(counted, None), (b, None)], a).tolist() == [0, 15, 0, 17]
    assert sharing(some, selections) == (selections[0],)
    with pytest.raises(InputError, match=r"b: none has a class of the detector \(a 1, a 3"):
        sharing(some, selections[1:])
