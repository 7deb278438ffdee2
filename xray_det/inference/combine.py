"""Detections of several detectors over the same images -> those of one: a general detector and experts.

Everything is done image by image, so parts (inference/predict.py) are combined alone, side by side, each written whole;
a restarted combination leaves out those that are there. Letters: C classes of the general detector, M detections of a
part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from xray_det import storage
from xray_det.config import fingerprint, to_dict
from xray_det.data.ingest import each
from xray_det.data.limits import Limits
from xray_det.data.shards import read_table, write_table
from xray_det.errors import InputError
from xray_det.inference.detect import detection_rows, detection_schema
from xray_det.inference.fusion import Floats, Ints, fuse
from xray_det.inference.predict import DESCRIPTION, Prediction, claim
from xray_det.labels.space import LabelSpace
from xray_det.models.predictions import Detections
from xray_det.models.suppression import suppress


@dataclass(frozen=True, kw_only=True)
class Own:
    """A class belongs to the expert that learned it, otherwise to the general detector."""


@dataclass(frozen=True, kw_only=True)
class Union:
    """All detections; then of each class a box that overlaps more than ``iou`` with a better one is dropped."""

    iou: float = 0.5

    def __post_init__(self) -> None:
        _check_iou("union.iou", self.iou)


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Weighted boxes fusion (fusion.py) of each class, over the detectors that learned it."""

    iou: float = 0.55

    def __post_init__(self) -> None:
        _check_iou("fusion.iou", self.iou)


def _check_iou(name: str, iou: float) -> None:
    if not 0 <= iou < 1:
        raise InputError(name, f"{iou} is no overlap that can be exceeded", "Give 0 to 1 (excluded)")


Combination: TypeAlias = Own | Union | Fusion
#: How detections are usually combined, by name.
COMBINATIONS: Final[dict[str, Combination]] = {"own": Own(), "union": Union(), "wbf": Fusion()}


@dataclass(frozen=True, kw_only=True)
class Found:
    """M detections of a part.

    Attributes:
        image: int64 [M], row of the part.
        label: int64 [M], class of the general detector.
        boxes: float64 [M, 4], x1 y1 x2 y2 in pixels.
        scores: float64 [M].
        detector: int64 [M], 0 for the general one, then the experts.
    """

    image: Ints
    label: Ints
    boxes: Floats
    scores: Floats
    detector: Ints

    def take(self, rows: npt.NDArray[np.generic]) -> "Found":
        return Found(**{name: values[rows] for name, values in vars(self).items()})


def combine(predictions: Sequence[Prediction], out: str, how: Combination) -> Prediction:
    """Combine predictions of the same images; finished parts of an earlier call are kept.

    Of an image as many detections are kept as the widest of the predictions keeps.

    Args:
        predictions: of the general detector, whose classes are the result's, and of the experts, whose classes are
            found among those by name.
        out: folder for the result, a local path or URI; it is a prediction like any other.
        how: what is done where several detectors learned a class.

    Raises:
        InputError: a class that the general detector lacks, other images, two experts for one class (``Own``), or
            ``out`` holds something else.
    """
    general, *experts = predictions
    learned = np.stack([_learned(general, prediction) for prediction in predictions])
    if isinstance(how, Own) and (twice := np.flatnonzero(learned[1:].sum(axis=0) > 1)).size:
        first, second = (experts[row].folder for row in np.flatnonzero(learned[1:, twice[0]])[:2])
        problem = f"{first} and {second} both learned {general.space.names[twice[0]]!r}"
        raise InputError("experts", problem, "Give each class one expert, or combine by union or fusion")
    for other in experts:
        if other.parts != general.parts:
            raise _other_images(other, general, f"{other.parts} parts, not {general.parts}")
    said = [storage.read_json(storage.join(prediction.folder, DESCRIPTION)) for prediction in predictions]
    own, limits = (reduce(Limits.widened, (getattr(p, name) for p in predictions)) for name in ("own", "limits"))
    claim(
        out,
        {
            "combined": [fingerprint(each_said) for each_said in said],
            "how": {"type": type(how).__name__, **vars(how)},
            "own": to_dict(own),
            "limits": to_dict(limits),
            **{name: said[0][name] for name in ("data", "images", "part_images")},
        },
    )
    result = Prediction(folder=out, parts=general.parts, space=general.space, own=own, limits=limits)
    missing = [part for part in range(result.parts) if not storage.exists(result.uris[part])]
    task = partial(_combine_part, predictions=tuple(predictions), learned=learned, result=result, how=how)
    for _ in each(task, missing):
        pass
    return result


def _learned(general: Prediction, other: Prediction) -> npt.NDArray[np.bool_]:
    """bool [C]: the general detector's classes that another one learned."""
    learned = np.zeros(len(general.space), bool)
    learned[_rows(general.space, other)] = True
    return learned


def _rows(space: LabelSpace, other: Prediction) -> Ints:
    """int64 [C of ``other``]: the row of ``space`` that each class of another detector is."""
    strange = [name for name in other.space.names if name not in space.row_of_name]
    if strange:
        problem = f"learned {strange[0]!r}, which is no class of the general detector"
        raise InputError(other.folder, problem, "Give experts for classes of the general detector")
    return np.array([space.row_of_name[name] for name in other.space.names], np.int64)


def _other_images(other: Prediction, general: Prediction, difference: str) -> InputError:
    problem = f"is of other images than {general.folder} ({difference})"
    return InputError(other.folder, problem, "Predict the same images with all detectors")


def _combine_part(
    part: int,
    *,
    predictions: tuple[Prediction, ...],
    learned: npt.NDArray[np.bool_],
    result: Prediction,
    how: Combination,
) -> None:
    tables = [read_table(prediction.uris[part]) for prediction in predictions]
    for prediction, table in zip(predictions[1:], tables[1:], strict=True):
        for name in ("image_id", "dataset"):
            if not table[name].combine_chunks().equals(tables[0][name].combine_chunks()):
                raise _other_images(prediction, predictions[0], f"part {part} has other values of {name}")
    found = [_found(t, _rows(result.space, p), n) for n, (t, p) in enumerate(zip(tables, predictions, strict=True))]
    together = Found(**{name: np.concatenate([getattr(f, name) for f in found]) for name in vars(found[0])})
    write_table(_table(combined(together, learned, how), tables[0], result), result.uris[part])


def _found(table: pa.Table, rows: Ints, detector: int) -> Found:
    counts = np.asarray(pc.list_value_length(table["scores"]), np.int64)
    boxes = pc.list_flatten(pc.list_flatten(table["boxes"])).to_numpy().astype(np.float64).reshape(-1, 4)
    return Found(
        image=np.repeat(np.arange(table.num_rows), counts),
        label=rows[pc.list_flatten(table["labels"]).to_numpy()],
        boxes=boxes,
        scores=pc.list_flatten(table["scores"]).to_numpy().astype(np.float64),
        detector=np.full(len(boxes), detector),
    )


def combined(found: Found, learned: npt.NDArray[np.bool_], how: Combination) -> Found:
    """Detections of several detectors as those of one, in any order.

    Args:
        found: of all detectors; of fused ones ``detector`` is 0.
        learned: bool [detectors, C], which classes each has.
    """
    if isinstance(how, Own):
        last = len(learned) - 1 - np.argmax(learned[::-1], axis=0)  # an expert where there is one
        return found.take(found.detector == last[found.label])
    group = found.image * learned.shape[1] + found.label
    if isinstance(how, Union):
        kept = suppress(*map(torch.from_numpy, (found.boxes, found.scores, group)), iou=how.iou)
        return found.take(kept.numpy())
    models = learned.sum(axis=0)[found.label]
    boxes, scores, group = fuse(found.boxes, found.scores, group, models, how.iou)
    image, label = np.divmod(group, learned.shape[1])
    return Found(image=image, label=label, boxes=boxes, scores=scores, detector=np.zeros_like(image))


def _table(found: Found, images: pa.Table, result: Prediction) -> pa.Table:
    boxes, scores, labels, image = map(torch.from_numpy, (found.boxes, found.scores, found.label, found.image))
    detections = Detections(boxes=boxes.float(), scores=scores.float(), labels=labels, image=image)
    names = (images[name].to_pylist() for name in ("image_id", "dataset"))
    rows = detection_rows(detections, *names, most=result.limits.max_detections)
    return pa.Table.from_batches([rows]).replace_schema_metadata(detection_schema(result.space).metadata)
