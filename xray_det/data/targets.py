"""What images teach: their boxes on the canvas, and what each box and each background knows of classes. Torch-free."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from xray_det.data import geometry
from xray_det.data.annotations import box_labels, image_sizes, ragged
from xray_det.data.wire import Arrays
from xray_det.labels.supervision import Supervision


def targets(
    images: pa.RecordBatch, placement: geometry.Placement, maps: Sequence[np.ndarray], supervision: Supervision
) -> Arrays:
    """The truth of B images.

    Args:
        images: rows of data/annotations.py.
        placement: of these images.
        maps: for each selection int32 [C_d], unified row of each class of its dataset.
        supervision: row d of its ``labelled`` is selection d. The classes that it learns are the columns of what is
            returned; boxes that teach none of them are left out.

    Returns:
        boxes, box_image, classes, classes_known, region, absence_known, and with parts in the supervision
        inside_unknown: arrays as in data/batch.py.
    """
    count, classes = images.num_rows, supervision.num_classes
    boxes, offsets = ragged(images.column("boxes"))
    flags, _ = ragged(images.column("flags"))
    image = np.repeat(np.arange(count), np.diff(offsets))
    boxes = geometry.clip(boxes, image_sizes(images)[image])
    ever = geometry.trained(flags)
    seen, region = placement.seen(boxes, image, geometry.region(flags))
    kept = ever & seen

    dataset = images.column("dataset").to_numpy()
    starts = np.cumsum([0, *(len(table) for table in maps)])
    unified = np.concatenate(maps)
    labels, label_box = box_labels(images.column("labels"))
    labels = unified[starts[dataset[image[label_box]]] + labels]
    multi_hot = np.zeros((len(boxes), classes), bool)
    multi_hot[label_box, labels] = True

    def verified(name: str) -> tuple[np.ndarray, np.ndarray]:
        values, bounds = ragged(images.column(name))
        return unified[starts[np.repeat(dataset, np.diff(bounds))] + values], bounds

    def labels_of(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = which[label_box]
        return labels[own], np.cumsum([0, *np.bincount(image[label_box[own]], minlength=count)])

    # Where only verified labels tell what is absent, an image's own boxes count as verified; elsewhere they add nothing
    # to the dataset's own classes, and must not spread to ancestors that it does not annotate.
    exhaustive = np.asarray(supervision.labelled.any(axis=1))
    lists = verified("verified_positive"), verified("verified_negative")
    boxed = labels_of(ever & ~exhaustive[dataset][image])
    absence_known = supervision.image_known(dataset, *lists, boxed, verified("not_exhaustive"))
    positive, known = supervision.box_targets(multi_hot[kept], image[kept], absence_known)
    learned = supervision.of_learned(positive)
    # A box of no learned class is background, except for the learned descendants of its classes, which it may be.
    region = region[kept] | ~learned.any(axis=1)
    if region.any():
        known[region] = supervision.region_known(multi_hot[kept][region])
    found = {
        "boxes": placement.move(boxes[kept], image[kept]),
        "box_image": image[kept],
        "classes": learned,
        "classes_known": supervision.of_learned(known),
        "region": region,
    }
    teaching = ~region | ~found["classes_known"].all(axis=1)
    if supervision.parts is not None:
        verified_there = supervision.verified(*lists, labels_of(ever))
        unknown = supervision.inside_unknown(multi_hot[kept], image[kept], verified_there)
        found["inside_unknown"] = supervision.of_learned(unknown)
        teaching |= found["inside_unknown"].any(axis=1)
    if not teaching.all():
        found = {name: array[teaching] for name, array in found.items()}
    return found | {"absence_known": supervision.of_learned(absence_known)}


def of_batch(found: Arrays, first: int, last: int) -> Arrays:
    """Of ``targets``, the images first .. last - 1: views, but for the boxes' image numbers."""
    start, stop = np.searchsorted(found["box_image"], [first, last])
    boxes = {name: array[start:stop] for name, array in found.items() if name != "absence_known"}
    return boxes | {
        "box_image": boxes["box_image"] - first,
        "absence_known": found["absence_known"][first:last],
    }
