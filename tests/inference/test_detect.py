"""Detections come back in pixels of the upright original, inside it, image by image, best first."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xray_det.data.schema import DETECTIONS
from xray_det.inference.detect import detect, detection_rows, detection_schema
from xray_det.inference.pictures import Pictures
from xray_det.labels.space import Class, LabelSpace
from xray_det.models.predictions import Detections, Detector, Predictions


@dataclass
class Config:
    pass


class Fixed(Detector):
    """Detects the boxes it is given."""

    def __init__(self, found: Detections) -> None:
        super().__init__(Config(), 3)
        self.found, self.parameter = found, torch.nn.Parameter(torch.zeros(1))
        self.shown: Tensor | None = None

    def forward(self, images: Tensor, sizes: Tensor, *_: object) -> Predictions:  # type: ignore[override]
        self.shown = images
        empty = torch.zeros(0)
        return Predictions(logits=empty, deltas=empty, references=empty, valid=empty, levels=())

    def decode(self, predictions: Predictions, sizes: Tensor) -> Detections:
        return self.found


def test_boxes_return_to_the_original() -> None:
    # image 0: 100 high, 200 wide, shown at half size; image 1: 30 x 20 shown at (60, 80): another scale each way
    shown = Pictures(
        images=np.arange(2 * 64 * 128 * 3, dtype=np.uint8).reshape(2, 64, 128, 3),
        sizes=np.array([[50, 100], [60, 80]]),
        scales=np.array([[0.5, 0.5], [2.0, 4.0]]),
        originals=np.array([[100, 200], [30, 20]]),
    )
    found = Detections(
        boxes=torch.tensor([[10.0, 5, 100, 50], [0, 0, 1, 2], [40, 10, 81, 61]]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        labels=torch.tensor([2, 0, 1]),
        image=torch.tensor([0, 0, 1]),
    )
    detector = Fixed(found)
    back = detect(detector, shown)
    assert back.boxes.tolist() == [[20, 10, 200, 100], [0, 0, 2, 4], [10, 5, 20, 30]]  # the last is cut at the border
    assert detector.shown is not None
    np.testing.assert_array_equal(detector.shown.permute(0, 2, 3, 1).numpy(), shown.images)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.125, 0.25, 0.5, 1.0])), max_size=12))
def test_rows_are_images_and_their_detections_fall_in_score(pairs: list[tuple[int, float]]) -> None:
    pairs = sorted(pairs, key=lambda pair: pair[0])
    count = len(pairs)
    boxes = torch.arange(count * 4, dtype=torch.float32).reshape(count, 4)
    found = Detections(
        boxes=boxes,
        scores=torch.tensor([score for _, score in pairs], dtype=torch.float32),
        labels=torch.arange(count),
        image=torch.tensor([image for image, _ in pairs], dtype=torch.int64),
    )
    batch = detection_rows(found, [f"i{k}" for k in range(5)], ["d"] * 5)
    assert batch.schema == DETECTIONS
    for image, row in enumerate(batch.to_pylist()):
        own = [k for k, (of, _) in enumerate(pairs) if of == image]
        expected = sorted(own, key=lambda k: -pairs[k][1])  # stable: equal scores keep their order
        assert row["image_id"] == f"i{image}"
        assert row["labels"] == expected
        assert row["scores"] == [pairs[k][1] for k in expected]
        assert row["boxes"] == [boxes[k].tolist() for k in expected]
    cut = detection_rows(found, list("abcde"), ["d"] * 5, most=2).to_pylist()
    assert [row["labels"] for row in cut] == [row["labels"][:2] for row in batch.to_pylist()]


def test_the_class_table_travels_with_the_schema() -> None:
    space = LabelSpace(name="s", classes=(Class(name="Tasse", source_id="7"),))
    table = pa.Table.from_batches([], detection_schema(space))
    assert LabelSpace.from_json(json.loads(table.schema.metadata[b"classes"])) == space
