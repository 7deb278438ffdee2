"""What a miniature is made of."""

from dataclasses import dataclass

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """Parameters of the two rendered releases; equal parameters give equal bytes.

    The defaults are hard enough for a tail to stay behind and easy enough to be learnt in minutes: a small classifier
    of the cut-out objects reaches 0.85 / 0.50 / 0.26 accuracy in head / middle / tail after 3 natural epochs,
    0.91 / 0.86 / 0.76 after 6, and 0.92 / 0.87 / 0.83 after 3 epochs that draw objects with soft-balance 0.7.

    Args:
        classes: glyph classes over both releases; the parents (Letter, Vowel) come on top.
        zipf: the k-th class has a share of the training objects in proportion to 1 / k^zipf.
        zipf_validation: the same for validation; flatter, so that the tail is measured on more than a few boxes.
        least: fewest training objects of a class in one release.
        images, validation_images: of both releases together.
        objects: fewest and most objects an image.
        size: longer side of an image in pixels; the shorter one is down to ``narrowest`` of it.
        object_size: smallest and largest longer side of a glyph, as shares of ``size``.
        rotation_degrees: glyphs are turned by up to this much either way.
        stretch: glyphs are up to this much wider or narrower than their font's.
        fonts, styles: how many of the fonts, and of solid, outlined and hollow glyphs, occur.
        exclusive: share of the classes that only one of the releases labels, half of them each.
        look_alikes: pairs of classes that look the same (O and 0), out of ``classes``.
        look_alike_both: share of their objects that carry both labels, as two nearly equal boxes; the others carry
            one of the two at random.
        parents_without_leaf: share of a letter's images, in the release with a hierarchy, that name its parent alone.
        overlooked: share of the classes of a training image, in the release with a hierarchy, whose objects there have
            no box and nobody verified; the first object's class never is.
        negatives, validation_negatives: classes verified to be absent, in each image of that release.
        defects: planted in the training split of each release, of each kind.
    """

    classes: int = 40
    zipf: float = 1.3
    zipf_validation: float = 0.3
    least: int = 5
    images: int = 1500
    validation_images: int = 300
    objects: tuple[int, int] = (1, 3)
    size: int = 160
    narrowest: float = 0.75
    object_size: tuple[float, float] = (0.2, 0.45)
    rotation_degrees: float = 20.0
    stretch: float = 0.2
    fonts: int = 5
    styles: int = 3
    exclusive: float = 0.4
    look_alikes: int = 2
    look_alike_both: float = 0.3
    parents_without_leaf: float = 0.1
    overlooked: float = 0.0
    negatives: int = 4
    validation_negatives: int = 12
    defects: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"classes": 2, "least": 0, "images": 2, "validation_images": 2, "size": 32, "fonts": 1, "styles": 1}
        least |= dict.fromkeys(("look_alikes", "negatives", "validation_negatives", "defects", "seed"), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"Miniature.{name}", f"{getattr(self, name)} is too few", f"Give {low} or more")
        for name in ("exclusive", "look_alike_both", "parents_without_leaf", "overlooked", "narrowest", "stretch"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"Miniature.{name}", f"{getattr(self, name)} is no share", "Give 0 to 1")
        for name, top in (("objects", 99), ("object_size", 1)):
            smallest, largest = getattr(self, name)
            if not 0 < smallest <= largest <= top:
                problem = f"{smallest} to {largest} is no range"
                raise InputError(f"Miniature.{name}", problem, f"Give two rising numbers above 0, up to {top}")
        if 2 * self.look_alikes > self.classes:
            problem = f"{self.look_alikes} pairs do not fit {self.classes} classes"
            raise InputError("Miniature.look_alikes", problem, "Give fewer pairs or more classes")
