"""Time of a training step against torchvision's own detectors.

Purpose: forward pass, matching, sampling, losses, backward pass and SGD step of our RetinaNet and Faster R-CNN against
torchvision's of the same backbone (frozen batch norm), on the same images and boxes, in the same precision and memory
layout. Goal: 1.15 times as fast on a CPU.

    python experiments/benchmarks/train_step.py                        # ResNet-18, 320 px, a minute on one thread
    python experiments/benchmarks/train_step.py --side 160 --batch 8 --channels 64    # as small as the demo's model
    python experiments/benchmarks/train_step.py --backbone resnet50 --side 800 --batch 2 --classes 365
    python experiments/benchmarks/train_step.py --device cuda --backbone resnet50 --side 800 --batch 16

On a CPU the processor time of the process is taken rather than the clock, so that other programs disturb little; steps
of the two sides alternate and the median counts. On one thread with bf16 instructions, little else running,
torchvision's time over ours was:

    ResNet-18, 160 px, batch 8, 64 channels      RetinaNet 1.19            Faster R-CNN 1.65
    ResNet-18, 320 px, batch 2                   RetinaNet 1.07            Faster R-CNN 1.84
    ResNet-50, 448 px, batch 1                   RetinaNet 1.08            Faster R-CNN 1.43

Both sides run the same convolutions, and with 256 channels those are nine tenths of a RetinaNet's step; what is not a
convolution takes little more than half of torchvision's time. In a Faster R-CNN RoIAlign, proposals and sampling count.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to time."""

    detectors: tuple[Literal["retinanet", "faster_rcnn"], ...] = ("retinanet", "faster_rcnn")
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet18"
    side: int = 320
    """Height and width of the images in pixels."""
    batch: int = 2
    channels: int = 256
    """Of the pyramid, and of RetinaNet's heads."""
    classes: int = 80
    boxes: int = 8
    """Objects an image."""
    precision: Literal["bf16", "fp32"] = "bf16"
    steps: int = 5
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    scale: float = 1.0
    """Multiplies the number of steps."""


def main(args: Args) -> None:
    """Time both sides and print one table."""
    import torch
    from tqdm import tqdm

    from xray_det.display import Table, terminal

    torch.set_num_threads(args.threads)
    steps = max(2, round(args.steps * args.scale))
    title = (
        f"{args.backbone}, {args.side} px, batch {args.batch}, {args.classes} classes, {args.precision}, {args.device}"
    )
    table = Table("detector", "ours, s", "torchvision, s", "ratio", "images/s, ours", title=title)
    for name in args.detectors:
        torch.manual_seed(0)
        sides = [_ours(name, args), _theirs(name, args)]
        times: list[list[float]] = [[], []]
        for _ in tqdm(range(steps + 1), desc=name, leave=False):
            for side, step in enumerate(sides):
                times[side].append(_timed(step, args.device))
        ours, theirs = (statistics.median(own[1:]) for own in times)
        row = (f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.2f}", f"{args.batch / ours:.1f}")
        table.add_row(name, *row)
    terminal().print(table)


def _timed(step: Callable[[], None], device: str) -> float:
    import torch

    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def _scene(args: Args) -> tuple[Any, Any, Any]:
    """uint8 images [B, 3, S, S], boxes [B, n, 4] and labels [B, n]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.batch, 3, args.side, args.side), generator=generator, dtype=torch.uint8)
    corner = torch.rand(args.batch, args.boxes, 2, generator=generator) * args.side * 0.6
    size = (0.08 + 0.3 * torch.rand(args.batch, args.boxes, 2, generator=generator)) * args.side
    labels = torch.randint(0, args.classes, (args.batch, args.boxes), generator=generator)
    return images.to(args.device), torch.cat([corner, corner + size], 2).to(args.device), labels.to(args.device)


def _learn(model: Any, total: Callable[[], Any]) -> Callable[[], None]:
    """One SGD step on what ``total`` returns."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        total().backward()
        optimizer.step()

    return step


def _ours(name: str, args: Args) -> Callable[[], None]:
    import torch

    from xray_det.data.batch import Targets
    from xray_det.models import FasterRCNN, RetinaNet
    from xray_det.models.backbones import Backbone
    from xray_det.models.sampling import SampleKey

    backbone = Backbone(name=args.backbone, norm="frozen")
    kind = RetinaNet if name == "retinanet" else FasterRCNN
    detector = kind(backbone=backbone, channels=args.channels).build(args.classes).to(args.device)
    images, boxes, labels = _scene(args)
    known = torch.ones(args.batch * args.boxes, args.classes, dtype=torch.bool, device=args.device)
    targets = Targets(
        boxes=boxes.flatten(0, 1),
        box_image=torch.arange(args.batch, device=args.device).repeat_interleave(args.boxes),
        classes=torch.nn.functional.one_hot(labels.flatten(), args.classes).float(),
        classes_known=known,
        region=torch.zeros(len(known), dtype=torch.bool, device=args.device),
        absence_known=known.view(args.batch, args.boxes, -1)[:, 0],
    )
    sizes = torch.full((args.batch, 2), args.side, device=args.device)
    key = SampleKey(seed=0, phase=0, epoch=0, positions=torch.arange(args.batch, device=args.device))

    def total() -> Any:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            predictions = detector(images, sizes, targets, key)
        return sum(detector.losses(predictions, targets).mean().values())

    return _learn(detector, total)


def _theirs(name: str, args: Args) -> Callable[[], None]:
    import torch
    import torchvision
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

    # The library's own resizing and normalisation stay; the images already have their size.
    options = {"min_size": args.side, "max_size": args.side, "_skip_resize": True}
    network = torchvision.models.get_model(args.backbone, weights=None, norm_layer=FrozenBatchNorm2d)
    stages = (2, 3, 4) if name == "retinanet" else (1, 2, 3, 4)
    extra = LastLevelP6P7(args.channels, args.channels) if name == "retinanet" else LastLevelMaxPool()
    backbone = BackboneWithFPN(
        network,
        {f"layer{stage}": str(stage) for stage in stages},
        [network.inplanes // 2 ** (4 - stage) for stage in stages],
        args.channels,
        extra,
    )
    if name == "retinanet":
        sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
        anchors = detection.anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
        model = detection.RetinaNet(backbone, args.classes, anchor_generator=anchors, **options)
    else:
        model = detection.FasterRCNN(backbone, args.classes + 1, **options)
    model = model.to(args.device, memory_format=torch.channels_last).train()
    images, boxes, labels = _scene(args)
    shift = 1 if name == "faster_rcnn" else 0  # its class 0 is the background
    targets = [{"boxes": own, "labels": label + shift} for own, label in zip(boxes, labels, strict=True)]

    def total() -> Any:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            losses = model(list(images.float() / 255), targets)
        return sum(losses.values())

    return _learn(model, total)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
