"""The images of a VOC dataset: found by the annotation file's name, whatever its ``<filename>`` says."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from xray_det.data.formats.layout import IMAGE_FOLDERS, IMAGE_SUFFIXES, walk

_ANNOTATION_FOLDERS = frozenset({"annotations", "annotation", "xml", "xmls", "labels"})


class VocImages:
    """All images below ``root``, by folder and name without suffix. Paths are relative to ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[tuple[PurePosixPath, str], list[str]] = {}
        for file in walk(root, IMAGE_SUFFIXES):
            relative = PurePosixPath(file.relative_to(root).as_posix())
            self._files.setdefault((relative.parent, relative.stem), []).append(relative.name)
        self._folders = {folder for folder, _ in self._files}
        self._claimed: set[tuple[PurePosixPath, str]] = set()

    def claim(self, xml: Path, named: str) -> PurePosixPath | None:
        """The image of an annotation file: of its own name, else of the name it gives (``named``), else None.

        Looked for beside the file, then in the image folders that stand where its annotation folder stands, then in
        those at the root.
        """
        here = PurePosixPath(xml.relative_to(self.root).parent.as_posix()) if xml.is_relative_to(self.root) else None
        folders = [f for f in dict.fromkeys(_candidates(here or PurePosixPath())) if f in self._folders]
        for stem in dict.fromkeys([xml.stem, PurePosixPath(named).stem]):
            for folder in folders:
                names = self._files.get((folder, stem))
                if names and stem:
                    self._claimed.add((folder, stem))
                    return folder / (named if named in names else names[0])
        return None

    def unclaimed(self) -> list[PurePosixPath]:
        """Images no annotation file claimed, in folders of which some image was: masks lie in other folders."""
        folders = {folder for folder, _ in self._claimed}
        return sorted(
            folder / name
            for (folder, stem), names in self._files.items()
            if folder in folders and (folder, stem) not in self._claimed
            for name in names
        )


def _candidates(here: PurePosixPath) -> Iterator[PurePosixPath]:
    yield here
    parts = here.parts
    for at in reversed(range(len(parts))):
        if parts[at].lower() in _ANNOTATION_FOLDERS:
            for folder in IMAGE_FOLDERS:
                yield PurePosixPath(*parts[:at], folder, *parts[at + 1 :])
            yield PurePosixPath(*parts[:at], *parts[at + 1 :])
    yield from (PurePosixPath(folder) for folder in IMAGE_FOLDERS)
    yield PurePosixPath()
