"""Pictures of detections beside the truth, coloured by what they are worth: found, missed, wrong, not to be judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
import supervision as sv
from PIL import Image, ImageDraw, ImageFont

from xray_det.display import printable
from xray_det.errors import InputError
from xray_det.lettering import font_path

#: Pictures are enlarged until their shorter side has this many pixels: labels on smaller ones cannot be read.
SHORT_SIDE: Final = 400
#: The overlap from which a detection of the right class has found an object.
FOUND_IOU: Final = 0.5
_GAP = 8
_LONGEST = 60  # letters of a box's names


class Outcome(Enum):
    """What a box turned out to be, with its colour."""

    FOUND = "#2e9d4f"  # truth and detection that met
    MISSED = "#e08a00"  # truth no detection met
    WRONG = "#d62728"  # a detection that met nothing
    UNJUDGED = "#8a8a8a"  # a region, or a class that the dataset does not annotate


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of one image.

    Attributes:
        boxes: float [N, 4], x1 y1 x2 y2 in pixels of the image.
        labels: for each box the names it goes by; of a detection, one.
        scores: float [N] for detections, None for truth.
        judged: bool [N]; False for regions and for classes the dataset does not annotate.
    """

    boxes: np.ndarray
    labels: Sequence[tuple[str, ...]]
    judged: np.ndarray
    scores: np.ndarray | None = None

    def above(self, score: float) -> "Boxes":
        """Detections that score at least this."""
        assert self.scores is not None
        kept = np.flatnonzero(self.scores >= score).tolist()
        return Boxes(
            boxes=self.boxes[kept],
            labels=[self.labels[row] for row in kept],
            judged=self.judged[kept],
            scores=self.scores[kept],
        )


def outcomes(truth: Boxes, found: Boxes) -> tuple[list[Outcome], list[Outcome]]:
    """What each box of the truth and each detection turned out to be.

    Detections by falling score take the truth of their class that they overlap most, FOUND_IOU at least, each once. A
    wrong one is not judged where it lies on a region of its class.
    """
    of_truth = [Outcome.MISSED if judged else Outcome.UNJUDGED for judged in truth.judged]
    of_found = [Outcome.WRONG if judged else Outcome.UNJUDGED for judged in found.judged]
    if not len(truth.boxes) or not len(found.boxes):
        return of_truth, of_found
    overlap, inside = _overlaps(found.boxes, truth.boxes)
    scores = found.scores if found.scores is not None else np.zeros(len(found.boxes))
    for row in np.argsort(-scores, kind="stable"):
        same = np.array([bool(set(found.labels[row]) & set(labels)) for labels in truth.labels])
        free = same & np.array([outcome is Outcome.MISSED for outcome in of_truth])
        best = int(np.argmax(np.where(free, overlap[row], -1)))
        if free[best] and overlap[row, best] >= FOUND_IOU and found.judged[row]:
            of_truth[best] = of_found[row] = Outcome.FOUND
        elif (same & ~truth.judged & (inside[row] >= FOUND_IOU)).any():
            of_found[row] = Outcome.UNJUDGED
    return of_truth, of_found


def beside(image: np.ndarray, truth: Boxes, found: Boxes, *, title: str = "") -> np.ndarray:
    """The image twice, with its truth on the left and its detections on the right, and a line on how they compare.

    Args:
        image: uint8 [H, W, 3], RGB, upright.
        title: begins the line, e.g. the image's id.

    Returns:
        uint8 [H', W', 3], RGB.
    """
    of_truth, of_found = outcomes(truth, found)
    scale = max(1.0, SHORT_SIDE / min(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    large = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    left = _draw(large, truth, of_truth, scale)
    right = _draw(large, found, of_found, scale)
    panel = np.concatenate([left, np.full((len(left), _GAP, 3), 255, np.uint8), right], axis=1)
    missed, wrong = of_truth.count(Outcome.MISSED), of_found.count(Outcome.WRONG)
    counts = f"truth {len(of_truth)}, missed {missed}    detections {len(of_found)}, wrong {wrong}"
    return np.concatenate([_headline(f"{title}    {counts}".strip(), panel.shape[1]), panel])


def sheet(pictures: Sequence[np.ndarray], columns: int = 2) -> np.ndarray:
    """Pictures of any sizes on one white sheet, row by row.

    Raises:
        InputError: there is none.
    """
    if not pictures:
        raise InputError("pictures", "there is none to draw", "Ask for at least one")
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    height = sum(max(len(picture) for picture in row) + _GAP for row in rows)
    width = max(sum(picture.shape[1] + _GAP for picture in row) for row in rows)
    page = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + _GAP
        top += max(len(picture) for picture in row) + _GAP
    return page


def _draw(image: np.ndarray, shown: Boxes, of: Sequence[Outcome], scale: float) -> np.ndarray:
    if not len(shown.boxes):
        return image.copy()
    kinds = list(Outcome)
    palette = sv.ColorPalette.from_hex([kind.value for kind in kinds])
    detections = sv.Detections(
        xyxy=shown.boxes.astype(np.float64) * scale, class_id=np.array([kinds.index(outcome) for outcome in of])
    )
    texts = [printable(" / ".join(names), _LONGEST) for names in shown.labels]
    if shown.scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, shown.scores, strict=True)]
    scene = sv.BoxAnnotator(color=palette, thickness=2).annotate(Image.fromarray(image), detections)
    labels = sv.RichLabelAnnotator(
        color=palette, text_color=sv.Color.WHITE, font_path=font_path("".join(texts)), font_size=12, text_padding=2,
    )  # fmt: skip
    return np.array(labels.annotate(scene, detections, labels=texts))


def _headline(text: str, width: int) -> np.ndarray:
    text = printable(text, 2 * _LONGEST)
    strip = Image.new("RGB", (width, 22), "white")
    ImageDraw.Draw(strip).text((4, 3), text, fill="black", font=ImageFont.truetype(font_path(text), 13))
    return np.array(strip)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union, and over the first box's area: [N, M] each."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)[:, None]
    other = np.prod(np.maximum(others[:, 2:] - others[:, :2], 0), axis=1)[None]
    return shared / np.maximum(area + other - shared, 1e-9), shared / np.maximum(area, 1e-9)
