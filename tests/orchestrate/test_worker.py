"""How a worker builds the detector that a training starts with."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch
from made_dataset import NAMES, experiment, write_dataset

from xray_det.errors import InputError
from xray_det.labels.space import Class, LabelSpace
from xray_det.models.weights import save_detector
from xray_det.orchestrate.experiment import prepare
from xray_det.orchestrate.resources import Share
from xray_det.orchestrate.run_folder import RunFolder
from xray_det.orchestrate.worker import Assignment, build_detector


def test_a_start_is_built_with_the_norm_of_its_detector_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = SimpleNamespace(get_local_rank=lambda: 0, get_world_size=lambda: 1, get_world_rank=lambda: 0)
    monkeypatch.setattr(ray.train, "get_context", lambda: alone)
    made = experiment(write_dataset(tmp_path / "squares", images=4), tmp_path, start_from=str(tmp_path / "start"))
    frozen = replace(made.model, backbone=replace(made.model.backbone, norm="frozen"))
    space = LabelSpace(name="squares", classes=tuple(Class(name=name, source_id=name) for name in NAMES))
    torch.manual_seed(7)
    theirs = frozen.build(len(NAMES))
    save_detector(tmp_path / "start", theirs, space)
    run = RunFolder(uri=str(tmp_path / "run"), fingerprint="")
    share = Share(workers=1, min_workers=1, device="cpu", gpus_per_worker=0.0, data_cpus=1.0)

    detector = build_detector(prepare(made), Assignment(experiment=made, run=run, allotted=share))
    assert detector.config == frozen
    own, start = detector.state_dict(), theirs.state_dict()
    assert all(torch.equal(own[key], start[key]) for key in own)
    first = (tmp_path / "run" / "loaded_weights.txt").read_text().splitlines()[0]
    assert first.endswith(f"{len(own) - 2} taken, 2 in part, 0 left, 0 missing")

    other = replace(made, model=replace(made.model, channels=8))
    with pytest.raises(InputError, match="does not fit this RetinaNet"):
        build_detector(prepare(other), Assignment(experiment=other, run=run, allotted=share))
    other = replace(other, start_partial=True)
    build_detector(prepare(other), Assignment(experiment=other, run=run, allotted=share))
    assert "left" in (tmp_path / "run" / "loaded_weights.txt").read_text()
