"""Experts: which classes they learn, what they begin with, and how they are trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_dataset import NAMES, experiment, write_dataset

from xray_det import config, storage
from xray_det.data.annotations import Selection
from xray_det.errors import InputError
from xray_det.inference.predict import open_prediction
from xray_det.labels.space import Class, LabelSpace
from xray_det.models.weights import read_config, save_detector
from xray_det.orchestrate.experiment import Experiment, prepare
from xray_det.orchestrate.experts import (
    GENERAL,
    OTHERS,
    Scores,
    best_combination,
    choose_bands,
    drawn_images,
    expert_experiment,
    find_weights,
    instance_counts,
    score_all,
)
from xray_det.orchestrate.run_folder import Result, RunFolder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares", images=40)


def general(dataset: str, folder: Path, names: tuple[str, ...] = NAMES) -> tuple[str, Experiment]:
    """Weights of a detector that says it was trained on the dataset, and finds something everywhere: its class scores
    begin around a half."""
    made = experiment(dataset, folder.parent / "runs")
    made = config.replace(made, "model.decoding.max_detections", 1000)  # so many that no combination is cut
    space = LabelSpace(name="squares", classes=tuple(Class(name=name, source_id=name) for name in names))
    torch.manual_seed(len(names))
    detector = made.model.build(len(names))
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name == "class_head.last.bias":
                parameter.zero_()
            elif "last.weight" in name:
                parameter.mul_(10)
    save_detector(folder, detector, space, experiment=prepare(made).document["experiment"])
    return str(folder), made


def test_experts_go_on_with_the_last_phase_of_the_general_detector(dataset: str, tmp_path: Path) -> None:
    weights, made = general(dataset, tmp_path / "weights")
    found = expert_experiment(weights, "experts")
    last = replace(made.phases[-1], keep_optimizer=False)
    expected = replace(made, name="experts", phases=(last,), start_from=weights, out="", device="auto")
    assert found == expected
    # the general detector's own start was its own matter
    stored = read_config(weights)
    stored["experiment"]["start_partial"] = True
    storage.write_json(Path(weights) / "config.json", stored)
    assert expert_experiment(weights, "experts") == expected
    silent = tmp_path / "silent"
    space = LabelSpace(name="s", classes=tuple(Class(name=name, source_id=name) for name in NAMES))
    save_detector(silent, made.model.build(3), space)
    with pytest.raises(InputError, match="does not say how the detector was trained"):
        expert_experiment(str(silent), "experts")
    stored["experiment"]["seed"] = "one"
    storage.write_json(Path(weights) / "config.json", stored)
    with pytest.raises(InputError, match=r"config\.json: experiment: seed: 'one' is not allowed"):
        expert_experiment(weights, "experts")


def test_bands_are_ranks_by_boxes_in_the_training_images(dataset: str, tmp_path: Path) -> None:
    weights, _ = general(dataset, tmp_path / "weights")
    prepared = prepare(expert_experiment(weights, "experts"))
    labels = pq.read_table(Path(dataset) / "shards" / "0.parquet")["labels"].to_pylist()
    counts = {name: sum(row.count([label]) for row in labels) for label, name in enumerate(NAMES)}
    assert instance_counts(prepared) == counts
    order = sorted(NAMES, key=lambda name: -counts[name])
    bands = choose_bands(prepared)
    assert [(band.label, band.names) for band in bands] == [("2-2", (order[1],)), ("3-3", (order[2],))]
    (all_of_them,) = choose_bands(prepared, [(1, 3)])
    assert all_of_them.names == tuple(order)
    assert all_of_them.instances == (counts[order[0]], counts[order[2]])
    with pytest.raises(InputError, match="2-4 is no range of the 3 classes"):
        choose_bands(prepared, [(2, 4)])
    with pytest.raises(InputError, match="1-2 and 2-3 overlap"):
        choose_bands(prepared, [(2, 3), (1, 2)])
    # an epoch of an expert is as long as its images are many
    data = replace(prepared.experiment.data, classes=bands[1].names)
    held = sum([NAMES.index(order[2])] in row for row in labels)
    assert drawn_images(prepare(replace(prepared.experiment, data=data))) == held < drawn_images(prepared) == 40


def test_a_general_detector_of_other_classes_is_refused(dataset: str, tmp_path: Path) -> None:
    weights, _ = general(dataset, tmp_path / "weights", names=(NAMES[0], NAMES[1], "pink"))
    with pytest.raises(InputError, match="has no class 'blue'") as caught:
        choose_bands(prepare(expert_experiment(weights, "experts")))
    assert caught.value.where == weights


def test_a_general_detector_is_found_by_its_weights_its_run_or_the_runs_name(
    dataset: str, tmp_path: Path, home: Path
) -> None:
    weights, _ = general(dataset, tmp_path / "weights")
    assert find_weights(weights) == weights
    for folder in (tmp_path / "run", home / "runs" / "by_name"):
        RunFolder(uri=str(folder), fingerprint="").finish(
            Result(folder=str(folder), weights=weights, phases=(weights,), steps=1, metrics={})
        )
    assert find_weights(str(tmp_path / "run")) == find_weights("by_name") == weights
    with pytest.raises(InputError, match="neither a weights folder nor a run"):
        find_weights("nothing")


def test_the_combination_with_the_best_mean_over_datasets_is_chosen() -> None:
    def scores(key: str, own: float, union: float, wbf: float) -> Scores:
        ap = {GENERAL: (0.5, None), "own": (own, None), "union": (union, None), "wbf": (wbf, None)}
        return Scores(key=key, names=("a", "b"), counts=(2, 1), bands={OTHERS: (0,), "2-2": (1,)}, ap=ap)

    both = [scores("x/coco", 0.6, 0.7, 0.1), scores("y/coco", 0.6, 0.3, 0.9)]
    assert best_combination(both) == "own"
    assert best_combination(both[1:]) == "wbf"
    gained = both[0].gains("wbf")
    assert (gained.rose, gained.fell, gained.classes) == (0, 1, 1)
    assert gained.bands[OTHERS] == pytest.approx(0.1)
    assert np.isnan(gained.bands["2-2"])
    assert Scores(**both[0].to_json()).gains("own") == both[0].gains("own")


def test_all_detectors_and_combinations_are_measured_on_all_images(dataset: str, tmp_path: Path) -> None:
    weights, _ = general(dataset, tmp_path / "weights")
    found = expert_experiment(weights, "experts")
    prepared = prepare(found)
    bands = choose_bands(prepared)
    detectors = {GENERAL: weights}
    for band in bands:
        detectors[f"experts {band.label}"], _ = general(dataset, tmp_path / band.label, names=band.names)
    images = [Selection(folder=write_dataset(tmp_path / "val", name="val", images=16, seed=1))]
    told = {"experiment": found, "bands": bands, "counts": instance_counts(prepared)}
    (scores,) = score_all(detectors, list(detectors)[1:], images, str(tmp_path / "detections"), **told)
    assert scores.key == "val/coco"
    assert scores.names == NAMES
    assert set(scores.ap) == {*detectors, "own", "union", "wbf"}
    assert [sorted(rows) for rows in scores.bands.values()] == [
        [NAMES.index(name) for name in names]
        for names in (set(NAMES) - {*bands[0].names, *bands[1].names}, bands[0].names, bands[1].names)
    ]
    # a class of `own` is its expert's, and the others are the general detector's; an expert has no other class
    for band in bands:
        expert, row = scores.of(f"experts {band.label}"), NAMES.index(band.names[0])
        assert scores.of("own")[row] == pytest.approx(expert[row], abs=1e-9)
        assert np.isnan(np.delete(expert, row)).all()
    (other,) = scores.bands[OTHERS]
    assert scores.of("own")[other] == pytest.approx(scores.of(GENERAL)[other], abs=1e-9)
    assert scores.of(GENERAL)[other] > 0
    assert len(open_prediction(str(tmp_path / "detections" / "wbf")).table()) == 16
