"""Open Images and its Challenge: box CSVs, one a split, with image-level labels, class descriptions and a hierarchy.

The files are streamed and their rows dealt out to disk by image, then put together bucket by bucket. Boxes are
fractions of the image. A class is known to be absent from an image only where a person verified it.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from xray_det.data.defect import Defect, noted
from xray_det.data.formats.image_finder import ImageFinder
from xray_det.data.formats.layout import IMAGE_FOLDERS, common_root, given_paths, inside, split_of, split_of_path, walk
from xray_det.data.formats.open_images_csv import (
    CORNERS,
    Kind,
    header_of,
    kind_of,
    read_boxes,
    read_classes,
    read_hierarchy,
    read_labels,
    read_list,
)
from xray_det.data.formats.rows import counts_to_offsets, published, ragged
from xray_det.data.formats.scratch import Buckets, scratch_folder
from xray_det.data.ragged import elements
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace

_BUCKET_BYTES = 8 << 20  # of CSV
_MOST_BUCKETS = 200
_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".JPEG", ".PNG", ".webp", ".bmp", ".tif", ".tiff")
_LARGEST_FRACTION: Final = 2.0  # a box may reach a little outside its image
_PLACE: Final = [("id", pa.string()), ("split", pa.int8())]
_BOXES: Final = pa.schema(
    [*_PLACE, ("code", pa.int32()), *[(corner, pa.float64()) for corner in CORNERS], ("flags", pa.uint16())]
)
_LABELS: Final = pa.schema([*_PLACE, ("code", pa.int32()), ("positive", pa.bool_())])
_LIST: Final = pa.schema(_PLACE)


class OpenImagesSource:
    """An Open Images release, or some of its files; see ``source.Source``. All files are read once, when it is opened.

    Classes are those of the class descriptions, in their order (of several files the smallest that knows every class of
    the boxes), else the labels met, sorted. An image may have image-level labels alone. An image that is only listed
    (``…-images-with-rotation.csv``) counts where its file is found. Image-level labels of classes that are not
    described verify what no box can be, and are left out.

    Args:
        path: the release's folder, or the files of it that are meant.
        images: look for the images; without them ``path`` is null.

    Raises:
        InputError: a wrong header, a number that is none, a box of an unknown class, an image in two splits, nothing
            there at all.
    """

    format = "open_images"
    normalized = True
    exhaustive = False
    findings: Sequence[tuple[Defect, str, str]] = ()
    hierarchy: Hierarchy | None

    def __init__(self, path: Path | Sequence[Path], *, images: bool = True) -> None:
        paths = given_paths(path)
        self.root = common_root(paths)
        self.name, self.image_root = self.root.name, self.root
        files = _sorted_out(paths)
        if not any(files[kind] for kind in (Kind.BOXES, Kind.LABELS, Kind.LIST)):
            raise InputError(
                self.root, f"no Open Images CSV below it ({csvs_seen(paths)})", "Give CSVs with Open Images' header"
            )
        self._finder = ImageFinder(self.root, []) if images else None
        size = sum(file.stat().st_size for kind in (Kind.BOXES, Kind.LABELS, Kind.LIST) for file in files[kind])
        self._count = min(max(1, size // _BUCKET_BYTES), _MOST_BUCKETS)
        folder = scratch_folder(self)
        self._boxes = Buckets(folder, "boxes", _BOXES, self._count)
        self._labels = Buckets(folder, "labels", _LABELS, self._count)
        self._list = Buckets(folder, "list", _LIST, self._count)
        self._split_names: list[str] = []
        self._codes: defaultdict[str, int] = defaultdict(count().__next__)  # class id -> order of appearance
        self._suffix = _SUFFIXES[0]
        rows = sum(self._read_boxes(file) for file in files[Kind.BOXES])
        boxed = len(self._codes)
        rows += sum(self._read_labels(file) for file in files[Kind.LABELS])
        listed = sum(self._read_list(file) for file in files[Kind.LIST])
        for buckets in (self._boxes, self._labels, self._list):
            buckets.close()
        if not rows and not (listed and images and any(batch.num_rows for batch in self._listed_alone())):
            raise InputError(self.root, "the dataset is empty: its CSVs hold no rows", "Give the release's CSVs")
        self.space = self._class_table(files[Kind.CLASSES], list(self._codes)[:boxed])
        self._row_of_code = np.array([self.space.row_of_id.get(one, -1) for one in self._codes], np.int32)
        self.hierarchy = self._find_hierarchy(files[Kind.HIERARCHY])

    def _split_code(self, split: str | None) -> int:
        if split is None:
            return -1
        if split not in self._split_names:
            self._split_names.append(split)
        return self._split_names.index(split)

    def _read_boxes(self, file: Path) -> int:
        split, total, boxes, pixels = self._split_code(split_of_path(file, self.root)), 0, 0, True
        for block in read_boxes(file):
            code = self._coded(block.column("LabelName"))
            corners = [block.column(corner) for corner in CORNERS]
            boxed = [column.is_valid().to_numpy(zero_copy_only=False) for column in corners]
            nothing = (code < 0) & ~np.logical_or.reduce(boxed)  # a row that only names an image
            bad = np.flatnonzero((code < 0) & ~nothing)
            if len(bad):
                row = block.slice(int(bad[0]), 1).to_pylist()[0]
                raise InputError(file, f"a box of image {row['ImageID']} has no LabelName", "Name its class")
            ids = self._ids(block.column("ImageID"), file)
            place = [ids, pa.array(np.full(len(ids), split, np.int8))]
            numbers = [pa.array(column.to_numpy(zero_copy_only=False)) for column in corners]  # null becomes NaN
            reach = np.fmax.reduce([n.to_numpy() for n in numbers])[~nothing]
            pixels = pixels and bool(((reach > _LARGEST_FRACTION) & np.isfinite(reach)).all())
            table = pa.RecordBatch.from_arrays(
                [*place, pa.array(code, pa.int32()), *numbers, block.column("flags")], schema=_BOXES
            )
            self._boxes.add(table.filter(pa.array(~nothing)), self._bucket(ids)[~nothing])
            alone = pa.RecordBatch.from_arrays(
                [*place, pa.array(code, pa.int32()), pa.array(np.ones(len(ids), bool))], schema=_LABELS
            ).filter(pa.array(nothing))
            self._labels.add(alone, self._bucket(ids)[nothing])  # code -1: an image and no label
            total += block.num_rows
            boxes += int((~nothing).sum())
        if boxes and pixels:
            raise InputError(
                file,
                f"every box reaches beyond {_LARGEST_FRACTION:g}: pixels, where fractions of the image are due",
                "Divide XMin and XMax by the image's width, YMin and YMax by its height",
            )
        return total

    def _read_labels(self, file: Path) -> int:
        split, total = self._split_code(split_of_path(file, self.root)), 0
        for block in read_labels(file):
            ids = self._ids(block.column("ImageID"), file)
            table = pa.RecordBatch.from_arrays(
                [
                    ids,
                    pa.array(np.full(len(ids), split, np.int8)),
                    pa.array(self._coded(block.column("LabelName")), pa.int32()),
                    block.column("positive"),
                ],
                schema=_LABELS,
            )
            self._labels.add(table, self._bucket(ids))
            total += block.num_rows
        return total

    def _read_list(self, file: Path) -> int:
        split, total = split_of_path(file, self.root), 0
        for ids, subsets in read_list(file):
            codes = [self._split_code(split_of(subset) or split) for subset in subsets]
            named = self._ids(pa.array(ids, pa.string()), file)
            self._list.add(
                pa.RecordBatch.from_arrays([named, pa.array(codes, pa.int8())], schema=_LIST), self._bucket(named)
            )
            total += len(ids)
        return total

    def _coded(self, names: pa.Array) -> np.ndarray:
        """Codes of class ids, -1 for none, int64 [N]."""
        encoded = names.dictionary_encode()
        codes = np.array([self._codes[name] for name in encoded.dictionary.to_pylist()] + [-1], np.int64)
        return np.asarray(codes[encoded.indices.fill_null(len(codes) - 1).to_numpy()])

    def _ids(self, ids: pa.Array, file: Path) -> pa.Array:
        if ids.null_count:
            raise InputError(file, "a row has no ImageID", "Name its image")
        return ids

    def _bucket(self, ids: pa.Array) -> np.ndarray:
        encoded = ids.dictionary_encode()
        dealt = [zlib.crc32(name.encode()) % self._count for name in encoded.dictionary.to_pylist()]
        return np.asarray(np.array(dealt, np.int64)[encoded.indices.to_numpy()])

    def _class_table(self, files: Sequence[Path], boxed: Sequence[str]) -> LabelSpace:
        """The class descriptions that fit; ``boxed`` are the class ids of boxes.

        Raises:
            InputError: a box's class is in none of them; two classes share a name.
        """
        if not files:
            classes = tuple(Class(name=one, source_id=one) for one in sorted(self._codes))
            return LabelSpace(name=self.name, classes=classes)
        tables = sorted(((len(table := read_classes(file)), file, table) for file in files), key=lambda entry: entry[0])
        missing: list[str] = []
        for _, file, table in tables:
            missing = sorted(set(boxed) - {identity for identity, _ in table})
            if not missing:
                described = tuple(Class(name=name, source_id=identity) for identity, name in table)
                LabelSpace(name=str(file), classes=described)  # what is wrong with it, it says of its file
                return LabelSpace(name=self.name, classes=described)
        raise InputError(
            tables[-1][1], f"boxes are of the unknown class {missing[0]!r}", "Describe it, or remove its boxes"
        )

    def _find_hierarchy(self, files: Sequence[Path]) -> Hierarchy | None:
        """Of several hierarchies the one that knows most of the classes."""
        found = [Hierarchy.from_open_images(read_hierarchy(file)) for file in files]
        own = set(self.space.row_of_id)
        return max(found, key=lambda hierarchy: len(own & set(hierarchy.ids)), default=None)

    def batches(self, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """PUBLISHED batches of at most ``rows`` images, in order of appearance within a bucket."""
        for bucket in range(self._count):
            boxes, labels, listed = (b.read(bucket) for b in (self._boxes, self._labels, self._list))
            yield from self._grouped(boxes, labels, listed, rows)

    def _listed_alone(self) -> Iterator[pa.RecordBatch]:
        """What a release without boxes and labels holds: listed images whose files are there."""
        self._row_of_code = np.empty(0, np.int32)
        for bucket in range(self._count):
            yield from self._grouped(_BOXES.empty_table(), _LABELS.empty_table(), self._list.read(bucket), 1024)

    def _grouped(self, boxes: pa.Table, labels: pa.Table, listed: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
        pieces = [table.column("id").combine_chunks() for table in (boxes, labels, listed)]
        pieces = [p.combine_chunks() if isinstance(p, pa.ChunkedArray) else p for p in pieces]
        encoded = pa.concat_arrays(pieces).dictionary_encode()  # in order of appearance
        ids, image = encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
        of_box, of_label, _ = np.split(image, np.cumsum([len(piece) for piece in pieces])[:2])
        splits = self._splits(ids, image, [table["split"].to_numpy() for table in (boxes, labels, listed)])
        known = np.zeros(len(ids), bool)
        known[of_box] = known[of_label] = True
        paths, keep = self._paths(ids, splits, known)

        order = np.argsort(of_box, kind="stable")
        offsets = counts_to_offsets(np.bincount(of_box, minlength=len(ids)))
        corners = np.stack([boxes[corner].to_numpy() for corner in CORNERS], axis=1)[order]
        flags, rows_of_class = boxes["flags"].to_numpy()[order], self._row_of_code[boxes["code"].to_numpy()[order]]
        positive, negative = (self._verified(labels, of_label, len(ids), sign) for sign in (True, False))
        for start in range(0, len(keep), rows):
            chosen = keep[start : start + rows]
            counts = offsets[chosen + 1] - offsets[chosen]
            own = counts_to_offsets(counts)
            _, at = elements(offsets[chosen], counts)
            missing = [[noted(Defect.MISSING_IMAGE, f"no file for {ids[i]}")] if not paths[i] else [] for i in chosen]
            yield published(
                image_id=[ids[i] for i in chosen],
                split=[splits[i] for i in chosen],
                path=[paths[i] for i in chosen],
                size=([None] * len(chosen), [None] * len(chosen)),
                offsets=own,
                boxes=corners[at],
                flags=flags[at],
                labels=rows_of_class[at],
                positive=positive.take(pa.array(chosen)),
                negative=negative.take(pa.array(chosen)),
                defects=missing if self._finder is not None else None,
            )

    def _splits(self, ids: list[str], image: np.ndarray, codes: Sequence[np.ndarray]) -> list[str | None]:
        """Each image's split, from whichever file names one.

        Raises:
            InputError: an image stands in two splits.
        """
        every = np.concatenate(codes).astype(np.int64)
        most = np.full(len(ids), -1, np.int64)
        least = np.full(len(ids), 127, np.int64)
        np.maximum.at(most, image, every)
        np.minimum.at(least, image[every >= 0], every[every >= 0])
        torn = np.flatnonzero((most >= 0) & (least != most))
        if len(torn):
            first, second = (self._split_names[code[torn[0]]] for code in (least, most))
            raise InputError(
                self.root, f"image {ids[torn[0]]} stands in {first} and in {second}", "Remove it from one of them"
            )
        return [None if code < 0 else self._split_names[code] for code in most]

    def _paths(
        self, ids: list[str], splits: list[str | None], known: np.ndarray
    ) -> tuple[list[str | None], np.ndarray]:
        """Where each image lies, and which images count: all that a box or label speaks of, and listed ones found."""
        paths: list[str | None] = [None] * len(ids)
        for row, identity in enumerate(ids):
            name = inside(identity, f"{self.root}: ImageID")
            if self._finder is None or not name.name:  # "." names no file
                continue
            for suffix in dict.fromkeys(["" if name.suffix else self._suffix, self._suffix, *_SUFFIXES]):
                found = self._finder.find(name.with_name(name.name + suffix), splits[row], self.root)
                if found is not None:
                    paths[row], self._suffix = found, suffix or self._suffix
                    break
        found_too = known | np.array([path is not None for path in paths], bool)
        return paths, np.flatnonzero(found_too)

    def _verified(self, labels: pa.Table, image: np.ndarray, images: int, positive: bool) -> pa.ListArray:
        """Image-level labels of one sign by image, each once, as class rows in rising order."""
        code = labels["code"].to_numpy()
        row = np.where(code >= 0, np.append(self._row_of_code, -1)[code], -1)
        own = (row >= 0) & (labels["positive"].to_numpy() == positive)
        pairs = np.unique(np.stack([image[own], row[own]], axis=1), axis=0)
        offsets = counts_to_offsets(np.bincount(pairs[:, 0], minlength=images))
        return ragged(pa.array(pairs[:, 1].astype(np.int32)), offsets)


def _tables(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """CSV and JSON files, and whether each was named by the caller."""
    for path in paths:
        if path.is_file():
            yield path, True
            continue
        for file in walk(path, frozenset({".csv", ".json"}), depth=3, without=frozenset(IMAGE_FOLDERS)):
            yield file, False


def _sorted_out(paths: Sequence[Path]) -> dict[Kind, list[Path]]:
    """The files by what they hold.

    Raises:
        InputError: a file that was named holds nothing of the kind, or is called as one of boxes or image-level labels
            and is none.
    """
    files: dict[Kind, list[Path]] = {kind: [] for kind in Kind}
    for file, named in _tables(paths):
        kind, called = kind_of(file), _CALLED.search(file.name)
        if kind is not None and (called is None or kind in (Kind.BOXES, Kind.LABELS)):
            files[kind].append(file)
        elif named or called:
            rest = "Confidence" if called and called["labels"] else "XMin, XMax, YMin, YMax"
            raise InputError(
                f"{file}: row 1",
                f"the header is {','.join(header_of(file))[:200]!r}",
                f"Give Open Images' columns: ImageID, LabelName, {rest}",
            )
    return files


#: How files of boxes and of image-level labels are called: with another header they would be left out without a word.
_CALLED: Final = re.compile(r"-bbox[\w-]*\.csv$|detections\.csv$|-(?P<labels>imagelabels)[\w-]*\.csv$")


def csvs_seen(paths: Sequence[Path]) -> str:
    """How the first CSVs begin, for a message."""
    found = [
        f"{file.name} begins {','.join(header_of(file))[:80]!r}" for file, _ in _tables(paths) if file.suffix == ".csv"
    ]
    return "; ".join(found[:3]) or "no CSV at all"


def open_images_files(paths: Sequence[Path]) -> list[Path]:
    """The files by which a folder is known as Open Images, for telling the format; empty when there is none."""
    found = []
    for file, _ in _tables(paths):
        if file.suffix.lower() == ".csv":
            try:
                kind = kind_of(file)
            except InputError:  # said again, in full, when the reader opens it
                kind = Kind.BOXES
            if kind in (Kind.BOXES, Kind.LABELS, Kind.LIST):
                found.append(file)
    return found
