"""How often the images of each class are seen in an epoch, under each sampling rule (paper 002, section 3)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xray_det.data import shards
from xray_det.data.annotations import taught_classes
from xray_det.data.ingest import each
from xray_det.data.manifest import Manifest
from xray_det.data.sampling import (
    Cap,
    Floats,
    ImageClasses,
    Ints,
    Natural,
    RepeatFactor,
    Sampling,
    SoftBalance,
    class_probability,
    expected_multiplicity,
    exposure,
    joined,
)
from xray_det.display import Table, counted
from xray_det.labels.frequency import bands, ranked


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """What an epoch of N draws from N images shows of each class; expectations over seeds.

    Attributes:
        rules: R sampling rules.
        image_counts: int64 [C], n_i: images with a box that teaches the class.
        exposure: float64 [R, C], drawn images that hold the class, repeats counted.
        neglected: float64 [R, C], the share of the class's images that the epoch does not show; nan without images.
        formula: float64 [R, C], views of an image by the paper's words, N P_s*(i) / n_i, which knows no co-occurrence:
            an image is drawn for its other classes too. nan for other rules than SoftBalance.
    """

    rules: tuple[Sampling, ...]
    image_counts: Ints
    exposure: Floats
    neglected: Floats
    formula: Floats

    @classmethod
    def of(cls, images: ImageClasses, num_classes: int, rules: Sequence[Sampling] = ()) -> "Views":
        """Of the images of one dataset.

        Args:
            rules: unless given, all of them: soft-balance at 0, 0.5, 0.7, 1 and 1.5, the cap at the head's last n_i;
                natural order alone where no image holds a class.

        Raises:
            InputError: there are no images; a class balance of images without classes.
        """
        counts, total = images.counts(num_classes), len(images)
        if not rules and not counts.any():
            rules = (Natural(),)
        elif not rules:
            head = bands(counts)["head"]
            cap = Cap(max_images=int(counts[head].min(initial=counts.max())))
            rules = (Natural(), *(SoftBalance(lam=lam) for lam in (0.0, 0.5, 0.7, 1.0, 1.5)), RepeatFactor(), cap)
        held = np.where(counts > 0, counts, np.nan)
        exposures, neglected, formula = [], [], []
        for rule in rules:
            expected = expected_multiplicity([images], rule, draws=total)
            exposures.append(exposure([images], expected, num_classes))
            # an image is drawn floor or ceil of its expectation: one below 1 is missing in 1 - E of the epochs
            neglected.append(exposure([images], np.maximum(1 - expected, 0), num_classes) / held)
            by_class = class_probability(counts, rule.course[0]) if isinstance(rule, SoftBalance) else np.nan
            formula.append(total * by_class / held)
        return cls(
            rules=tuple(rules),
            image_counts=counts,
            exposure=np.array(exposures),
            neglected=np.array(neglected),
            formula=np.array(formula),
        )

    @property
    def views(self) -> Floats:
        """How often an image of the class is seen, on average over its images: float64 [R, C], nan without images."""
        return self.exposure / np.where(self.image_counts > 0, self.image_counts, np.nan)

    def to_json(self) -> dict[str, Any]:
        """By rule, as JSON: lists [C], null where there is no number."""
        numbers = {name: getattr(self, name) for name in ("exposure", "views", "neglected", "formula")}
        return {
            name_of(rule): {
                name: [None if np.isnan(value) else round(float(value), 6) for value in values[row]]
                for name, values in numbers.items()
            }
            for row, rule in enumerate(self.rules)
        }


def name_of(rule: Sampling) -> str:
    """A rule in a table's heading."""
    if isinstance(rule, SoftBalance):
        return f"lambda {rule.course[0]:g}"
    if isinstance(rule, RepeatFactor):
        return f"repeat-factor {rule.threshold:g}"
    return f"cap {rule.max_images:,}" if isinstance(rule, Cap) else "natural"


def read_image_classes(manifest: Manifest, split: str | None = None, *, progress: bool = False) -> ImageClasses:
    """The classes of a dataset's images, in no order, its shards read in parallel by Ray Data: 20 bytes an image.

    Args:
        split: only of this split; None: of all images.
        progress: draw a bar.

    Raises:
        InputError: the dataset has no such split.
    """
    manifest.check_split(split)
    jobs = [{"uri": uri, "split": split, "num_classes": len(manifest.space)} for uri in manifest.shard_uris]
    parts: Iterator[ImageClasses] = each(_read, jobs)
    parts = counted(parts, len(jobs), f"sampling of {manifest.name}", shown=progress)
    return joined(list(parts))


def _read(job: Mapping[str, Any]) -> ImageClasses:
    table = shards.read_split(job["uri"], ["flags", "labels"], job["split"]).combine_chunks()
    identity = np.arange(job["num_classes"], dtype=np.int32)
    return joined([taught_classes(batch, identity) for batch in table.to_batches()])


def views_tables(manifest: Manifest, views: Views, shown: int = 4) -> list[Table | str]:
    """Images a class under each rule with the views of an image, and the paper's two figures for this dataset."""
    order = ranked(views.image_counts)
    title = f"{manifest.name}: images a class in an epoch under each rule (views of an image)"
    table = Table("rank", "class", "images", *map(name_of, views.rules), keys=2, title=title)
    for column in (0, *range(2, 3 + len(views.rules))):
        table.columns[column].justify = "right"
    for place, row in enumerate(order.tolist()):
        if place < shown or place >= len(order) - shown:
            cells = [f"{x:,.0f} ({v:.2f})" for x, v in zip(views.exposure[:, row], views.views[:, row], strict=True)]
            name, images = manifest.space.classes[row].name, f"{views.image_counts[row]:,}"
            table.add_row(str(place + 1), name, images, *cells)
        elif place == shown:
            table.add_row("…")
    aware = next((r for r, rule in enumerate(views.rules) if rule == SoftBalance(lam=1.0)), None)
    if aware is None:
        return [table]
    first, last = order[0], order[-1]
    return [
        table,
        f"class-aware: an image of {manifest.space.classes[last].name} is seen "
        f"{views.formula[aware, last]:.1f} times in an epoch by N / (C n), {views.views[aware, last]:.1f} with "
        f"co-occurrence; of {manifest.space.classes[first].name}, "
        f"{max(1 - views.formula[aware, first], 0):.2%} is neglected by that, {views.neglected[aware, first]:.2%} "
        "with co-occurrence",
    ]
