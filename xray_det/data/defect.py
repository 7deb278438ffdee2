"""The kinds of defect a published dataset has, as they are counted and named in reports."""

from enum import StrEnum


class Defect(StrEnum):
    """What is wrong with a box, an annotation file or an image. The value is the name used in every report."""

    # a box: flagged, never altered
    NO_AREA = "no_area"  # nothing of it lies inside the image: not trained on
    NOT_FINITE = "not_finite"  # a coordinate is NaN or infinite: not trained on
    FRACTIONS = "fractions"  # every box of its file lies in 0 to 1, where pixels are due: not trained on
    CORNERS = "corners"  # the boxes of its file fit as x1, y1, x2, y2 alone, where x, y, width, height are due: kept
    REPEAT = "repeat"  # an earlier box of the image has the same place, flags and label: not trained on
    OUTSIDE = "outside"  # reaches over the image's edge: clipped when it is loaded
    SEVERAL_LABELS = "several_labels"  # one place under several labels: one box with several labels
    FROM_SEGMENTATION = "from_segmentation"  # boxes of the image are those around its polygons or masks
    # an image or its annotation file: corrected
    WRONG_SIZE = "wrong_size"  # the published size is not the image's
    WRONG_FILE_NAME = "wrong_file_name"  # the annotation names another file; found by the annotation's own name
    EXIF_ROTATED = "exif_rotated"  # the image is stored turned or mirrored; read upright
    BAD_EXIF = "bad_exif"  # an orientation that does not exist; read as none
    GREYSCALE = "greyscale"  # read as RGB
    DEEP_IMAGE = "deep_image"  # more than 8 bits a channel: the upper 8 of those in use are read
    ZERO_BASED = "zero_based"  # a VOC file (counted from 1) holds a coordinate 0: kept
    CONTRADICTORY_LABEL = "contradictory_label"  # a class verified both present and absent: neither is kept
    OUTSIDE_LINK = "outside_link"  # a link leads out of the dataset's folder to the image or its annotation: followed
    # an image in the dataset's split lists
    IN_TWO_LISTS = "in_two_lists"  # of different splits: it is in the first alone
    LISTED_TWICE = "listed_twice"  # in one list: it counts once
    IN_NO_LIST = "in_no_list"  # there are lists: it is in no split
    LISTED_WITHOUT_IMAGE = "listed_without_image"  # a line that fits no image, or several
    # an image: quarantined
    TRUNCATED_IMAGE = "truncated_image"  # the file ends too early
    UNREADABLE_IMAGE = "unreadable_image"  # empty, damaged, or not an image
    MISSING_IMAGE = "missing_image"  # there is no such file
    NO_ANNOTATION = "no_annotation"  # an image that no annotation file speaks of
    IMAGE_BOMB = "image_bomb"  # claims more pixels than anyone photographs
    # between images: named across the dataset
    DUPLICATE_IMAGE = "duplicate_image"  # the same bytes as another image


#: An image with one of these never reaches a shard.
QUARANTINED = frozenset(
    {
        Defect.TRUNCATED_IMAGE,
        Defect.UNREADABLE_IMAGE,
        Defect.MISSING_IMAGE,
        Defect.NO_ANNOTATION,
        Defect.IMAGE_BOMB,
    }
)


def noted(kind: Defect, detail: str = "") -> str:
    """An entry of PUBLISHED's ``defects``: the kind, and after a colon what a person wants to know of it."""
    return f"{kind}: {detail}" if detail else str(kind)


def parse_note(note: str) -> tuple[Defect, str]:
    """The kind and the detail of an entry of ``defects``."""
    kind, _, detail = note.partition(": ")
    return Defect(kind), detail
