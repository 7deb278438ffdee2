"""From rows of the plan to one finished batch of numpy arrays. Torch-free: it runs in data tasks.

One function for every executor, so that they cannot differ by a bit. Letters: B images of this rank's part of the
global batch, N their boxes, C unified classes, D selections.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from xray_det import storage
from xray_det.data import geometry
from xray_det.data.annotations import box_labels, map_file, ragged
from xray_det.data.augmentation import Augmentation
from xray_det.data.images import BadImage
from xray_det.data.randomness import Key
from xray_det.data.transforms import distortions, draw
from xray_det.data.wire import Arrays
from xray_det.errors import InputError
from xray_det.labels.supervision import Supervision


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """All that a process needs to turn rows of a plan into a batch; small, and picklable.

    Attributes:
        annotations: the memory-mapped file (data/annotations.py).
        maps: for each selection int32 [C_d], unified row of each class of its dataset.
        supervision: row d of its ``labelled`` is selection d.
        augmentation: sizes and random changes.
        key: seed, phase, epoch.
    """

    annotations: Path
    maps: tuple[np.ndarray, ...]
    supervision: Supervision
    augmentation: Augmentation
    key: Key

    def assemble(self, rows: np.ndarray, first: int, part: slice) -> tuple[Arrays, list[str]]:
        """One rank's part of a global batch.

        Args:
            rows: int64 [global B], row numbers of the annotations.
            first: position of the global batch's first image in the plan.
            part: which of the rows this rank takes.

        Returns:
            arrays (images uint8 [B, H, W, 3] and, as in data/batch.py, sizes, scales, original_sizes, positions, boxes,
            box_image, classes, classes_known, region, absence_known), and the image ids of the part.

        Raises:
            InputError: an image cannot be read or is not what was ingested.
        """
        everything = _mapped(self.annotations)
        positions = np.arange(first, first + len(rows))
        images = everything.take(pa.array(rows[part]))
        everywhere = self._place(everything, rows, positions)
        height, width = everywhere.canvas(self.augmentation.multiple)
        placement = everywhere.rows(part)
        arrays = self._targets(images, placement)
        originals = _sizes(images)
        arrays |= {
            "sizes": placement.sizes,
            "scales": placement.scales().astype(np.float32),
            "original_sizes": originals,
            "positions": positions[part],
            "images": self._pictures(images, originals, placement, positions[part], height, width),
        }
        return arrays, images.column("image_id").to_pylist()

    def _place(self, everything: pa.RecordBatch, rows: np.ndarray, positions: np.ndarray) -> geometry.Placement:
        """Where the images of the whole global batch go: other ranks' images count for the canvas."""
        crops = self.augmentation.iou_crop > 0
        columns = ["width", "height", "boxes", "flags"] if crops else ["width", "height"]
        images = everything.select(columns).take(pa.array(rows))
        sizes = _sizes(images)
        boxes, image = np.empty((0, 4), np.float32), np.empty(0, np.int64)
        if crops:
            boxes, offsets = ragged(images.column("boxes"))
            flags, _ = ragged(images.column("flags"))
            image = np.repeat(np.arange(len(rows)), np.diff(offsets))
            objects = geometry.trained(flags) & ~geometry.region(flags)
            boxes, image = boxes[objects], image[objects]
            boxes = geometry.clip(boxes, sizes[image])
        return geometry.place(self.augmentation, self.key, positions, sizes, boxes, image)

    def _targets(self, images: pa.RecordBatch, placement: geometry.Placement) -> Arrays:
        """What the images teach: their boxes on the canvas with the classes each of them knows."""
        count, classes = images.num_rows, self.supervision.num_classes
        boxes, offsets = ragged(images.column("boxes"))
        flags, _ = ragged(images.column("flags"))
        image = np.repeat(np.arange(count), np.diff(offsets))
        boxes = geometry.clip(boxes, _sizes(images)[image])
        ever = geometry.trained(flags)
        seen, region = placement.seen(boxes, image, geometry.region(flags))
        kept = ever & seen

        dataset = images.column("dataset").to_numpy()
        starts = np.cumsum([0, *(len(table) for table in self.maps)])
        unified = np.concatenate(self.maps)
        labels, label_box = box_labels(images.column("labels"))
        labels = unified[starts[dataset[image[label_box]]] + labels]
        multi_hot = np.zeros((len(boxes), classes), bool)
        multi_hot[label_box, labels] = True

        def verified(name: str) -> tuple[np.ndarray, np.ndarray]:
            values, bounds = ragged(images.column(name))
            return unified[starts[np.repeat(dataset, np.diff(bounds))] + values], bounds

        # Where only verified labels tell what is absent, an image's own boxes count as verified; elsewhere they add
        # nothing to the dataset's own classes, and must not spread to ancestors that it does not annotate.
        speaks = ever & ~self.supervision.labelled[dataset].any(axis=1)[image]
        own = speaks[label_box]
        boxed = labels[own], np.cumsum([0, *np.bincount(image[label_box[own]], minlength=count)])
        absence_known = self.supervision.image_known(
            dataset, verified("verified_positive"), verified("verified_negative"), boxed
        )
        targets, known = self.supervision.box_targets(multi_hot[kept], image[kept], absence_known)
        region = region[kept]
        known[region] = self.supervision.region_known(multi_hot[kept][region])
        return {
            "boxes": placement.move(boxes[kept], image[kept]),
            "box_image": image[kept],
            "classes": targets,
            "classes_known": known,
            "region": region,
            "absence_known": absence_known,
        }

    def _pictures(
        self,
        images: pa.RecordBatch,
        originals: np.ndarray,
        placement: geometry.Placement,
        positions: np.ndarray,
        height: int,
        width: int,
    ) -> np.ndarray:
        """uint8 [B, H, W, 3]: the decoded images on the canvas, the rest of it in the fill colour."""
        # Arrow's memory pool hands the memory of earlier batches out again; numpy would get it from the system anew
        memory = pa.allocate_buffer(images.num_rows * height * width * 3)
        canvas = np.frombuffer(memory, np.uint8).reshape(-1, height, width, 3)
        fill = np.tile(np.array(self.augmentation.fill, np.uint8), width)
        colours = distortions(self.augmentation, self.key, positions)
        paths = images.column("path").to_pylist()
        offsets, lengths = (images.column(name).fill_null(-1).to_numpy() for name in ("offset", "length"))
        for row, path in enumerate(paths):
            h, w = placement.sizes[row].tolist()
            lines = canvas[row].reshape(height, width * 3)  # whole lines are copied, not pixels
            if placement.place[row].tolist() != [0, 0, w, h]:
                lines[:h] = fill
            lines[:h, w * 3 :] = fill[w * 3 :]
            lines[h:] = fill
            original = (int(originals[row, 0]), int(originals[row, 1]))
            try:
                data = read_image(path, int(offsets[row]), int(lengths[row]))
                draw(canvas[row], data, original, placement, row, colours[row])
            except BadImage as error:
                name = images.column("image_id")[row].as_py()
                raise InputError(
                    path,
                    f"the image ({name}) is not what was ingested: {error}",
                    "Restore the file, or ingest the dataset again into a new folder",
                ) from error
        return canvas


def read_image(path: str, offset: int, length: int) -> bytes:
    """The bytes of an encoded image: of a file, or with ``offset`` >= 0 of a range of one (a packed image).

    Raises:
        InputError: the file is gone, cannot be read, or ends before the range does.
    """
    try:
        if "://" not in path:
            with open(path, "rb") as file:
                file.seek(max(offset, 0))
                data = file.read() if offset < 0 else file.read(length)
        else:
            scheme, rest = path.split("://", 1)
            bucket, slash, key = rest.partition("/")
            fs, root = _bucket(f"{scheme}://{bucket}{slash}")
            with fs.open_input_file(f"{root.rstrip('/')}/{key}") as stream:
                data = bytes(stream.read() if offset < 0 else stream.read_at(length, offset))
    except OSError as error:
        raise InputError(
            path, f"the image cannot be read ({error})", "Restore the file, or ingest the dataset again"
        ) from error
    if offset >= 0 and len(data) < length:
        raise InputError(
            path, f"the pack ends before byte {offset + length}", "Restore it, or ingest the dataset again"
        )
    return data


@lru_cache(maxsize=4)
def _mapped(path: Path) -> pa.RecordBatch:
    return map_file(path)


@lru_cache(maxsize=64)
def _bucket(uri: str) -> tuple[pafs.FileSystem, str]:
    """One client a bucket and process: making one costs more than reading an image."""
    return storage.locate(uri)


def _sizes(images: pa.RecordBatch) -> np.ndarray:
    """int64 [B, 2], (height, width)."""
    return np.stack([images.column("height").to_numpy(), images.column("width").to_numpy()], axis=1).astype(np.int64)
