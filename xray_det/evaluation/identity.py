"""Which image and which class of the truth does a file of detections mean? Across layouts, and never by a guess.

A file names its images in one way, and the way is chosen once for the whole file: by published id, by file name, by the
stem of the file name (a VOC image is its stem), or by either as a number (``000123`` and 123). Of these the first
counts that knows every image of the file. Classes likewise: by published id or by name.
A file with tables of its own (a COCO document, our Parquet) says itself what its ids mean: then names and file names
decide, because two files may number differently.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from xray_det.data.formats.coco import CORNERS_SHARE
from xray_det.data.formats.detections import DetectionFile
from xray_det.data.formats.layout import IMAGE_SUFFIXES
from xray_det.errors import InputError
from xray_det.evaluation.columns import Detected, Truth
from xray_det.labels.space import LabelSpace

Rows = NDArray[np.int64]

#: Coordinates up to here are fractions of the image (a detector may reach a little outside); pixels go further.
_LARGEST_FRACTION = 2.0


def align(
    file: DetectionFile, truth: Truth, *, open_classes: bool = False, open_images: bool = False
) -> tuple[Detected, list[str]]:
    """The detections in the rows and the coordinates of the truth.

    Args:
        file: as read.
        truth: what they will be scored against.
        open_classes: classes that the truth does not have are left out (its layout lists only classes that occur);
            else they are an error.
        open_images: likewise images.

    Returns:
        The detections in file order, and a line for each thing that was left out or converted.

    Raises:
        InputError: an unknown image or class, nothing in common, or pixels on one side and fractions on the other
            where no image size is known.
    """
    notes: list[str] = []
    images = match_images(file, truth, notes)
    image = _known(file, "images", file.image_ids, images, file.image, open_images, notes)
    classes = match_classes(file, truth.space, notes)
    label = _known(file, "classes", file.class_ids, classes, file.label, open_classes, notes)
    keep = (image >= 0) & (label >= 0)
    detected = Detected(
        image=image, label=label.astype(np.int32), boxes=file.boxes, sizes=file.sizes, scores=file.scores
    )
    if not keep.all():
        detected = detected.take(keep)
    return _same_unit(file, truth, detected, notes), notes


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """A way to say which image or class is meant: by ``key`` of what the truth published."""

    name: str
    published: Sequence[str]
    key: Callable[[str], str] = str

    def rows(self, asked: Sequence[str]) -> Rows:
        """int64 [len(asked)]: the row of the one published thing of the same key, -1 where there is none or several."""
        row_of = _once([self.key(one) for one in self.published])
        row_of.pop("", None)
        return np.array([row_of.get(self.key(one), -1) for one in asked], np.int64)


def match_images(file: DetectionFile, truth: Truth, notes: list[str]) -> Rows:
    """int64 [len(file.image_ids)]: the truth's row of each image, by one rule for all; -1 where it has none.

    Raises:
        InputError: as ``_by_one_rule``.
    """
    names = [path or image_id for path, image_id in zip(truth.paths, truth.image_ids, strict=True)]
    by_name = (
        _Rule(name="file name", published=names, key=_path),
        _Rule(name="file name without folder and suffix", published=names, key=_stem),
    )
    if file.image_names is not None:
        named = [file.image_names.get(i, "") for i in file.image_ids]
        if any((rule.rows(named) >= 0).any() for rule in by_name):
            return _by_one_rule(file, "images", named, by_name, notes)
    rules = (
        _Rule(name="id", published=truth.image_ids),
        *by_name,
        _Rule(name="id as a number", published=truth.image_ids, key=_number),
        _Rule(name="file name as a number", published=names, key=_number),
    )
    return _by_one_rule(file, "images", file.image_ids, rules, notes)


def match_classes(file: DetectionFile, space: LabelSpace, notes: list[str]) -> Rows:
    """int64 [len(file.class_ids)]: the row of each class, by one rule for all; -1 where the space has none.

    Raises:
        InputError: as ``_by_one_rule``.
    """
    by_name = _Rule(name="name", published=space.names, key=_plain)
    if file.class_names is not None:
        rows = by_name.rows([file.class_names.get(i, i) for i in file.class_ids])
        # a published id that no other label space gives another meaning: Open Images' /m/ ids
        return np.array(
            [
                space.row_of_id.get(i, -1) if row < 0 and not i.isdecimal() else row
                for i, row in zip(file.class_ids, rows.tolist(), strict=True)
            ],
            np.int64,
        )
    by_id = _Rule(name="id", published=[c.source_id for c in space.classes])
    return _by_one_rule(file, "classes", file.class_ids, (by_id, by_name), notes)


def _by_one_rule(
    file: DetectionFile, what: str, asked: Sequence[str], rules: Sequence[_Rule], notes: list[str]
) -> Rows:
    """The rows that the first rule gives which knows all that is asked, else the one that knows most.

    Where another rule knows all as well, and means other rows, a note says so.

    Raises:
        InputError: some are known by one rule alone and some by another alone.
    """
    found = {rule.name: rule.rows(asked) for rule in rules}
    best = max(found, key=lambda name: int((found[name] >= 0).sum()))  # the first of equal ones
    missed = found[best] < 0
    for name, rows in found.items():
        also = np.flatnonzero(missed & (rows >= 0))
        if len(also):
            raise InputError(
                file.path,
                f"of its {len(asked)} {what} {int((~missed).sum())} are known by {best} alone, "
                f"and {len(also)} by {name} alone ({asked[int(also[0])]!r})",
                f"Name all {what} in one way: by the truth's ids, or by its names",
            )
    others = [name for name, rows in found.items() if (rows >= 0).all() and (rows != found[best]).any()]
    if others:
        notes.append(f"its {what} are known by {best} and, as others, by {others[0]}: {best} is used")
    return found[best]


def _known(
    file: DetectionFile,
    what: str,
    ids: Sequence[str],
    rows: Rows,
    used: Rows,
    optional: bool,
    notes: list[str],
) -> Rows:
    """Rows of the truth a detection, -1 for what may be left out."""
    unknown = np.flatnonzero((rows < 0) & (np.bincount(used, minlength=len(rows)) > 0))
    if not len(unknown):
        return rows[used]
    listed = ", ".join(repr(ids[row]) for row in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    if not optional or (rows < 0).all():
        raise InputError(
            file.path,
            f"{len(unknown)} of its {len(rows)} {what} are not in the truth ({listed})",
            _REMEDY[what],
        )
    lost = int((rows[used] < 0).sum())
    notes.append(f"{lost} detections of {len(unknown)} {what} that the truth does not have ({listed}) are left out")
    return rows[used]


_REMEDY = {
    "images": "Use the truth's image ids or file names, or keep the file's own 'images' table beside its 'annotations'",
    "classes": "Use the truth's class ids or names, or keep the file's own 'categories' table beside its 'annotations'",
}


def _same_unit(file: DetectionFile, truth: Truth, detected: Detected, notes: list[str]) -> Detected:
    """Pixels against pixels, fractions against fractions."""
    if not len(detected) or not len(truth.boxes):
        return detected
    fractions = bool(np.abs(detected.boxes).max() <= _LARGEST_FRACTION)
    if truth.normalized:
        if fractions:
            return detected
        scale = 1 / _scales(file, truth, detected, "pixels", "fractions of the image")
        notes.append("detections in pixels were divided by the published image sizes")
    else:
        notes += _doubts("truth", truth, truth)
        if file.format == "coco":
            notes += _doubts("detections", detected, truth)
        if not fractions or file.format != "open_images" or np.abs(truth.boxes).max() <= _LARGEST_FRACTION:
            return detected
        scale = _scales(file, truth, detected, "fractions of the image", "pixels")
        notes.append("detections in fractions of the image were multiplied by the published image sizes")
    return Detected(
        image=detected.image,
        label=detected.label,
        boxes=detected.boxes * np.tile(scale, (1, 2)),
        sizes=detected.sizes * scale,
        scores=detected.scores,
    )


def _doubts(name: str, side: Truth | Detected, truth: Truth) -> list[str]:
    """What no boxes of x, y, width, height in pixels should all have in common: they are scored as such."""
    if side.boxes[:, :2].min() >= 0 and max(side.boxes[:, :2].max(), side.sizes.max()) <= 1:
        return [f"all boxes of the {name} lie in 0 to 1: are they fractions of the image? They are taken for pixels"]
    if not (side.sizes > side.boxes[:, :2]).all():
        return []
    edge = truth.image_sizes[side.image] + 1
    if (side.sizes <= edge).all() and (side.boxes[:, 2:] > edge).any(axis=1).mean() > CORNERS_SHARE:
        return [
            f"boxes of the {name} reach outside their images as x, y, width, height, and all would fit as "
            "x1, y1, x2, y2: they are taken for the first"
        ]
    return []


def _scales(file: DetectionFile, truth: Truth, detected: Detected, theirs: str, ours: str) -> NDArray[np.float64]:
    scale = truth.image_sizes[detected.image]
    if np.isnan(scale).any():
        raise InputError(
            file.path,
            f"its boxes are {theirs}, the truth's are {ours}, and the truth publishes no image sizes",
            f"Write the detections in {ours}",
        )
    return scale


def _path(name: str) -> str:
    """``a\\b/000123.jpg`` -> ``a/b/000123``; a name without an image's suffix stays whole."""
    path = PurePosixPath(name.strip().strip("\"'").replace("\\", "/"))
    return str(path.with_suffix("") if path.suffix.lower() in _SUFFIXES else path)


def _stem(name: str) -> str:
    """``a/b/000123.jpg`` -> ``000123``."""
    return _path(name).rpartition("/")[2]


def _number(name: str) -> str:
    """``000123.jpg`` -> ``123``; a stem that is no number stays as it is."""
    stem = _stem(name)
    return stem.lstrip("0") or "0" if stem.isdecimal() else stem


#: A detector names the image it was given, or the annotation file of it.
_SUFFIXES = IMAGE_SUFFIXES | {".xml", ".txt"}


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _once(keys: Sequence[str]) -> dict[str, int]:
    """Key -> row, without the keys that occur more than once: they name nothing."""
    count = Counter(keys)
    return {key: row for row, key in enumerate(keys) if count[key] == 1}
