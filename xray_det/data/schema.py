"""The currency of the project: one annotated image, as an Arrow row.

Three schemas, in the order in which an image meets them:

PUBLISHED   what a reader of ``formats/`` yields: the published numbers, unrepaired, one label a box.
SHARD       what the doctor makes of it and ingest writes to Parquet.
DETECTIONS  what a detector says of an image.

Boxes are x1, y1, x2, y2. In SHARD and DETECTIONS they are absolute pixels of the upright image (EXIF orientation
applied), continuous coordinates with the origin at the image's upper left corner. In PUBLISHED they are the published
numbers in float64: pixels, or fractions of the image where the source says ``normalized``; a format that publishes
a width gives x2 = x1 + width.

A label is a row number of the dataset's class table (labels/space.py). Only labels/unify.py maps it elsewhere.
Columns with a number a box (boxes, area, visible_boxes, flags, labels) have equal list lengths in a row.
"""

from enum import IntFlag
from typing import Final

import pyarrow as pa


class BoxFlag(IntFlag):
    """What is known of a box beside its place and labels; stored as one uint16 a box."""

    CROWD = 1  # COCO: a region of many objects
    GROUP_OF = 2  # Open Images: five or more touching instances under one box
    DIFFICULT = 4  # VOC: ignored by the protocol
    OCCLUDED = 8
    TRUNCATED = 16
    DEPICTION = 32  # Open Images: a drawing of the object
    INSIDE = 64  # Open Images: the object seen from inside
    IGNORE = 128  # an annotated region to be ignored
    REPEAT = 256  # the doctor: an earlier box of the image has the same place, flags and label
    NO_AREA = 512  # the doctor: no area inside the image, a coordinate that is not finite, or of unknown unit


#: Regions: they match nothing, and what lies on them teaches nothing for their classes (methods.md 0).
REGION: Final = BoxFlag.CROWD | BoxFlag.GROUP_OF | BoxFlag.DIFFICULT | BoxFlag.IGNORE
#: Kept for counting and evaluation, never shown to a model.
NOT_TRAINED: Final = BoxFlag.REPEAT | BoxFlag.NO_AREA

SCHEMA_VERSION: Final = 2


def _boxes(number: pa.DataType) -> pa.DataType:
    return pa.list_(pa.list_(number, 4))


PUBLISHED: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # unique in the dataset
        pa.field("split", pa.string()),  # train, val, test, or null where the source has none
        pa.field("path", pa.string()),  # of the image, relative to the source's image root; null: none was found
        pa.field("width", pa.int32()),  # pixels, as published; null where the format has none
        pa.field("height", pa.int32()),
        pa.field("boxes", _boxes(pa.float64()), nullable=False),
        pa.field("area", pa.list_(pa.float64())),  # published object area in pixels (COCO's segment area), else null
        pa.field("visible_boxes", _boxes(pa.float64())),  # the part of the object that is seen, else null
        pa.field("flags", pa.list_(pa.uint16()), nullable=False),  # BoxFlag
        pa.field("labels", pa.list_(pa.int32()), nullable=False),  # one row number of the class table a box
        pa.field("verified_positive", pa.list_(pa.int32()), nullable=False),  # image-level labels, else empty
        pa.field("verified_negative", pa.list_(pa.int32()), nullable=False),
        pa.field("not_exhaustive", pa.list_(pa.int32()), nullable=False),  # classes whose boxes are not all drawn
        pa.field("defects", pa.list_(pa.string()), nullable=False),  # defect.Defect or `kind: detail`, by the reader
    ]
)

SHARD: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        # as the `datasets` library writes images; bytes null: the image stays where it is, at `path` (an absolute
        # path or URI). A packed image lies at bytes [offset, offset + length) of the tar at `path`.
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("width", pa.int32(), nullable=False),  # pixels of the upright image
        pa.field("height", pa.int32(), nullable=False),
        pa.field("boxes", _boxes(pa.float32()), nullable=False),
        pa.field("area", pa.list_(pa.float32()), nullable=False),  # square pixels; width x height if none is published
        pa.field("visible_boxes", _boxes(pa.float32())),
        pa.field("flags", pa.list_(pa.uint16()), nullable=False),
        pa.field("labels", pa.list_(pa.list_(pa.int32())), nullable=False),  # one or more a box
        pa.field("verified_positive", pa.list_(pa.int32()), nullable=False),
        pa.field("verified_negative", pa.list_(pa.int32()), nullable=False),
        pa.field("not_exhaustive", pa.list_(pa.int32()), nullable=False),
    ]
)

#: One row an image, detections by falling score. Labels are rows of the class table in the schema's metadata, key
#: ``classes`` (LabelSpace.to_json as JSON text). Scores lie in [0, 1].
DETECTIONS: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("boxes", _boxes(pa.float32()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
    ]
)
