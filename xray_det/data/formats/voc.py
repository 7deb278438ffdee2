"""Pascal VOC: one XML file an image, in ``Annotations/``, beside the images, or in any folder below.

Numbers are kept as they are published: VOC counts pixels from 1 and includes the last one, many files that call
themselves VOC do neither. A file is matched with its image by its own name; ``<filename>`` is often wrong.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from xray_det.data.defect import Defect, noted
from xray_det.data.formats.layout import (
    ABSOLUTE,
    Links,
    common_root,
    given_paths,
    inside,
    same_name,
    split_of_path,
    walk,
)
from xray_det.data.formats.rows import counts_to_offsets, published
from xray_det.data.formats.scratch import Buckets, scratch_folder
from xray_det.data.formats.voc_images import VocImages
from xray_det.data.formats.voc_lists import Placed, read_lists
from xray_det.data.formats.voc_xml import VocFile, looks_like_voc, read_voc_xml
from xray_det.data.schema import PUBLISHED
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.storage import open_file

_CHUNK = 512


class VocSource:
    """A VOC dataset; see ``source.Source``. All files are read once, when it is opened, to disk.

    Classes are the names found, sorted. An image's id is its file's name without suffix, or the whole path below the
    root where two folders hold the same name. Splits come from the lists in ``ImageSets/Main`` (``voc_lists``), else
    from a folder called so.

    Args:
        path: the dataset's folder, or XML files.
        images: look for the images; without them ``path`` is null and images without annotation are not known.

    Raises:
        InputError: nothing there, or a file that cannot be understood (``voc_xml.read_voc_xml``), or a split list.
    """

    format = "voc"
    normalized = False
    exhaustive = True
    findings: Sequence[tuple[Defect, str, str]]
    hierarchy: Hierarchy | None = None

    def __init__(self, path: Path | Sequence[Path], *, images: bool = True) -> None:
        paths = given_paths(path)
        self.root = common_root(paths)
        self.name, self.image_root = self.root.name, self.root
        files = sorted({xml for p in paths for xml in (walk(p, frozenset({".xml"})) if p.is_dir() else [p])})
        stems = [file.stem for file in files]
        self._unique = len(set(stems)) == len(stems)
        self._images = VocImages(self.root) if images else None
        self._lists = read_lists(self.root)
        self._links = Links(self.root)
        self._rows = Buckets(scratch_folder(self), "voc", PUBLISHED, 1, buffered=8 * _CHUNK)
        self._seen: dict[str, int] = {}  # class name -> its number in order of appearance
        placed = self._place(files)
        pending: list[_Read] = []
        total = 0
        for number, file in enumerate(files):
            read = read_voc_xml(file)
            if read is not None:
                pending.append(_Read(file, read, placed.splits[number], placed.notes.get(number, [])))
                total += 1
            if len(pending) == _CHUNK:
                self._spill(pending)
                pending = []
        self._spill(pending)
        if not total:
            raise InputError(self.root, "no VOC annotation (XML with the root <annotation>) below it", "Check the path")
        if self._images is not None:
            self._spill_unclaimed()
        self._rows.close()
        self.findings = [
            (kind, file.relative_to(self.root).as_posix(), said)
            for lists in self._lists.values()
            for kind, file, said in lists.findings()
        ]
        names = sorted(self._seen)
        self.space = LabelSpace(name=self.name, classes=tuple(Class(name=n, source_id=n) for n in names))
        self._row_of = np.array([names.index(n) for n in self._seen], np.int32)

    def batches(self, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """PUBLISHED batches of at most ``rows`` images, files in sorted order, images without annotation last."""
        for batch in self._rows.batches():
            for start in range(0, batch.num_rows, rows):
                piece = batch.slice(start, rows)
                labels = piece.column("labels")
                mapped = pa.array(self._row_of[labels.flatten().to_numpy()], pa.int32())
                offsets = labels.offsets.to_numpy()
                relabelled = pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), mapped)
                index = PUBLISHED.get_field_index("labels")
                yield piece.set_column(index, PUBLISHED.field("labels"), relabelled)

    def _id(self, file: Path) -> str:
        return file.stem if self._unique else file.relative_to(self.root).with_suffix("").as_posix()

    def _place(self, files: Sequence[Path]) -> Placed:
        """The split of each file, by the lists of the dataset folder it lies in, else by its folders' names."""
        placed = Placed(splits=[None] * len(files), notes={})
        homes: dict[str, tuple[Path | None, str | None]] = {}
        groups: dict[Path, list[int]] = {}
        for number, file in enumerate(files):
            folder = os.path.dirname(file)
            if folder not in homes:
                home = next((above for above in file.parents if above in self._lists), None)
                named = split_of_path(file.parent, self.root) if file.parent != self.root else None
                homes[folder] = home, named
            home, placed.splits[number] = homes[folder]
            if home is not None:
                groups.setdefault(home, []).append(number)
        for home, numbers in groups.items():
            listed = self._lists[home].place([files[number] for number in numbers])
            if not listed.lists:
                continue
            for number, split in zip(numbers, listed.splits, strict=True):
                placed.splits[number] = split
            placed.notes.update((numbers[row], notes) for row, notes in listed.notes.items())
        return placed

    def _spill(self, read: "Sequence[_Read]") -> None:
        paths: list[str | None] = []
        defects: list[list[str]] = []
        for file, voc, _, listed in read:
            path, notes = self._image(file, voc)
            if voc.fractions:
                said = f"all {len(voc.boxes)} boxes of {file.name} lie in 0 to 1: multiply them by the image's size"
                notes.append(noted(Defect.FRACTIONS, said))
            elif voc.zero_based:
                notes.append(noted(Defect.ZERO_BASED, f"{voc.zero_based} boxes begin at 0"))
            if voc.of_shapes:
                notes.append(noted(Defect.FROM_SEGMENTATION, f"{voc.of_shapes} of {len(voc.boxes)} boxes"))
            if (outside := self._links.outside(file)) is not None:
                notes.append(noted(Defect.OUTSIDE_LINK, f"its annotation lies at {outside}"))
            paths.append(path)
            defects.append(notes + listed)
        names = [name for one in read for name in one.voc.names]
        for name in names:
            self._seen.setdefault(name, len(self._seen))
        self._add(
            published(
                image_id=[self._id(one.file) for one in read],
                split=[one.split for one in read],
                path=paths,
                size=([one.voc.width for one in read], [one.voc.height for one in read]),
                offsets=counts_to_offsets([len(one.voc.boxes) for one in read]),
                boxes=np.array([box for one in read for box in one.voc.boxes], np.float64).reshape(-1, 4),
                flags=np.array([flag for one in read for flag in one.voc.flags], np.uint16),
                labels=np.array([self._seen[name] for name in names], np.int32),
                defects=defects,
            )
        )

    def _image(self, file: Path, voc: VocFile) -> tuple[str | None, list[str]]:
        """Where the image of an annotation file lies, below the root, and what is to be noted of it."""
        if self._images is None:
            return None, []
        absolute = ABSOLUTE.match(voc.file_name) is not None  # a path on another machine: its last part counts
        given = voc.file_name.replace("\\", "/") if absolute else inside(voc.file_name, f"{file}: <filename>")
        named = PurePosixPath(given).name
        found = self._images.claim(file, named)
        if found is None:
            near = self._images.most_similar(file)
            beside = f"; the most similar name there is {near}" if near else ""
            return None, [noted(Defect.MISSING_IMAGE, f"no image for {file.relative_to(self.root)}{beside}")]
        if absolute or not same_name(named, found.name):
            return found.as_posix(), [noted(Defect.WRONG_FILE_NAME, f"<filename> is {voc.file_name!r}")]
        return found.as_posix(), []

    def _spill_unclaimed(self) -> None:
        """Images that no XML speaks of, from folders in which some image has one, as rows without boxes."""
        assert self._images is not None
        left = [self.root / path for path in self._images.unclaimed()]
        splits = self._place(left).splits
        for start in range(0, len(left), _CHUNK):
            files = left[start : start + _CHUNK]
            paths = [file.relative_to(self.root).as_posix() for file in files]
            self._add(
                published(
                    image_id=paths,  # with its suffix: it must not meet the id of an annotated image
                    split=splits[start : start + _CHUNK],
                    path=paths,
                    size=([None] * len(files), [None] * len(files)),
                    offsets=np.zeros(len(files) + 1, np.int64),
                    boxes=np.empty((0, 4)),
                    flags=np.empty(0, np.uint16),
                    labels=np.empty(0, np.int32),
                    defects=[[noted(Defect.NO_ANNOTATION, "no XML of its name")] for _ in files],
                )
            )

    def _add(self, rows: pa.RecordBatch) -> None:
        self._rows.add(rows, np.zeros(rows.num_rows, np.int64))


class _Read(NamedTuple):
    file: Path
    voc: VocFile
    split: str | None
    listed: list[str]  # notes of the lists


def voc_files(paths: Sequence[Path]) -> list[Path]:
    """The first VOC annotation among some paths, for telling the format, else an XML that cannot be opened: the reader
    says what is wrong with it. Empty when there is none."""
    broken: list[Path] = []
    for path in paths:
        files = walk(path, frozenset({".xml"})) if path.is_dir() else [path] if path.suffix.lower() == ".xml" else []
        for file in islice(files, 50):  # beyond: project files of an editor
            try:
                with open_file(file) as stream:
                    if looks_like_voc(stream.read(4096)):
                        return [file]
            except InputError:
                broken.append(file)
    return broken[:1]
