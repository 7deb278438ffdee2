"""Ingest a published dataset: Parquet shards, a manifest, and a report of everything that is wrong with it.

    python experiments/ingest.py ~/data/VOC2012 --out ~/xray_det/voc
    python experiments/ingest.py ~/data/objects365 --out s3://bucket/objects365 --pack --phash --json report.json

SOURCE is a dataset as it is published: COCO or Objects365 JSON, Open Images CSV, Pascal VOC XML. The format is known by
its layout. Images are read where they lie unless --pack copies them.

What is found is counted by kind, and listed image by image in the folder (findings.parquet, quarantine.parquet):
repaired   flagged and not trained on: a box without area (no_area) or not finite (not_finite), a repeat (repeat), the
           boxes of a file of pixels that all lie in 0 to 1 (fractions);
           clipped when loaded: a box over the edge (outside); one place under several labels: one box (several_labels);
           corrected: sizes, file names, EXIF, greyscale, more than 8 bits a channel (wrong_size, wrong_file_name,
           exif_rotated, bad_exif, greyscale, deep_image); drawn around a polygon or mask, where no box is published
           (from_segmentation); taken back: an image-level label that a class is there, and one that it is not
           (contradictory_label); kept: coordinates from 0 in a VOC file (zero_based), boxes that may be x1, y1, x2, y2
           where x, y, width, height are due (corners); followed: a link out of the dataset's folder (outside_link);
           named: the same bytes twice (duplicate_image), or in two splits (in_two_splits; by likeness:
           alike_in_two_splits); in VOC's split lists, an image of two (in_two_lists: it is in the first of train, val,
           test) or of none (in_no_list), a line that repeats another (listed_twice) or fits no image
           (listed_without_image).
quarantined  the image is in no shard: truncated_image, unreadable_image, missing_image, no_annotation, image_bomb.

The JSON has `images` (those in the shards), `boxes` (the published boxes of these images: flagged ones too, and one
place under two labels as two), `classes` (published names in published order), `repaired` and `quarantined` (counts by
kind).

Killed and started again, it goes on where it stopped and ends with the same folder. A finished folder answers at once;
a folder made from another source, or from annotations that have changed since, is refused.

Cost: 2 ms of a core for an image of 500 x 375 with its annotation (all of it is decoded once, small, to find damage),
6 ms more with --phash; the disk, when images are not cached. Ray starts when there are more than 1,500 images. The
driver's memory grows by 300 bytes an image. Expect: seconds for the small sets, half a minute of two cores for the
17,125 images of VOC2012, half an hour of two cores for a million.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to ingest, and how."""

    source: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The dataset's folder, or the annotation files of it that are meant."""
    out: str
    """The folder to make: a local path, s3:// or gs://."""
    format: str = "auto"
    """coco (Objects365 too), open_images, voc, or auto."""
    json: Path | None = None
    """Write images, boxes, classes, repaired and quarantined to this file."""
    name: str | None = None
    """The dataset's name; the source folder's unless given."""
    strict: bool = False
    """Make any defect an error that names the file and the kind; nothing is published then."""
    pack: bool = False
    """Copy the images into plain tars beside the shards: few large files for an object store or a shared disk."""
    pack_megabytes: int = 256
    """The size of a tar."""
    phash: bool = False
    """Look for images of one split that stand in another by perceptual hash too, not only by their bytes."""
    max_quarantined: float | None = None
    """The share of annotated images that may be unusable. Unless given: a tenth, and ten images in any case."""


def main(args: Args) -> None:
    """Ingest, print the report, write the JSON."""
    from xray_det.data.ingest import How, ingest_published
    from xray_det.data.report import repair_report
    from xray_det.display import terminal
    from xray_det.storage import write_bytes

    how = How(
        name=args.name,
        strict=args.strict,
        pack=args.pack,
        pack_bytes=args.pack_megabytes * 2**20,
        phash=args.phash,
        max_quarantined=args.max_quarantined,
    )
    manifest = ingest_published(args.source, args.out, how, format=args.format)
    terminal().print(*repair_report(manifest), sep="\n")
    if args.json is not None:
        numbers = {
            "images": manifest.images,
            "boxes": manifest.boxes,
            "classes": list(manifest.space.names),
            "repaired": dict(manifest.repaired),
            "quarantined": dict(manifest.quarantined),
        }
        write_bytes(args.json, (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except InputError as error:
        sys.exit(f"ingest.py: {error}")
