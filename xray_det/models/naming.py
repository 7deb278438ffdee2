"""Which tensors of a file are a backbone's, whatever library named them.

A key is a place (``backbone.bottom_up.``, ``module.encoder.``, nothing) and a name (``res2.0.conv1.norm.bias``). Names
are rewritten to torchvision's by the rules below. The network's place is the one that holds most of its names, so no
list of places is needed. There are rules for Detectron2's and Transformers' ResNet and for mmdetection's and
mmpretrain's MobileNetV2; mmdetection, timm, DETR and torchvision's detectors name a ResNet as torchvision does. Other
libraries' MobileNets are not known.

Names say nothing of how a network is used. The "caffe" networks of Detectron2 (its model zoo's R-50 and R-101) and
mmdetection want BGR pixels from 0 to 255 and stride in a block's first convolution: their keys fit, their features
would be wrong. Do not give them.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from xray_det.errors import InputError

_DETECTRON2_STAGE = r"res([2-5])\.(\d+)"
_TRANSFORMERS_STAGE = r"encoder\.stages\.([0-3])\.layers\.(\d+)"
#: mmdetection's and mmpretrain's MobileNetV2: the first block of layer1 to layer7 in torchvision's numbers.
_FIRST_BLOCK = (1, 2, 4, 7, 11, 14, 17)


def _inverted_residual(found: re.Match[str]) -> str:
    """``layer2.0.conv.1.bn`` or ``layer2.0.depthwise_conv.bn`` -> ``features.2.conv.1.1``."""
    layer, block, number, name, kind = found.groups()
    expands = layer != "1"  # the first block has two convolutions, the others three
    place = int(number) if number else ("expand", "depthwise", "linear").index(name) - (not expands)
    block = _FIRST_BLOCK[int(layer) - 1] + int(block)
    if place == 1 + expands:  # the last: torchvision wraps the others together with their norm
        return f"features.{block}.conv.{place + (kind == 'bn')}."
    return f"features.{block}.conv.{place}.{int(kind == 'bn')}."


#: Pattern at the start of a file's name -> torchvision's. The first that matches is taken.
RULES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    # Detectron2's ResNet
    (r"stem\.conv1\.norm\.", lambda m: "bn1."),
    (r"stem\.conv1\.", lambda m: "conv1."),
    (_DETECTRON2_STAGE + r"\.shortcut\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.1."),
    (_DETECTRON2_STAGE + r"\.shortcut\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.0."),
    (_DETECTRON2_STAGE + r"\.conv([1-3])\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}."),
    (_DETECTRON2_STAGE + r"\.conv([1-3])\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.conv{m[3]}."),
    # Transformers' ResNet
    (r"embedder\.embedder\.convolution\.", lambda m: "conv1."),
    (r"embedder\.embedder\.normalization\.", lambda m: "bn1."),
    (_TRANSFORMERS_STAGE + r"\.shortcut\.convolution\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.0."),
    (_TRANSFORMERS_STAGE + r"\.shortcut\.normalization\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.1."),
    (
        _TRANSFORMERS_STAGE + r"\.layer\.([0-2])\.convolution\.",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.conv{int(m[3]) + 1}.",
    ),
    (
        _TRANSFORMERS_STAGE + r"\.layer\.([0-2])\.normalization\.",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.bn{int(m[3]) + 1}.",
    ),
    # mmdetection's and mmpretrain's MobileNetV2
    (r"conv1\.conv\.", lambda m: "features.0.0."),
    (r"conv1\.bn\.", lambda m: "features.0.1."),
    (r"conv2\.conv\.", lambda m: "features.18.0."),
    (r"conv2\.bn\.", lambda m: "features.18.1."),
    (r"layer([1-7])\.(\d+)\.(?:conv\.([0-2])|(expand|depthwise|linear)_conv)\.(conv|bn)\.", _inverted_residual),
)
_RULES = tuple((re.compile(r"(?:^|(?<=\.))" + pattern), to) for pattern, to in RULES)


def torchvision_name(key: str) -> str:
    """A file's key with the part that a rule knows in torchvision's spelling; its place stays before it."""
    for pattern, to in _RULES:
        renamed, count = pattern.subn(to, key, count=1)
        if count:
            return renamed
    return key


def backbone_keys(keys: Iterable[str], own: Collection[str], source: str) -> dict[str, str]:
    """Those of a file's keys that name tensors of the network, by what torchvision calls them.

    Args:
        keys: of the file.
        own: of the network.
        source: the file, for messages.

    Returns:
        torchvision's name -> key of the file. Names that the network lacks (a deeper one's blocks) are among them;
        what lies elsewhere or under other names (a classifier, a pyramid, heads) is not.

    Raises:
        InputError: two places hold as much of the network as each other (a student and a teacher).
    """
    roots = "|".join(sorted({re.escape(key.split(".")[0]) for key in own}))
    below = re.compile(rf"(?s)((?:.*?\.)??)((?:{roots})\..+)")
    places: dict[str, dict[str, str]] = {}
    for key in keys:
        if found := below.fullmatch(torchvision_name(key)):
            places.setdefault(found[1], {})[found[2]] = key
    held = Counter({place: sum(name in own for name in names) for place, names in places.items()})
    best = held.most_common(2)
    if not best or not best[0][1]:
        return {}
    if len(best) == 2 and best[0][1] == best[1][1]:
        raise InputError(
            source,
            f"holds the network twice, below {best[0][0]!r} and {best[1][0]!r}",
            "Save the tensors of one of them in a file of their own",
        )
    return places[best[0][0]]
