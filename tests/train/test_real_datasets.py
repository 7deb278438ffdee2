"""From the published folder to a training step, with no option beyond the path: six real datasets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from xray_det.data.annotations import Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.batch import Batch
from xray_det.data.ingest import ingest_published
from xray_det.data.loader import Loader
from xray_det.data.manifest import TRAINING
from xray_det.data.sampling import SoftBalance
from xray_det.models.retinanet import slim
from xray_det.orchestrate.experiment import Data, Experiment, prepare
from xray_det.train.loop import run
from xray_det.train.phase import Phase
from xray_det.train.plain import PlainContext


class FirstBatch:
    """An epoch that is the first batch of the plan."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def steps_per_epoch(self, phase: int) -> int:
        return 1

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        plan = self.loader.plan(SoftBalance(), None, phase, epoch)
        return self.loader.batches(plan, phase, epoch, start, stop, 0, 1, None)


@pytest.mark.medium
@pytest.mark.parametrize("name", ["raccoon", "bccd", "fod_a", "playing_cards", "coco_tiny", "voc2012_100"])
def test_a_published_dataset_trains_a_step(shared_data: Path, tmp_path: Path, name: str) -> None:
    manifest = ingest_published([shared_data / name], str(tmp_path / "shards"), progress=False)
    experiment = Experiment(
        name=name,
        data=Data(train=(Selection(folder=manifest.folder, split=manifest.first_split(*TRAINING)),)),
        model=slim(),
        augmentation=Augmentation(short_side=(128,), max_side=160, iou_crop=0.5, zoom_out=0.2, photometric=0.5),
        phases=(Phase(lr=0.01),),
        batch=4,
    )
    prepared = prepare(experiment)
    torch.manual_seed(0)
    detector = experiment.model.build(len(prepared.space))
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    recipe = prepared.recipe
    logged: list[dict[str, float]] = []
    context = PlainContext(
        FirstBatch(prepared.loader), tmp_path / "run", on_log=lambda metrics, step: logged.append(dict(metrics))
    )
    run(context, recipe, detector, lambda model, folder: None)
    (point,) = logged
    assert 0 < point["train/loss"] < 100
    assert any(not torch.equal(before[key], value) for key, value in detector.state_dict().items())
