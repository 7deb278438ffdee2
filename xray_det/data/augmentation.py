"""How images are shown to a detector: sizes and random changes. Data alone; geometry.py and transforms.py act on it."""

from dataclasses import dataclass, replace
from typing import Self

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Sizes in pixels, chances in [0, 1]. In the order in which they act: zoom-out, IoU crop, resize, jitter, flip.

    Attributes:
        short_side: the shorter side is resized to one of these, drawn alike.
        max_side: the longer side is never longer; the short side then gets shorter.
        test_short_side: the shorter side where the detector is measured or used; None: the largest of ``short_side``.
        test_max_side: ``max_side`` there; None: that of training.
        scale_jitter: a factor drawn from this range zooms in (a window of the image at the size of the whole) or out
            (the whole image, smaller), as in large-scale jitter; None for none.
        flip: chance of a horizontal flip.
        iou_crop: chance that SSD's crop is tried: a window that overlaps some box by a drawn least IoU. Objects whose
            centre leaves the window become regions.
        zoom_out: chance that the image is placed in a larger scene of the fill colour.
        zoom_out_sides: range of the scene's side over the image's.
        photometric: chance that colours are distorted (brightness, contrast, saturation, hue, channel order).
        multiple: the canvas of a batch is rounded up to a multiple of this.
        fill: red, green, blue of what is not image: near ImageNet's mean, so that it is near 0 once normalised.
    """

    short_side: tuple[int, ...] = (800,)
    max_side: int = 1333
    test_short_side: int | None = None
    test_max_side: int | None = None
    scale_jitter: tuple[float, float] | None = None
    flip: float = 0.5
    iou_crop: float = 0.0
    zoom_out: float = 0.0
    zoom_out_sides: tuple[float, float] = (1.0, 4.0)
    photometric: float = 0.0
    multiple: int = 32
    fill: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self) -> None:
        def check(holds: bool, field: str, allowed: str) -> None:
            if not holds:
                value = getattr(self, field)
                raise InputError(f"augmentation.{field}", f"{value!r} is not {allowed}", f"Give {allowed}")

        check(
            len(self.short_side) > 0 and all(1 <= side <= self.max_side for side in self.short_side),
            "short_side",
            f"one or more sides from 1 to max_side, {self.max_side}",
        )
        check(1 <= self.max_side <= 16384, "max_side", "a number from 1 to 16384")
        short, longest = self._test_sides()
        if self.test_short_side is not None:
            check(1 <= short <= longest, "test_short_side", f"a side from 1 to {longest}, the longest at test")
        if self.test_max_side is not None:
            allowed = f"a number from {short}, the shorter side at test, to 16384"
            check(short <= longest <= 16384, "test_max_side", allowed)
        for field in ("flip", "iou_crop", "zoom_out", "photometric"):
            check(0 <= getattr(self, field) <= 1, field, "a chance from 0 to 1")
        if self.scale_jitter is not None:
            low, high = self.scale_jitter
            check(0 < low <= high <= 16, "scale_jitter", "a rising range within 0 to 16, 0 left out")
        low, high = self.zoom_out_sides
        check(1 <= low <= high <= 16, "zoom_out_sides", "a rising range within 1 to 16")
        check(1 <= self.multiple <= 1024, "multiple", "a number from 1 to 1024")
        check(len(self.fill) == 3 and all(0 <= value <= 255 for value in self.fill), "fill", "three numbers 0 to 255")

    def evaluation(self) -> Self:
        """The sizes at test with nothing random: no jitter, crop, flip or distortion."""
        short, longest = self._test_sides()
        return replace(
            self,
            short_side=(short,),
            max_side=longest,
            test_short_side=None,
            test_max_side=None,
            scale_jitter=None,
            flip=0.0,
            iou_crop=0.0,
            zoom_out=0.0,
            photometric=0.0,
        )

    def _test_sides(self) -> tuple[int, int]:
        """The shorter side at test, and the most that the longer one may be."""
        short = max(self.short_side) if self.test_short_side is None else self.test_short_side
        return short, self.max_side if self.test_max_side is None else self.test_max_side
