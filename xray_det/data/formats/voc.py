"""Pascal VOC: one XML file an image, in ``Annotations/``, beside the images, or in any folder below.

Numbers are kept as they are published: VOC counts pixels from 1 and includes the last one, many files that call
themselves VOC do neither. A file is matched with its image by its own name; ``<filename>`` is often wrong.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from xray_det.data.defect import Defect, noted
from xray_det.data.formats.layout import common_root, given_paths, inside, split_of_path, walk
from xray_det.data.formats.rows import counts_to_offsets, published
from xray_det.data.formats.scratch import Buckets, scratch_folder
from xray_det.data.formats.voc_images import VocImages
from xray_det.data.formats.voc_xml import VocFile, read_voc_xml
from xray_det.data.schema import PUBLISHED
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.storage import open_file, read_file

_LISTS = ("train", "val", "test", "trainval")  # an image in several lists: the first of these
_CHUNK = 512


class VocSource:
    """A VOC dataset; see ``source.Source``. All files are read once, when it is opened, to disk.

    Classes are the names found, sorted. An image's id is its file's name without suffix, or the whole path below the
    root where two folders hold the same name. Splits come from ``ImageSets/Main/{train,val,test,trainval}.txt``,
    else from a folder called so.

    Args:
        path: the dataset's folder, or XML files.
        images: look for the images; without them ``path`` is null and images without annotation are not known.

    Raises:
        InputError: nothing there, or a file that cannot be understood (``voc_xml.read_voc_xml``).
    """

    format = "voc"
    normalized = False
    exhaustive = True
    hierarchy: Hierarchy | None = None

    def __init__(self, path: Path | Sequence[Path], *, images: bool = True) -> None:
        paths = given_paths(path)
        self.root = common_root(paths)
        self.name, self.image_root = self.root.name, self.root
        files = sorted({xml for p in paths for xml in (walk(p, frozenset({".xml"})) if p.is_dir() else [p])})
        stems = [file.stem for file in files]
        self._unique = len(set(stems)) == len(stems)
        self._images = VocImages(self.root) if images else None
        self._lists = _split_lists(self.root)
        self._rows = Buckets(scratch_folder(self), "voc", PUBLISHED, 1, buffered=8 * _CHUNK)
        self._seen: dict[str, int] = {}  # class name -> its number in order of appearance
        pending: list[tuple[Path, VocFile]] = []
        total = 0
        for file in files:
            read = read_voc_xml(file)
            if read is not None:
                pending.append((file, read))
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

    def _split(self, file: Path) -> str | None:
        for folder in file.parents:
            lists = self._lists.get(folder)
            if lists is not None:
                return lists.get(file.stem)
            if folder == self.root:
                break
        return split_of_path(file.parent, self.root) if file.parent != self.root else None

    def _spill(self, read: Sequence[tuple[Path, VocFile]]) -> None:
        paths: list[str | None] = []
        defects: list[list[str]] = []
        for file, voc in read:
            named = inside(voc.file_name, f"{file}: <filename>").name if voc.file_name else ""
            path, notes = None, []
            if self._images is not None:
                found = self._images.claim(file, named)
                if found is None:
                    notes.append(noted(Defect.MISSING_IMAGE, f"no image for {file.relative_to(self.root)}"))
                else:
                    path = found.as_posix()
                    if named != found.name:
                        notes.append(noted(Defect.WRONG_FILE_NAME, f"<filename> is {voc.file_name!r}"))
            if voc.zero_based:
                notes.append(noted(Defect.ZERO_BASED, f"{voc.zero_based} boxes begin at 0"))
            paths.append(path)
            defects.append(notes)
        names = [name for _, voc in read for name in voc.names]
        for name in names:
            self._seen.setdefault(name, len(self._seen))
        self._add(
            published(
                image_id=[self._id(file) for file, _ in read],
                split=[self._split(file) for file, _ in read],
                path=paths,
                size=([voc.width for _, voc in read], [voc.height for _, voc in read]),
                offsets=counts_to_offsets([len(voc.boxes) for _, voc in read]),
                boxes=np.array([box for _, voc in read for box in voc.boxes], np.float64).reshape(-1, 4),
                flags=np.array([flag for _, voc in read for flag in voc.flags], np.uint16),
                labels=np.array([self._seen[name] for name in names], np.int32),
                defects=defects,
            )
        )

    def _spill_unclaimed(self) -> None:
        """Images that no XML speaks of, from folders in which some image has one, as rows without boxes."""
        assert self._images is not None
        left = [self.root / path for path in self._images.unclaimed()]
        for start in range(0, len(left), _CHUNK):
            files = left[start : start + _CHUNK]
            paths = [file.relative_to(self.root).as_posix() for file in files]
            self._add(
                published(
                    image_id=paths,  # with its suffix: it must not meet the id of an annotated image
                    split=[self._split(file) for file in files],
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


def _split_lists(root: Path) -> dict[Path, dict[str, str]]:
    """For each dataset folder with ``ImageSets/Main``: image name -> split."""
    lists: dict[Path, dict[str, str]] = {}
    for file in walk(root, frozenset({".txt"}), depth=4):
        if file.parent.name == "Main" and file.parent.parent.name == "ImageSets" and file.stem in _LISTS:
            lists.setdefault(file.parents[2], {})
    for folder, splits in lists.items():
        for split in reversed(_LISTS):
            file = folder / "ImageSets" / "Main" / f"{split}.txt"
            if file.exists():
                splits.update(dict.fromkeys(_first_words(read_file(file).decode().splitlines()), split))
    return lists


def _first_words(lines: Iterable[str]) -> Iterator[str]:
    return (words[0] for words in map(str.split, lines) if words)


def voc_files(paths: Sequence[Path]) -> list[Path]:
    """The first VOC annotation among some paths, for telling the format; empty when there is none."""
    for path in paths:
        files = walk(path, frozenset({".xml"})) if path.is_dir() else iter([path] if path.suffix == ".xml" else [])
        for number, file in enumerate(files):
            if number == 50:  # other XML: project files of an editor
                break
            with open_file(file) as stream:
                if b"<annotation" in stream.read(4096):
                    return [file]
    return []
