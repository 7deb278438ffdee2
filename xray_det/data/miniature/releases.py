"""Writes a miniature to disk: the same kind of images as two published releases, and the whole truth beside them.

FOLDER/objects365/   zhiyuan_objv2_{train,val}.json, images/v1/patchN/objects365_v1_00000000.jpg
FOLDER/open_images/  {train,validation}-annotations-bbox.csv, -annotations-human-imagelabels-boxable.csv,
                     class-descriptions-boxable.csv, bbox_labels_600_hierarchy.json, images/{train,validation}/ID.jpg
FOLDER/truth/        RELEASE_val.json: COCO JSON of the validation images, every object under every name that fits it
FOLDER/miniature.json  the parameters, their fingerprint and what was planted; written last
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import Progress

from xray_det import storage
from xray_det.config import difference, fingerprint, to_dict
from xray_det.data.defect import Defect
from xray_det.data.miniature import open_images_files
from xray_det.data.miniature.annotate import Annotated, overlooked, published, truth, verified, vocabulary, with_planted
from xray_det.data.miniature.coco_files import write_coco
from xray_det.data.miniature.glyphs import PARENTS, RELEASES, Glyph, hierarchy, line_up
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.render import render
from xray_det.data.miniature.scenes import SPLITS, Scene, deal
from xray_det.errors import InputError

OBJECTS365, OPEN_IMAGES = RELEASES
MARKER = "miniature.json"
_PATCH = 250  # images of a patch folder
_IN_BOXES = (Defect.OUTSIDE, Defect.NO_AREA, Defect.REPEAT)


@dataclass(frozen=True, kw_only=True)
class Releases:
    """Where a written miniature lies.

    Args:
        objects365, open_images: the folders of the two releases, ready to be ingested.
        truth: release -> COCO JSON of its validation images with every class; image ids as in the release.
        planted: release -> kind of defect (data/defect.py) -> how many; all in the training splits.
        classes: the names of all classes by falling frequency, parents last.
        exclusive: class name -> the only release that labels it.
    """

    objects365: Path
    open_images: Path
    truth: dict[str, Path]
    planted: dict[str, dict[str, int]]
    classes: tuple[str, ...]
    exclusive: dict[str, str]


def write(folder: str | Path, parameters: Miniature | None = None, *, progress: bool = True) -> Releases:
    """Render both releases into ``folder``; a finished folder of the same parameters is returned as it is.

    Raises:
        InputError: the folder holds a miniature of other parameters, or parameters that cannot be rendered.
    """
    folder, parameters = Path(folder).expanduser().absolute(), parameters or Miniature()
    tree = to_dict(parameters)
    if (folder / MARKER).exists():
        marker = storage.read_json(folder / MARKER)
        if marker["fingerprint"] != fingerprint(tree):
            lines = "; ".join(difference(marker["parameters"], tree)) or "another version"
            raise InputError(folder, f"holds another miniature ({lines})", "Choose another folder, or remove this one")
        return _releases(folder, marker)
    glyphs = line_up(parameters)
    scenes = {(release, split): deal(parameters, release, split) for release in RELEASES for split in SPLITS}
    planted: dict[str, dict[str, int]] = {}
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("rendering", total=sum(map(len, scenes.values())))
        for release in RELEASES:
            images: dict[str, list[Annotated]] = {}
            for split in SPLITS:
                images[split] = []
                for image in _rendered(folder / release, scenes[release, split], glyphs, parameters, release, split):
                    images[split].append(image)
                    bar.advance(task)
            kinds = Counter(str(kind) for split in SPLITS for image in images[split] for kind in image.defects)
            planted[release] = dict(sorted(kinds.items()))
            _write_annotations(folder, release, images, glyphs)
    exclusive = {glyph.name: glyph.labelled_by[0] for glyph in glyphs if len(glyph.labelled_by) == 1}
    marker = {
        "fingerprint": fingerprint(tree),
        "parameters": tree,
        "planted": planted,
        "classes": [*(glyph.name for glyph in glyphs), *PARENTS],
        "exclusive": exclusive,
    }
    storage.write_json(folder / MARKER, marker)
    return _releases(folder, marker)


def _releases(folder: Path, marker: Mapping[str, Any]) -> Releases:
    return Releases(
        objects365=folder / OBJECTS365,
        open_images=folder / OPEN_IMAGES,
        truth={release: folder / "truth" / f"{release}_val.json" for release in RELEASES},
        planted=marker["planted"],
        classes=tuple(marker["classes"]),
        exclusive=marker["exclusive"],
    )


def _rendered(
    root: Path, scenes: Sequence[Scene], glyphs: Sequence[Glyph], parameters: Miniature, release: str, split: str
) -> Iterator[Annotated]:
    """Render and annotate one split, image by image."""
    nested = release == OPEN_IMAGES
    words = vocabulary(glyphs, release, nested=nested)
    negatives = parameters.negatives if split == "train" else parameters.validation_negatives
    chars = [glyph.char for glyph in glyphs]
    planted = _plant(scenes, glyphs, parameters, release) if split == "train" else {}
    for number, scene in enumerate(scenes):
        kind = planted.get(number)
        scene = replace(scene, cut=kind == Defect.OUTSIDE)
        pixels, boxes = render(scene, chars, parameters)
        height, width = pixels.shape[:2]
        missed = overlooked(scene, glyphs, release, parameters.overlooked if nested and split == "train" else 0.0)
        stem, file = _names(release, split, number, len(scenes) if split == "val" else 0, parameters.seed)
        image = Annotated(
            number=number if split == "train" else number + 1_000_000,
            stem=stem,
            file=file,
            width=width,
            height=height,
            labels=published(scene, boxes, glyphs, parameters, release=release, nested=nested, missed=missed),
            truth=truth(scene, boxes, glyphs, width, height),
        )
        if nested:
            present, absent = verified(image, words, negatives, np.random.default_rng((*scene.seed, 2)))
            image = replace(image, present=present, absent=absent)
        _write_image(root / file, pixels, kind)
        yield image if kind is None else with_planted(image, kind)


def _plant(scenes: Sequence[Scene], glyphs: Sequence[Glyph], parameters: Miniature, release: str) -> dict[int, Defect]:
    """Which training image has which defect, one an image. They are images of frequent classes alone, so that no tail
    class loses its few; a cut object is one that the release labels as it is."""
    frequent = max(len(glyphs) // 2, 1)
    plain = [
        number
        for number, scene in enumerate(scenes)
        if max(scene.classes) < frequent
        and release in glyphs[scene.classes[0]].labelled_by
        and glyphs[scene.classes[0]].twin is None
    ]
    kinds = [kind for kind in _IN_BOXES for _ in range(parameters.defects)]
    # of the damaged files one is no image at all: a server's error page saved under the image's name
    kinds += [Defect.UNREADABLE_IMAGE if n == 1 else Defect.TRUNCATED_IMAGE for n in range(parameters.defects)]
    if len(plain) < len(kinds):
        problem = f"{len(kinds)} defects do not fit the {len(plain)} images of frequent classes"
        raise InputError("Miniature.defects", problem, "Give more images or fewer defects")
    rng = np.random.default_rng((parameters.seed, 3, RELEASES.index(release)))
    chosen = rng.choice(len(plain), len(kinds), replace=False)
    return {plain[at]: kind for at, kind in zip(chosen.tolist(), kinds, strict=True)}


def _names(release: str, split: str, number: int, offset: int, seed: int) -> tuple[str, str]:
    """File stem and path of an image, as the two datasets name theirs."""
    if release == OBJECTS365:
        number += 1_000_000 * (split == "val")
        stem = f"objects365_v1_{number:08d}"
        return stem, f"images/v1/patch{number % 1_000_000 // _PATCH + 50 * (split == 'val')}/{stem}.jpg"
    stem = hashlib.sha1(f"{seed}/{split}/{number}".encode()).hexdigest()[:16]
    return stem, f"images/{'train' if split == 'train' else 'validation'}/{stem}.jpg"


def _write_image(path: Path, pixels: np.ndarray, kind: Defect | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    payload = encoded.tobytes()
    if kind == Defect.TRUNCATED_IMAGE:
        payload = payload[: len(payload) * 3 // 5]
    elif kind == Defect.UNREADABLE_IMAGE:
        payload = b"<html><body>404 Not Found</body></html>\n"
    path.write_bytes(payload)


def _write_annotations(
    folder: Path, release: str, images: dict[str, list[Annotated]], glyphs: tuple[Glyph, ...]
) -> None:
    nested = release == OPEN_IMAGES
    words = vocabulary(glyphs, release, nested=nested)
    if nested:
        open_images_files.write(folder / release, images, words, hierarchy(glyphs))
    else:
        # Objects365 publishes its own capitals: the names meet Open Images' by their letters alone.
        titled = {word: word.title() for word in words}
        for split in SPLITS:
            target = folder / release / f"zhiyuan_objv2_{split}.json"
            write_coco(target, images[split], titled, [image.labels for image in images[split]])
    everything = {name: name for name in (*(glyph.name for glyph in glyphs), *PARENTS)}
    validation = images["val"]
    write_coco(
        folder / "truth" / f"{release}_val.json",
        validation,
        everything,
        [image.truth for image in validation],
        text_ids=nested,
    )
