"""What an ingested dataset is: one JSON file beside its shards, written last, so that a folder with one is whole."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xray_det import storage
from xray_det.data.schema import SCHEMA_VERSION
from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace

if TYPE_CHECKING:
    from xray_det.labels.hierarchy import Hierarchy

FILE: Final = "manifest.json"
TRAINING: Final = ("train", "trainval")
"""The split to train on: the first of these that a dataset has."""
VALIDATION: Final = ("val", "test")
"""The split to measure on, likewise."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a dataset (schema.SHARD): its path below the dataset's folder, and its images."""

    file: str
    rows: int


def _tuples(counts: Any) -> Any:
    """What JSON made lists of."""
    return {split: tuple(numbers) for split, numbers in counts.items()} if isinstance(counts, Mapping) else counts


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An ingested dataset: its class table, what it holds, what was wrong with it, and where its shards lie.

    Attributes:
        name: the dataset's name, the value of the shards' ``dataset`` column.
        format: the published format it was read from: coco, lvis, open_images or voc.
        fingerprint: 16 hex digits over the class table, the hierarchy, every annotation and every image's bytes, in
            order. It says what the data are, not where they lie: the same release ingested on another machine, with
            other parallelism, packed or not, under another name, has the same one. Whoever caches *paths* needs
            the folder in the key as well.
        space: the classes as published; a label in the shards is a row of it.
        hierarchy: the published class hierarchy, if there is one.
        exhaustive: every class of ``space`` is annotated in every image; False: only image-level labels tell what
            is absent (Open Images, LVIS).
        images: images in the shards.
        boxes: the published boxes of these images: with flagged ones, and one box under two labels counted twice.
        splits: images by split; images of a source without splits count under "".
        image_counts: by split, [C] images that hold a box of the class (n_i of methods.md); flagged boxes that are
            not trained on (schema.NOT_TRAINED) do not count, regions do.
        instance_counts: by split, [C] (box, label) pairs, counted alike.
        repaired: what was found and mended, flagged or named, by kind; details in findings.parquet.
        quarantined: images left out of the shards, by reason; details in quarantine.parquet.
        shards: in order; the row number of an image in the dataset counts through them.
        packed: the images' bytes lie in the folder's own tars (pack.py).
        folder: where it was loaded from or saved to; not stored.
    """

    name: str
    format: str
    fingerprint: str
    space: LabelSpace
    hierarchy: "Hierarchy | None"
    exhaustive: bool
    images: int
    boxes: int
    splits: Mapping[str, int]
    image_counts: Mapping[str, tuple[int, ...]]
    instance_counts: Mapping[str, tuple[int, ...]]
    repaired: Mapping[str, int]
    quarantined: Mapping[str, int]
    shards: tuple[Shard, ...]
    packed: bool = False
    schema_version: int = SCHEMA_VERSION
    folder: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("image_counts", "instance_counts"):
            counts, where = getattr(self, name), f"{self.folder or self.name}: manifest: {name}"
            if not isinstance(counts, Mapping) or set(counts) != set(self.splits):
                raise InputError(where, "are not given for each split", "Ingest the dataset again")
            for numbers in counts.values():
                if len(numbers) != len(self.space):
                    problem = f"{len(numbers)} numbers for {len(self.space)} classes"
                    raise InputError(where, problem, "Ingest the dataset again")

    @property
    def shard_uris(self) -> tuple[str, ...]:
        return tuple(storage.join(self.folder, shard.file) for shard in self.shards)

    def first_split(self, *names: str) -> str | None:
        """The first of these splits that holds images; None (all images) where none does."""
        return next((name for name in names if self.splits.get(name)), None)

    def check_split(self, split: str | None) -> None:
        """Refuse a split that the dataset has not; None stands for all images."""
        if split is not None and split not in self.splits:
            raise InputError(
                f"{self.name}: split", f"{split!r} is none of {sorted(self.splits)}", "Choose one of these"
            )

    def images_of(self, split: str | None = None) -> np.ndarray:
        """int64 [C], ``image_counts`` of a split; None: of all images. InputError for a split that there is not."""
        return self._counts(self.image_counts, split)

    def instances_of(self, split: str | None = None) -> np.ndarray:
        """``instance_counts`` likewise."""
        return self._counts(self.instance_counts, split)

    def _counts(self, counts: Mapping[str, tuple[int, ...]], split: str | None) -> np.ndarray:
        self.check_split(split)
        chosen = counts.values() if split is None else (counts[split],)
        total: np.ndarray = np.array([*chosen, np.zeros(len(self.space))], np.int64).sum(axis=0)
        return total

    @property
    def unused_classes(self) -> tuple[str, ...]:
        """Names of classes without a single trained box: reported, since no detector can learn them here."""
        return tuple(c.name for c, n in zip(self.space.classes, self.instances_of(), strict=True) if n == 0)

    def save(self, folder: str) -> "Manifest":
        """Write ``folder/manifest.json`` whole; returns the manifest with its folder set."""
        storage.write_json(storage.join(folder, FILE), self._to_json())
        return self._in(folder)

    @classmethod
    def load(cls, folder: str) -> "Manifest":
        """Read the manifest of an ingested dataset.

        Args:
            folder: its folder, a local path or URI.

        Raises:
            InputError: no finished dataset lies there, or one of another schema version, or the file is damaged.
        """
        uri = storage.join(folder, FILE)
        if not storage.exists(uri):
            raise InputError(
                folder, "no ingested dataset lies here (no manifest.json)", "Run experiments/ingest.py to its end first"
            )
        value = storage.read_json(uri)
        if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
            found = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
            raise InputError(uri, f"schema version {found}, not {SCHEMA_VERSION}", "Ingest the dataset again")
        expected = {f.name for f in fields(cls)} - {"folder"}
        if set(value) != expected:
            odd = sorted(set(value) ^ expected)
            raise InputError(uri, f"fields missing or unknown: {', '.join(odd)}", "Ingest the dataset again")
        return cls._from_json(value)._in(folder)

    def _in(self, folder: str) -> "Manifest":
        fs_folder = folder if "://" in folder else storage.locate(folder)[1]
        return Manifest(**{**dict(self._items()), "folder": fs_folder})

    def _items(self) -> Iterator[tuple[str, Any]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    def _to_json(self) -> dict[str, Any]:
        value = {name: item for name, item in self._items() if name != "folder"}
        return value | {
            "space": self.space.to_json(),
            "hierarchy": None if self.hierarchy is None else self.hierarchy.to_json(),
            "shards": [asdict(shard) for shard in self.shards],
        }

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> "Manifest":
        hierarchy = value["hierarchy"]
        if hierarchy is not None:
            from xray_det.labels.hierarchy import Hierarchy

            hierarchy = Hierarchy.from_json(hierarchy)
        return cls(
            **dict(value)
            | {
                "space": LabelSpace.from_json(value["space"]),
                "hierarchy": hierarchy,
                **{name: _tuples(value[name]) for name in ("image_counts", "instance_counts")},
                "shards": tuple(Shard(**shard) for shard in value["shards"]),
            }
        )
