"""From rows of the plan to finished batches of numpy arrays. Torch-free: it runs in data tasks.

One function for every executor, so that they cannot differ by a bit. Letters: B images of this rank's part of the
global batch, N their boxes, C unified classes, D selections.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from xray_det import storage
from xray_det.data import geometry
from xray_det.data.annotations import Source, image_sizes, ragged
from xray_det.data.augmentation import Augmentation
from xray_det.data.images import BadImage
from xray_det.data.randomness import Key
from xray_det.data.targets import of_batch, targets
from xray_det.data.transforms import distortions, draw
from xray_det.data.wire import Arrays
from xray_det.errors import InputError
from xray_det.labels.supervision import Supervision


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """All that a process needs to turn rows of a plan into batches; small, and picklable.

    Attributes:
        annotations: where the rows are (data/annotations.py).
        maps: for each selection int32 [C_d], unified row of each class of its dataset.
        supervision: row d of its ``labelled`` is selection d.
        augmentation: sizes and random changes.
        key: seed, phase, epoch.
    """

    annotations: Source
    maps: tuple[np.ndarray, ...]
    supervision: Supervision
    augmentation: Augmentation
    key: Key

    def assemble(self, rows: np.ndarray, first: int, part: slice) -> Iterator[tuple[Arrays, list[str]]]:
        """One rank's part of consecutive global batches, one after the other.

        Everything but pixels is computed for all of them at once: numpy's calls cost more than their work.

        Args:
            rows: int64 [batches, global B], row numbers of the annotations.
            first: position in the plan of the first image.
            part: which B images of each global batch this rank takes.

        Yields:
            arrays (images uint8 [B, H, W, 3] and, as in data/batch.py, sizes, scales, original_sizes, positions, boxes,
            box_image, classes, classes_known, region, absence_known), and the image ids of the part.

        Raises:
            InputError: an image cannot be read or is not what was ingested.
        """
        everything = self.annotations.batch()
        count, whole = rows.shape
        everywhere = self._place(everything, rows.reshape(-1), first + np.arange(count * whole))
        own = np.arange(count * whole).reshape(count, whole)[:, part]
        share = own.shape[1]
        images = everything.take(pa.array(rows[:, part].reshape(-1)))
        placement = everywhere.rows(own.reshape(-1))
        found = targets(images, placement, self.maps, self.supervision)
        originals, scales = image_sizes(images), placement.scales().astype(np.float32)
        ids = images.column("image_id").to_pylist()
        colours = distortions(self.augmentation, self.key, first + own.reshape(-1))
        for number in range(count):
            mine = slice(number * share, (number + 1) * share)
            canvas = everywhere.rows(slice(number * whole, (number + 1) * whole)).canvas(self.augmentation.multiple)
            arrays = of_batch(found, mine.start, mine.stop) | {
                "sizes": placement.sizes[mine],
                "scales": scales[mine],
                "original_sizes": originals[mine],
                "positions": first + own[number],
                "images": self._pictures(images.slice(mine.start, share), placement.rows(mine), colours[mine], canvas),
            }
            yield arrays, ids[mine]

    def _place(self, everything: pa.RecordBatch, rows: np.ndarray, positions: np.ndarray) -> geometry.Placement:
        """Where the images of the whole global batch go: other ranks' images count for the canvas."""
        crops = self.augmentation.iou_crop > 0
        columns = ["width", "height", "boxes", "flags"] if crops else ["width", "height"]
        images = everything.select(columns).take(pa.array(rows))
        sizes = image_sizes(images)
        boxes, image = np.empty((0, 4), np.float32), np.empty(0, np.int64)
        if crops:
            boxes, offsets = ragged(images.column("boxes"))
            flags, _ = ragged(images.column("flags"))
            image = np.repeat(np.arange(len(rows)), np.diff(offsets))
            objects = geometry.trained(flags) & ~geometry.region(flags)
            boxes, image = boxes[objects], image[objects]
            boxes = geometry.clip(boxes, sizes[image])
        return geometry.place(self.augmentation, self.key, positions, sizes, boxes, image)

    def _pictures(
        self,
        images: pa.RecordBatch,
        placement: geometry.Placement,
        colours: Sequence[np.ndarray | None],
        size: tuple[int, int],
    ) -> np.ndarray:
        """uint8 [B, H, W, 3]: the decoded images on the canvas, the rest of it in the fill colour."""
        height, width = size
        # Arrow's memory pool hands the memory of earlier batches out again; numpy would get it from the system anew
        memory = pa.allocate_buffer(images.num_rows * height * width * 3)
        canvas = np.frombuffer(memory, np.uint8).reshape(-1, height, width, 3)
        fill = np.tile(np.array(self.augmentation.fill, np.uint8), width)
        originals = image_sizes(images)
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
            with storage.open_file(path) as file:
                file.seek(max(offset, 0))
                data = file.read() if offset < 0 else file.read(length)
        else:
            fs, file_path = storage.locate(path)
            with fs.open_input_file(file_path) as stream:
                data = bytes(stream.read() if offset < 0 else stream.read_at(length, offset))
    except (OSError, InputError) as error:
        raise InputError(
            path,
            f"the image cannot be read ({getattr(error, 'problem', error)})",
            "Restore the file, or ingest the dataset again",
        ) from error
    if offset >= 0 and len(data) < length:
        raise InputError(
            path, f"the pack ends before byte {offset + length}", "Restore it, or ingest the dataset again"
        )
    return data
