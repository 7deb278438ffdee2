"""The miniature on which the papers' claims are tried: data, detector, schedule; fixed before arms were compared.

One dataset, one detector and one schedule serve all claims, so that arms are shared between tables.

    classes     42 characters and their two parents (Letter, Vowel), in five fonts, three styles, turned by up to 20
                degrees, 20 to 45 % of an image of 128 px: a small detector cannot learn them by one template each
    long tail   800 training images, class counts by Zipf's law (exponent 1.2) from 311 down to 8, of which the missing
                leaves below take some: 246 to 4 images are left, 18 of the 44 classes have 4 to 8, as many as the
                papers' rarest have
    objects     1 or 2 an image: with more, the tail would be drawn along with the head, whatever the sampling
    validation  300 images, every class alike often, so that the tail is measured on as many boxes as the head
    noise       that of Open Images: 5 pairs of look-alikes spread over the frequencies, 30 % of their objects under
                both names as two nearly equal boxes, the others under one of the two at random; in a fifth of a
                letter's images its parent's name alone. Every class that is away is verified to be, so that nothing
                else is unknown
    scored on   the same noise by Open Images' protocol (``noisy``), as the paper is, and clean truth by COCO's
                (``clean``): every object under every name that fits it
    detector    Faster R-CNN, as the papers', in small: ResNet-18, pyramid of 64 channels from P3 to P5, 64 RoIs
    schedule    12 epochs, for arms of about 8 minutes on a core: with half of them the natural arm, looked at before
                any other, came to 14 % AP and was still learning, with 12 to 37 (head 52, tail 25; one seed), as far as
                the papers' natural ones; AdamW, batch 8, half an epoch of warm-up, a tenth of
                the learning rate after two thirds: what a training from scratch of so few steps needs; half the
                learning rate where a phase goes on from another, as in rungs.py. No flip: a mirrored character is
                another one

Cost: rendering and ingest take seconds, once.
"""

import os
from dataclasses import replace
from pathlib import Path

from xray_det.data.annotations import Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.manifest import Manifest
from xray_det.data.miniature.ingested import ingested, rendered
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.sampling import Natural, Sampling
from xray_det.labels.frequency import BANDS
from xray_det.models.anchors import Anchors
from xray_det.models.backbones import Backbone
from xray_det.models.decoding import Decoding
from xray_det.models.faster_rcnn import FasterRCNN
from xray_det.models.rpn import Proposals
from xray_det.orchestrate.experiment import Data, Experiment
from xray_det.train.phase import AdamW, Phase

#: Epochs of a training; a second phase has half of them.
EPOCHS = 12
#: What an epoch takes: 24 images a second, in processor time on a busy core.
EPOCH_S = 34.0
#: The learning rate's drop, as a share of a phase.
DROP = 2 / 3

DATA = Miniature(
    classes=42,
    zipf=1.2,
    zipf_validation=0.0,
    least=8,
    images=1600,  # of two releases; the one with the hierarchy is used
    validation_images=600,
    objects=(1, 2),
    size=128,
    exclusive=0.0,
    look_alikes=5,
    look_alike_both=0.3,
    parents_without_leaf=0.2,
    negatives=44,
    validation_negatives=44,
    defects=0,
)
SMOKE = replace(DATA, classes=8, look_alikes=1, images=64, validation_images=24, least=2)

DETECTOR = FasterRCNN(
    backbone=Backbone(name="resnet18"),
    levels=(3, 5),
    channels=64,
    proposals=Proposals(
        anchors=Anchors(scales=(4.0,)),
        sampled=64,
        candidates_train=300,
        candidates_test=300,
        kept_train=200,
        kept_test=100,
    ),
    pool=7,
    head_channels=256,
    rois=64,
    decoding=Decoding(score_threshold=0.01),
)

#: Columns of the studies' tables: overall and by band, on the noise that was trained on and on clean truth.
METRICS = {
    "noisy": "val/open_images/open_images/mAP",
    **{f"noisy {band}": f"val/open_images/open_images/AP_{band}" for band in BANDS},
    "clean": "val/truth/coco/AP",
    **{f"clean {band}": f"val/truth/coco/AP_{band}" for band in BANDS},
}


def data(parameters: Miniature = DATA) -> Data:
    """Rendered and ingested, unless it has been."""
    folder, releases = rendered(parameters)
    images = Path(folder, "truth", "images")  # where the truth's file names look for them
    if not images.exists():
        os.symlink(releases.open_images / "images", images)
    published, truth = (ingested(folder, path) for path in (releases.open_images, releases.truth["open_images"]))
    return Data(train=(_split(published, "train"),), val=(_split(published, "val"), _split(truth, "val")))


def _split(manifest: Manifest, name: str) -> Selection:
    return Selection(folder=manifest.folder, split=manifest.first_split(name))


def phase(epochs: int = EPOCHS, sampling: Sampling | None = None) -> Phase:
    """A training from scratch."""
    return Phase(
        epochs=epochs,
        sampling=sampling or Natural(),
        optimizer=AdamW(),
        lr=0.001,
        warmup_epochs=0.5,
        drops=(DROP * epochs,),
        clip=10.0,
    )


def second(first: Phase, sampling: Sampling) -> Phase:
    """What goes on from a phase: half as long, with half its learning rate and a drop of its own."""
    epochs = max(1, first.epochs // 2)
    drops = tuple(drop * epochs / first.epochs for drop in first.drops)
    return replace(first, epochs=epochs, sampling=sampling, lr=first.lr / 2, drops=drops)


def experiment(*, smoke: bool = False) -> Experiment:
    """The natural training that every study compares with; its seed and name are the study's."""
    return Experiment(
        name="natural",
        data=data(SMOKE if smoke else DATA),
        model=DETECTOR,
        augmentation=Augmentation(short_side=(128,), max_side=128, flip=0.0, scale_jitter=(0.8, 1.25)),
        phases=(phase(1 if smoke else EPOCHS),),
        batch=8,
        workers=1,
        precision="fp32" if smoke else "bf16",  # not every CPU has bf16
    )
