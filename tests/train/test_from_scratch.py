"""As a user begins: a named model, the default phase, photographs of COCO, no weights. The loss falls."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.losses.made_statistics import statistics
from xray_det.data.annotations import Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.batch import Batch
from xray_det.data.ingest import ingest_published
from xray_det.data.loader import Loader
from xray_det.losses import (
    Classification,
    ConcurrentSoftmax,
    EffectiveNumber,
    EqualizationV2,
    Federated,
    Seesaw,
    SigmoidFocal,
    Softmax,
)
from xray_det.models import FasterRCNN, Model, RetinaNet
from xray_det.models.backbones import Backbone
from xray_det.models.retinanet import slim
from xray_det.orchestrate.experiment import Data, Experiment, prepare
from xray_det.train.loop import run
from xray_det.train.phase import Phase
from xray_det.train.plain import PlainContext

BATCH, EPOCHS, IMAGES = 2, 17, 6  # 51 steps

NARROW_RETINANET = slim()
NARROW_FASTER_RCNN = FasterRCNN(backbone=Backbone(name="resnet18"), channels=64, head_channels=256, rois=128)

LOSSES: list[Classification] = [
    SigmoidFocal(),
    SigmoidFocal(alpha=None, gamma=0.0),
    Softmax(),
    ConcurrentSoftmax(),
    EffectiveNumber(loss=SigmoidFocal()),
    Federated(),
    Seesaw(),
    EqualizationV2(),
]


class Epochs:
    """The loader's own batches, in one process."""

    def __init__(self, loader: Loader, phase: Phase) -> None:
        self.loader, self.phase = loader, phase

    def steps_per_epoch(self, phase: int) -> int:
        return IMAGES // BATCH

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        plan = self.loader.plan(self.phase.sampling_at(epoch, self.steps_per_epoch(phase)), None, phase, epoch)
        return self.loader.batches(plan, phase, epoch, start, stop, 0, 1, None)


def loss_of_each_epoch(model: Model, folder: Path, dataset: str, side: int) -> np.ndarray:
    """[EPOCHS], the mean over the epoch's batches: the same images each time."""
    experiment = Experiment(
        name="scratch",
        data=Data(train=(Selection(folder=dataset, split="val"),)),
        model=model,
        augmentation=Augmentation(short_side=(side,), max_side=side),
        phases=(Phase(epochs=EPOCHS),),
        batch=BATCH,
        log_every=1,
    )
    prepared = prepare(experiment)
    classes = len(prepared.space)
    torch.manual_seed(0)
    rates = np.where(np.random.default_rng(0).random((classes, classes)) < 0.02, 0.5, 0.0)
    counted = None if model.classification.needs is None else statistics(classes, rates=rates)
    detector = model.build(classes, counted)
    points: list[float] = []
    epochs = Epochs(prepared.loader, experiment.phases[0])
    context = PlainContext(epochs, folder, on_log=lambda metrics, step: points.append(metrics["train/loss"]))
    run(context, prepared.recipe, detector, lambda model, to: None)  # Diverged, were a loss not finite
    return np.array(points[: EPOCHS * epochs.steps_per_epoch(0)]).reshape(EPOCHS, -1).mean(1)


@pytest.fixture(scope="module")
def coco_tiny(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("coco_tiny") / "shards"
    return ingest_published([shared_data / "coco_tiny"], str(out), progress=False).folder


@pytest.mark.slow
@pytest.mark.parametrize("model", [RetinaNet(), FasterRCNN(), slim()], ids=["RetinaNet", "FasterRCNN", "slim"])
def test_a_named_model_learns_in_the_default_phase(model: Model, coco_tiny: str, tmp_path: Path) -> None:
    losses = loss_of_each_epoch(model, tmp_path, coco_tiny, side=128)
    assert losses[-3:].mean() < 0.95 * losses[:3].mean()
    assert losses.max() < 3 * losses[0]  # a spike behind the warm-up is passed, a blow-up is not


@pytest.mark.slow
@pytest.mark.parametrize("model", [NARROW_RETINANET, NARROW_FASTER_RCNN], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda c: type(c).__name__)
def test_every_loss_learns_in_the_default_phase(
    model: Model, loss: Classification, coco_tiny: str, tmp_path: Path
) -> None:
    losses = loss_of_each_epoch(replace(model, classification=loss), tmp_path, coco_tiny, side=96)
    assert losses[-3:].mean() < 0.95 * losses[:3].mean()
    assert losses.max() < 3 * losses[0]  # a spike behind the warm-up is passed, a blow-up is not
