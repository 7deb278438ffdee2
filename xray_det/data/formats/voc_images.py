"""The images of a VOC dataset: found by the annotation file's name, whatever its ``<filename>`` says."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from xray_det.data.formats.layout import IMAGE_FOLDERS, IMAGE_SUFFIXES, loose, similar, walk

ANNOTATION_FOLDERS = frozenset({"annotations", "annotation", "xml", "xmls", "labels"})
_SHOWN = 3  # missing images with the most similar name beside them: looking for it costs


class VocImages:
    """All images below ``root``, by folder and name without suffix. Paths are relative to ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[PurePosixPath, dict[str, list[str]]] = {}
        for file in walk(root, IMAGE_SUFFIXES):
            relative = PurePosixPath(file.relative_to(root).as_posix())
            self._files.setdefault(relative.parent, {}).setdefault(relative.stem, []).append(relative.name)
        self._folders: dict[str, list[PurePosixPath]] = {}  # by their names in lower case
        for folder in self._files:
            self._folders.setdefault(str(folder).lower(), []).append(folder)
        self._loose: dict[PurePosixPath, dict[str, list[str]]] = {}  # as ``_files``, by loose names, for folders asked
        self._places: dict[Path, list[PurePosixPath]] = {}
        self._claimed: dict[PurePosixPath, set[str]] = {}
        self._missed = 0

    def claim(self, xml: Path, named: str) -> PurePosixPath | None:
        """The image of an annotation file: of its own name, with the image's suffix or without (``a.jpg.xml``), else of
        the name it gives (``named``), else None.

        Looked for beside the file, then in the image folders that stand where its annotation folder stands, then in
        those at the root; by the letter, then loosely (``layout.loose``), where one image alone is called so.
        """
        folders = self._near(xml.parent)
        whole, suffix = os.path.splitext(xml.stem)
        own = [xml.stem, whole] if suffix.lower() in IMAGE_SUFFIXES else [xml.stem]
        stems = [stem for stem in dict.fromkeys([*own, PurePosixPath(named).stem]) if stem]
        for stem in stems:
            for folder in folders:
                if stem in self._files[folder]:
                    return self._claim(folder, stem, named)
        for stem in map(loose, stems):
            for folder in folders:
                if len(stems_there := self._loosely(folder).get(stem, [])) == 1:
                    return self._claim(folder, stems_there[0], named)
        return None

    def most_similar(self, xml: Path) -> str | None:
        """For a message on an annotation file without image: the image there that is called most like it.

        None where none resembles it, and from the fourth time on.
        """
        self._missed += 1
        if self._missed > _SHOWN:
            return None
        names: dict[str, PurePosixPath] = {}
        for folder in self._near(xml.parent):
            there = (name for names_of_stem in self._files[folder].values() for name in names_of_stem)
            names |= dict.fromkeys(islice(there, 20_000), folder)
        near = similar(xml.with_suffix(".jpg").name, names)
        return None if near is None else str(names[near] / near)

    def unclaimed(self) -> list[PurePosixPath]:
        """Images no annotation file claimed, in folders of which some image was: masks lie in other folders."""
        return sorted(
            folder / name
            for folder, claimed in self._claimed.items()
            for stem, names in self._files[folder].items()
            if stem not in claimed
            for name in names
        )

    def _near(self, beside: Path) -> list[PurePosixPath]:
        """The folders with images to look in for a folder of annotations: of where it really lies too, behind links."""
        if beside not in self._places:
            pairs = ((beside, self.root), (beside.resolve(), self.root.resolve()))
            here = [PurePosixPath(place.relative_to(root)) for place, root in pairs if place.is_relative_to(root)]
            names = [str(folder).lower() for place in here or [PurePosixPath()] for folder in _candidates(place)]
            self._places[beside] = [found for name in dict.fromkeys(names) for found in self._folders.get(name, ())]
        return self._places[beside]

    def _claim(self, folder: PurePosixPath, stem: str, named: str) -> PurePosixPath:
        self._claimed.setdefault(folder, set()).add(stem)
        names = self._files[folder][stem]
        return folder / (named if named in names else names[0])

    def _loosely(self, folder: PurePosixPath) -> dict[str, list[str]]:
        if folder not in self._loose:
            found = self._loose[folder] = {}
            for stem in self._files[folder]:
                found.setdefault(loose(stem), []).append(stem)
        return self._loose[folder]


def _candidates(here: PurePosixPath) -> Iterator[PurePosixPath]:
    yield here
    parts = here.parts
    for at in reversed(range(len(parts))):
        if parts[at].lower() in ANNOTATION_FOLDERS:
            for folder in IMAGE_FOLDERS:
                yield PurePosixPath(*parts[:at], folder, *parts[at + 1 :])
            yield PurePosixPath(*parts[:at], *parts[at + 1 :])
    yield from (PurePosixPath(folder) for folder in IMAGE_FOLDERS)
    yield PurePosixPath()
