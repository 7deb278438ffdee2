"""What the annotators of a release write of an image, and the whole truth about it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from xray_det.data.defect import Defect
from xray_det.data.miniature.glyphs import PARENTS, Glyph
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.scenes import Scene


@dataclass(frozen=True, kw_only=True)
class Label:
    """A box under one class name; x1, y1, x2, y2 in pixels."""

    name: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """One image of a release.

    Args:
        stem: the file name without suffix, and the image id where ids are text.
        file: path below the release's folder.
        labels: what is published; ``truth``: every object under every name that fits it, within the image.
        present, absent: class names verified for the image.
        defects: what was planted in it.
    """

    number: int
    stem: str
    file: str
    width: int
    height: int
    labels: tuple[Label, ...]
    truth: tuple[Label, ...]
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    defects: tuple[Defect, ...] = field(default=())


def vocabulary(glyphs: Sequence[Glyph], release: str, *, nested: bool) -> list[str]:
    """The class names of a release; with ``nested`` also the parents."""
    return [glyph.name for glyph in glyphs if release in glyph.labelled_by] + (list(PARENTS) if nested else [])


def published(
    scene: Scene,
    boxes: npt.NDArray[np.float64],
    glyphs: Sequence[Glyph],
    parameters: Miniature,
    *,
    release: str,
    nested: bool,
    missed: Collection[int] = (),
) -> tuple[Label, ...]:
    """The published labels of an image.

    Objects of classes that the release does not label, or that were ``missed`` in the image, are left out. An object of
    a look-alike class carries both names (the second box drawn by another hand), or one of the two at random. In a
    ``nested`` release the objects of a class may carry their parent's name instead, in an image all of them or none.
    """
    rng = np.random.default_rng((*scene.seed, 1))
    lacks_leaf = {
        label: nested and glyphs[label].parent and rng.random() < parameters.parents_without_leaf
        for label in sorted(set(scene.classes))
    }
    labels = []
    for label, box in zip(scene.classes, boxes, strict=True):
        glyph = glyphs[label]
        if release not in glyph.labelled_by or label in missed:
            continue
        names = [glyph.name]
        if glyph.twin is not None:
            names.append(glyphs[glyph.twin].name)
            if rng.random() >= parameters.look_alike_both:
                names = [names[rng.integers(2)]]
        elif lacks_leaf[label]:
            names = [str(glyph.parent)]
        labels += [
            Label(name=name, box=_tuple(box if hand == 0 else _redrawn(box, rng))) for hand, name in enumerate(names)
        ]
    return tuple(labels)


def overlooked(scene: Scene, glyphs: Sequence[Glyph], release: str, share: float) -> frozenset[int]:
    """Classes of an image that its annotators miss: each with this chance, but never the first one they label, nor a
    look-alike whose name another object may carry."""
    rng = np.random.default_rng((*scene.seed, 4))
    labelled = [label for label in dict.fromkeys(scene.classes) if release in glyphs[label].labelled_by]
    alone = (label for label in labelled[1:] if glyphs[label].twin not in scene.classes)
    return frozenset(label for label in alone if rng.random() < share)


def truth(
    scene: Scene, boxes: npt.NDArray[np.float64], glyphs: Sequence[Glyph], width: int, height: int
) -> tuple[Label, ...]:
    """Every object under its class, its look-alike and their ancestors, clipped to the image."""
    labels = []
    for label, box in zip(scene.classes, boxes, strict=True):
        glyph = glyphs[label]
        twin = [] if glyph.twin is None else [glyphs[glyph.twin]]
        names = dict.fromkeys(name for one in (glyph, *twin) for name in (one.name, *one.ancestors))
        clipped = _tuple(np.clip(box, 0, [width, height, width, height]))
        labels += [Label(name=name, box=clipped) for name in names]
    return tuple(labels)


def verified(
    image: Annotated, words: Sequence[str], count: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Image-level labels: the names that the image's boxes carry, and ``count`` names of ``words`` of which the image
    holds nothing."""
    present = tuple(dict.fromkeys(label.name for label in image.labels))
    there = {label.name for label in image.truth}
    away = [word for word in words if word not in there]
    chosen = rng.choice(len(away), min(count, len(away)), replace=False)
    return present, tuple(away[at] for at in sorted(chosen))


def with_planted(image: Annotated, kind: Defect) -> Annotated:
    """The image with one defect among its labels; other kinds are in its pixels or its file and only noted."""
    first = image.labels[0]
    extra: tuple[Label, ...] = ()
    if kind == Defect.NO_AREA:
        x1, y1, _, y2 = first.box
        extra = (replace(first, box=(x1, y1, x1, y2)),)
    elif kind == Defect.REPEAT:
        extra = (first,)
    return replace(image, labels=image.labels + extra, defects=(*image.defects, kind))


def _redrawn(box: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The box as another annotator would draw it: its far edges a little inside, IoU above 0.9."""
    inset = np.minimum((box[2:] - box[:2]) * rng.uniform(0.01, 0.04, 2), 2.0)
    return np.concatenate([box[:2], box[2:] - inset])


def _tuple(box: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(edge), 2) for edge in box)
    return x1, y1, x2, y2
