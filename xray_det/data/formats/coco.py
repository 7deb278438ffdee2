"""COCO JSON, and what is written like it: Objects365 v1 and v2, LVIS, TACO, WIDER Pedestrian.

One pass over each file deals images and annotations out to disk by image id, so that memory does not grow with the
file; a second one puts the rows of an image together, bucket by bucket. Small datasets are one bucket and keep the
published order of their images.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det.data.defect import Defect, noted
from xray_det.data.formats import lvis
from xray_det.data.formats.coco_json import (
    ANNOTATIONS,
    FROM_SEGMENTATION,
    IMAGES,
    TYPES,
    Category,
    annotation_rows,
    image_rows,
)
from xray_det.data.formats.image_finder import ImageFinder
from xray_det.data.formats.json_stream import is_utf16, stream_arrays, top_level_arrays
from xray_det.data.formats.layout import (
    IMAGE_FOLDERS,
    LEAVES,
    common_root,
    given_paths,
    is_address,
    other_names,
    refuse_packed,
    same_name,
    split_of_path,
    walk,
)
from xray_det.data.formats.rows import counts_to_offsets, published
from xray_det.data.formats.scratch import Buckets, scratch_folder
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.storage import open_file

_BUCKET_BYTES = 24 << 20  # of JSON; read back, a bucket is a third of it
_MOST_BUCKETS = 200  # each keeps two files open


class CocoSource:
    """A dataset in COCO JSON, one file a split; see ``source.Source``. All files are read once, when it is opened.

    Published ``iscrowd`` is CROWD, ``ignore`` IGNORE, Objects365's ``isfake`` DEPICTION; ``area`` is kept. Without a
    ``bbox`` the box of the ``segmentation`` is taken, and noted. Where images list absent classes the format is
    ``lvis`` (lvis.py), and only annotations and these lists tell what an image holds.

    Image ids are text; where two files share one, ids begin with the split's name, or with that of the folder of images
    that a file is named after. File names may be addresses (layout.other_names). What the boxes of a file say of it
    (``Doubts``) is noted in each image that has one.

    Args:
        path: the dataset's folder, or its JSON files.
        images: look for the images; without them ``path`` is null.

    Raises:
        InputError: malformed or cut-off JSON, classes that share a name or differ between files, an annotation of an
            unknown class or image or without box and segmentation, an image id that stands for two images, a file name
            that leaves the folder, a packed file beside them. LVIS: an image without its lists, an unknown class in
            one, an annotation of a class that is listed as absent.
    """

    normalized = False
    findings: Sequence[tuple[Defect, str, str]] = ()
    hierarchy: Hierarchy | None = None

    def __init__(self, path: Path | Sequence[Path], *, images: bool = True) -> None:
        paths = given_paths(path)
        self.root = common_root(paths)
        self.name, self.image_root = self.root.name, self.root
        self._files = coco_files(paths) or [file for file in paths if file.is_file()]  # reading says what is wrong
        if not self._files:
            raise InputError(
                self.root, "no COCO JSON (an object with images and annotations) below it", "Check the path"
            )
        if any(path.is_dir() for path in paths):
            for folder in {file.parent for file in self._files}:
                refuse_packed([folder], depth=0, beside=".json")
        self._splits = [split_of_path(file, self.root) for file in self._files]
        self._subsets = [_subset(file, self.root) for file in self._files]
        self._finder = ImageFinder(self.root, [file.parent for file in self._files]) if images else None
        size = sum(file.stat().st_size for file in self._files if file.exists())  # reading names the others
        self._count = min(max(1, size // _BUCKET_BYTES), _MOST_BUCKETS)
        self.format, self.exhaustive = "coco", True  # until an image is read that lists absent classes
        folder = scratch_folder(self)
        self._images = Buckets(folder, "images", IMAGES, self._count)
        self._annotations = Buckets(folder, "annotations", ANNOTATIONS, self._count)
        # category ids in order of appearance get codes; which class a code is, is known when all files are read
        codes: defaultdict[int | str, int] = defaultdict(count().__next__)
        self._doubts = [Doubts() for _ in self._files]
        self._misnamed: dict[str, str] = {}  # where an image was found that is not at its published name -> that name
        tables = [self._read(number, file, codes) for number, file in enumerate(self._files)]
        self._images.close()
        self._annotations.close()
        if self.format == "coco":
            for file, table in zip(self._files, tables, strict=True):
                lvis.refuse_without_lists(table, file)
        boxed = {str(identity) for identity in codes}
        self.space = _class_table(self.name, list(zip(self._files, tables, strict=True)), self.format, boxed)
        self._row_of_code = self._resolve(codes)
        self._prefixes = self._distinct_prefixes() if len(self._files) > 1 and self._ids_collide() else None
        if any(doubts.corners for doubts in self._doubts):
            self._try_corners()

    def _read(self, number: int, file: Path, codes: "defaultdict[int | str, int]") -> list[Category]:
        """One file to disk; returns its categories."""
        categories: list[Category] = []
        seen = set[str]()
        images = 0
        for key, first, items in stream_arrays(file, TYPES):
            seen.add(key)
            if key == "categories":
                categories += items
            elif not items:
                continue
            elif key == "images":
                images += len(items)
                rows = image_rows(items, number, first, codes)
                if any(rows[column].null_count < len(items) for column in lvis.LISTS):
                    self.format, self.exhaustive = "lvis", False
                self._images.add(rows, self._bucket(rows))
            else:
                rows = annotation_rows(items, number, first, codes, file)
                self._doubts[number].see(rows)
                self._annotations.add(rows, self._bucket(rows))
        for key in ("images", "categories"):
            if key not in seen:
                raise InputError(file, f"it has no {key!r}", "Give the dataset's annotation JSON")
        if not images:
            raise InputError(file, "the dataset is empty: it lists no images", "Give the dataset's annotation JSON")
        return categories

    def _bucket(self, rows: pa.RecordBatch) -> np.ndarray:
        key = rows.column("key").to_numpy().view(np.uint64)
        mixed = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        return np.asarray(mixed.astype(np.int64) % self._count)

    def _resolve(self, codes: "defaultdict[int | str, int]") -> np.ndarray:
        """Class row by code; -1 where no file has such a category (refused when its annotation is met)."""
        self._ids_of_codes = [str(identity) for identity in codes]
        return np.array([self.space.row_of_id.get(identity, -1) for identity in self._ids_of_codes], np.int32)

    def _ids_collide(self) -> bool:
        """Whether an image id stands in two files.

        Raises:
            InputError: and the files have no names to tell them apart by.
        """
        for bucket in range(self._count):
            images = self._images.read(bucket)
            key, file = images["key"].to_numpy(), images["file"].to_numpy()
            order = np.lexsort([file, key])
            both = (key[order][1:] == key[order][:-1]) & (file[order][1:] != file[order][:-1])
            if both.any():
                if self._distinct_prefixes() is None:
                    at = int(order[1:][both][0])
                    raise InputError(
                        self.root,
                        f"image id {images['id'][at]} stands in two of {', '.join(f.name for f in self._files)}",
                        "Give the one file that is meant, or name each after its split",
                    )
                return True
        return False

    def _distinct_prefixes(self) -> list[str | None] | None:
        """Each file's split, else the folder of its own where its images lie; None where they do not tell all apart."""
        pairs = list(zip(self._splits, self._subsets, strict=True))
        for names in ([split or subset for split, subset in pairs], self._subsets):
            if None not in names and len(set(names)) == len(names):
                return names
        return None

    def _try_corners(self) -> None:
        """Keep the doubt that a file's boxes are corners only where the sizes of its images speak for it."""
        total, outside, fit = (np.zeros(len(self._files), np.int64) for _ in range(3))
        for bucket in range(self._count):
            images, annotations = self._without_repeats(self._images.read(bucket)), self._annotations.read(bucket)
            sides = np.stack([annotations[side].to_numpy() for side in ("x", "y", "w", "h")], axis=1)
            size = np.stack([images[side].to_numpy(zero_copy_only=False) for side in ("width", "height")], axis=1)
            edge = size[self._owners(images, annotations)].astype(np.float64) + 1  # NaN where none is published
            leaves = (sides[:, :2] + sides[:, 2:] > edge).any(axis=1)
            fits = (sides[:, 2:] <= edge).all(axis=1)
            file = annotations["file"].to_numpy()
            total += np.bincount(file, minlength=len(total))
            outside += np.bincount(file[leaves], minlength=len(total))
            fit += np.bincount(file[fits], minlength=len(total))
        for number, doubts in enumerate(self._doubts):
            fit_all, many_leave = fit[number] == total[number], outside[number] > CORNERS_SHARE * total[number]
            doubts.corners = doubts.corners and bool(fit_all and many_leave)

    def batches(self, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """PUBLISHED batches of at most ``rows`` images."""
        for bucket in range(self._count):
            images = self._images.read(bucket)
            yield from self._grouped(images, self._annotations.read(bucket), rows)

    def _grouped(self, images: pa.Table, annotations: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
        images = self._without_repeats(images)
        owner = self._owners(images, annotations)
        # sorting owner and place as one number is a third of the time of a stable argsort
        order = np.sort((owner << 32) | np.arange(len(owner))) & 0xFFFFFFFF
        offsets = counts_to_offsets(np.bincount(owner, minlength=images.num_rows))
        boxes = np.stack([annotations[side].to_numpy() for side in ("x", "y", "w", "h")], axis=1)[order]
        with np.errstate(invalid="ignore"):  # infinity less infinity, where that is published
            boxes[:, 2:] += boxes[:, :2]
        area = annotations["area"].to_numpy()[order]
        flags = annotations["flags"].to_numpy()[order]
        drawn = np.add.reduceat(np.append(flags & FROM_SEGMENTATION, 0) > 0, offsets[:-1], dtype=np.int64)
        drawn[np.diff(offsets) == 0] = 0  # reduceat gives the next image's first box
        flags = flags & ~np.uint16(FROM_SEGMENTATION)
        labels = self._row_of_code[annotations["code"].to_numpy()[order]]
        negative, not_exhaustive = self._lists(images, annotations, owner)
        for start in range(0, images.num_rows, rows):
            part = images.slice(start, rows)
            stop = start + part.num_rows
            span = slice(offsets[start], offsets[stop])
            ids, splits, paths, defects = self._named(part)
            self._note_boxes(part, defects, drawn[start:stop], np.diff(offsets[start : stop + 1]))
            yield published(
                image_id=ids,
                split=splits,
                path=paths,
                size=(part["width"].combine_chunks(), part["height"].combine_chunks()),
                offsets=offsets[start : stop + 1] - offsets[start],
                boxes=boxes[span],
                flags=flags[span],
                labels=labels[span],
                area=area[span],
                negative=None if negative is None else negative[start:stop],
                not_exhaustive=None if not_exhaustive is None else not_exhaustive[start:stop],
                defects=defects,
            )

    def _without_repeats(self, images: pa.Table) -> pa.Table:
        """Images in published order; an entry that is listed twice word for word counts once.

        Raises:
            InputError: two images share an id.
        """
        file, key, position = (images[name].to_numpy() for name in ("file", "key", "position"))
        order = np.lexsort([position, key, file])
        again = (file[order][1:] == file[order][:-1]) & (key[order][1:] == key[order][:-1])
        for at in np.flatnonzero(again):
            first, second = (images.slice(int(order[at + i]), 1).to_pylist()[0] for i in (0, 1))
            if any(first[name] != second[name] for name in ("id", "file_name", "width", "height")):
                raise InputError(
                    f"{self._files[first['file']]}: images",
                    f"id {first['id']} stands for {first['file_name']!r} and for {second['file_name']!r}",
                    "Give each image an id of its own",
                )
        keep = np.concatenate([order[:1], order[1:][~again]])
        keep = keep[np.lexsort([position[keep], file[keep]])]
        return images.take(pa.array(keep)).combine_chunks()

    def _owners(self, images: pa.Table, annotations: pa.Table) -> np.ndarray:
        """The row of ``images`` that each annotation belongs to, int64 [N].

        Raises:
            InputError: an annotation's image or class is not listed.
        """
        owner = np.full(annotations.num_rows, -1, np.int64)
        image_file, image_key = images["file"].to_numpy(), images["key"].to_numpy()
        file, key = annotations["file"].to_numpy(), annotations["key"].to_numpy()
        for number in range(len(self._files)):
            listed, mine = np.flatnonzero(image_file == number), np.flatnonzero(file == number)
            listed = listed[np.argsort(image_key[listed])]
            if len(listed):
                at = np.minimum(np.searchsorted(image_key[listed], key[mine]), len(listed) - 1)
                known = image_key[listed[at]] == key[mine]
                owner[mine[known]] = listed[at[known]]
        unknown_class = self._row_of_code[annotations["code"].to_numpy()] < 0
        for bad, what in ((owner < 0, "image"), (unknown_class, "category")):
            if bad.any():
                row = annotations.slice(int(np.flatnonzero(bad)[0]), 1).to_pylist()[0]
                identity = row["key"] if what == "image" else self._ids_of_codes[row["code"]]
                raise InputError(
                    f"{self._files[row['file']]}: annotations[{row['position']}]",
                    f"it is of the unknown {what} {identity}",
                    f"List the {what}, or remove the annotation",
                )
        return owner

    def _lists(
        self, images: pa.Table, annotations: pa.Table, owner: np.ndarray
    ) -> tuple[pa.ListArray | None, pa.ListArray | None]:
        """Absent and not exhaustively annotated classes of each image; None where the dataset has no such lists.

        Raises:
            InputError: an image lacks them, they hold an unknown class, or an annotation is of an absent one.
        """
        if self.exhaustive:
            return None, None
        negative, not_exhaustive = (
            lvis.class_lists(images, column, self._row_of_code, self._ids_of_codes, self._files)
            for column in lvis.LISTS
        )
        labels = self._row_of_code[annotations["code"].to_numpy()]
        absent = np.flatnonzero(lvis.listed_absent(negative, owner, labels))
        if len(absent):
            row = annotations.slice(int(absent[0]), 1).to_pylist()[0]
            raise InputError(
                f"{self._files[row['file']]}: annotations[{row['position']}]",
                f"it is of category {self._ids_of_codes[row['code']]}, which its image lists in neg_category_ids",
                "Remove the annotation, or take the category out of the list",
            )
        return negative, not_exhaustive

    def _note_boxes(self, images: pa.Table, defects: list[list[str]], drawn: np.ndarray, boxes: np.ndarray) -> None:
        """Add what is wrong with the boxes of some images; ``drawn`` of ``boxes`` are from a segmentation."""
        for row in np.flatnonzero(drawn):
            defects[row].append(noted(Defect.FROM_SEGMENTATION, f"{drawn[row]} of {boxes[row]} boxes"))
        if not any(doubts.fractions or doubts.corners for doubts in self._doubts):
            return
        file = images["file"].to_numpy()
        for row in np.flatnonzero(boxes):
            doubts, name = self._doubts[file[row]], self._files[file[row]].name
            if doubts.fractions:
                said = (
                    f"all {doubts.boxes:,} boxes of {name} lie in 0 to 1: multiply them by the image's width and height"
                )
                defects[row].append(noted(Defect.FRACTIONS, said))
            if doubts.corners:
                said = f"the boxes of {name} fit as x1, y1, x2, y2 and not as x, y, width, height"
                defects[row].append(noted(Defect.CORNERS, said))

    def _named(self, images: pa.Table) -> tuple[pa.Array, pa.Array, pa.Array, list[list[str]]]:
        """Ids, splits, paths and defects of some images.

        Raises:
            InputError: a file name leaves the dataset's folder, or two names are one file.
        """
        file, ids, names = (images[column].combine_chunks() for column in ("file", "id", "file_name"))
        splits = pa.array(self._splits, pa.string()).take(file)
        if self._prefixes is not None:
            ids = pc.binary_join_element_wise(pa.array(self._prefixes, pa.string()).take(file), ids, "/")
        for row in pc.indices_nonzero(pc.match_substring_regex(names, LEAVES)).to_pylist():
            if not is_address(names[row].as_py()):
                self._refuse_leaving(names[row].as_py(), str(ids[row]), file[row].as_py())
        defects: list[list[str]] = [[] for _ in range(len(ids))]
        if self._finder is None:
            return ids, splits, pa.nulls(len(ids), pa.string()), defects
        paths: list[str | None] = [None] * len(ids)
        for row, (name, number) in enumerate(zip(names.to_pylist(), file.to_pylist(), strict=True)):
            written = PurePosixPath(name.replace("\\", "/"))
            found = None if is_address(name) else self._find(written, number)
            as_written = found is not None and same_name(found, name)
            if found is None and name:
                found = self._find_misnamed(name, number)
            paths[row] = found
            if found is not None and not as_written:
                defects[row].append(noted(Defect.WRONG_FILE_NAME, f"{name} lies at {found}"))
            if found is None:
                meant = (other_names(name) or [written])[-1]
                near = self._finder.most_similar(meant, self._splits[number], self._files[number].parent)
                said = f"{name or 'no file name'}{f'; the most similar name there is {near}' if near else ''}"
                defects[row].append(noted(Defect.MISSING_IMAGE, said))
        return ids, splits, pa.array(paths, pa.string()), defects

    def _refuse_leaving(self, name: str, identity: str, number: int) -> NoReturn:
        """Refuse a file name that is absolute or leaves the folder, and name the file of the folder it may mean."""
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..") and "\0" not in part]
        ends = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
        near = next((path for end in ends if (path := self._find(end, number))), None) if self._finder else None
        raise InputError(
            f"{self._files[number]}: image {identity}",
            f"the file name {name!r} leaves the dataset's folder",
            f"Write {near!r} if that is the image" if near else "Make it relative to the image folder",
        )

    def _find(self, name: PurePosixPath, number: int) -> str | None:
        """Where an image of a file lies: below the file's own folder of images, if it has one, before all others."""
        assert self._finder is not None
        subset, split, beside = self._subsets[number], self._splits[number], self._files[number].parent
        own = self._finder.find(PurePosixPath(subset, name), split, beside) if subset else None
        return own or self._finder.find(name, split, beside)

    def _find_misnamed(self, name: str, number: int) -> str | None:
        """Where the image lies that a labelling tool calls so (layout.other_names).

        Raises:
            InputError: another name has led there before.
        """
        path = next((path for other in other_names(name) if (path := self._find(other, number))), None)
        if path is not None and self._misnamed.setdefault(path, name) != name:
            raise InputError(
                f"{self._files[number]}: images",
                f"neither {self._misnamed[path]!r} nor {name!r} is there, and both may mean {path}",
                "Write where each image lies, relative to the dataset's folder",
            )
        return path


#: Boxes are suspected to be corners where more than this share reaches outside as x, y, width, height.
CORNERS_SHARE: Final = 0.1


@dataclass(kw_only=True)
class Doubts:
    """What all boxes of a file so far have in common that no file of x, y, width, height in pixels should have.

    Attributes:
        boxes: how many there were.
        fractions: all lie in 0 to 1, but for rounding, and they are not all empty.
        corners: the third number is above the first, and the fourth above the second.
    """

    boxes: int = 0
    fractions: bool = False
    corners: bool = False

    def see(self, rows: pa.RecordBatch) -> None:
        """Judge further rows of ANNOTATIONS."""
        first, self.boxes = not self.boxes, self.boxes + rows.num_rows
        if not (first or self.fractions or self.corners):
            return
        x, y, w, h = (rows.column(side).to_numpy() for side in ("x", "y", "w", "h"))
        small = all(bool((np.abs(side - 0.5) <= 0.501).all()) for side in (x, y, w, h)) and bool((w > 0).any())
        self.fractions = small and (first or self.fractions)
        self.corners = not small and bool((w > x).all() and (h > y).all()) and (first or self.corners)


def _subset(file: Path, root: Path) -> str | None:
    """The folder of images that a file of annotations is named after: CVAT's ``instances_Site_A.json`` -> Site_A."""
    name = file.stem.removeprefix("instances_")
    folders = [root / folder / name for folder in ("", *IMAGE_FOLDERS)]
    return name if name and any(folder.is_dir() and folder != file.parent for folder in folders) else None


def _class_table(name: str, tables: Sequence[tuple[Path, list[Category]]], format: str, boxed: Set[str]) -> LabelSpace:
    """The classes of all files, in the first one's order; blanks around a name are dropped.

    Roboflow puts a root over the classes, without a box and at times with the name of one of them: it is told apart
    by its published id. ``boxed`` are the published ids that have one.

    Raises:
        InputError: two categories share a name or an id, within a file or between two; an unknown frequency.
    """
    classes: dict[str, Class] = {}
    names: dict[str, str] = {}
    for file, categories in tables:
        own = tuple(
            Class(
                name=f"{c.name.strip()} (id {c.id})" if _is_root(c, categories, boxed) else c.name.strip(),
                source_id=str(c.id),
                super_category=(c.supercategory or "").strip() or None,
                frequency=lvis.frequency(c, file) if format == "lvis" else None,
            )
            for c in categories
        )
        for one in LabelSpace(name=str(file), classes=own).classes:
            before = classes.setdefault(one.source_id, one)
            says = f"the id {one.source_id}"
            if before.name == one.name and names.setdefault(one.name, one.source_id) == one.source_id:
                if before.frequency == one.frequency:
                    continue
                says = f"the frequency {one.frequency}"
            raise InputError(
                f"{file}: categories",
                f"{one.name!r} has {says}, another file of the dataset says otherwise",
                "Use the same classes in every file",
            )
    return LabelSpace(name=name, classes=tuple(classes.values()))


def _is_root(category: Category, categories: Sequence[Category], boxed: Set[str]) -> bool:
    """Whether a category without a box is what another of the same name is published under."""
    return str(category.id) not in boxed and any(
        other is not category and other.name.strip() == category.name.strip() == (other.supercategory or "").strip()
        for other in categories
    )


def coco_files(paths: Sequence[Path]) -> list[Path]:
    """The COCO JSON files that are meant by some paths: files as given; of a folder, those of the likeliest place.

    That is ``annotations/``, else the folder itself, else its subfolders. Files named ``instances_…`` go before
    captions, key points and image lists that lie beside them, and count whatever they hold: reading says what is wrong.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found += [path] if path.suffix.lower() == ".json" and _is_coco(path) else []
            continue
        places: dict[int, list[Path]] = defaultdict(list)
        for file in walk(path, frozenset({".json"}), depth=3):
            parts = file.relative_to(path).parts
            at_annotations = len(parts) == 2 and parts[0].lower() in ("annotations", "annotation", "labels")
            places[0 if at_annotations else len(parts)].append(file)
        for _, files in sorted(places.items()):
            some = [file for file in files if file.name.startswith("instances_")] or [
                file for file in files if not file.name.startswith(("captions_", "person_keypoints_", "image_info_"))
            ]
            if coco := [file for file in some if file.name.startswith("instances_") or _is_coco(file)]:
                found += coco
                break
    return list(dict.fromkeys(found))


def _is_coco(file: Path) -> bool:
    """Whether the first arrays of a JSON file are COCO's; annotations may fill all of what is looked at.

    UTF-16 counts where their names are in it: reading says what is wrong.
    """
    if is_utf16(file):
        with open_file(file) as stream:
            start = stream.read(1 << 18).replace(b"\0", b"")
        return b'"images"' in start or b'"annotations"' in start
    return any(key in ("images", "annotations") for key in top_level_arrays(file))
