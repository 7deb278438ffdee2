"""A run is read back from the files it left; what is missing is named."""

from pathlib import Path

import pytest
from made_runs import write_run, write_validation

from xray_det import storage
from xray_det.errors import InputError
from xray_det.evaluation.variants import Cost
from xray_det.orchestrate import run_folder
from xray_det.tracking import records
from xray_det.tracking.tracker import Tracker

CLASSES = {"d/voc": [("a", 9, 0.5), ("b", 3, None)]}


def test_names_of_files_are_those_that_a_run_writes() -> None:
    assert (records.EXPERIMENT, records.FINISHED) == (run_folder.EXPERIMENT, run_folder.FINISHED)


def test_a_run_is_read_by_its_newest_validation(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", {"d/voc": [("a", 9, 0.1)]}, step=9, cost={"cpu_hours": 1.5, "gpu_hours": 0.0})
    write_validation(tmp_path / "one", 0, 3, 200, CLASSES)
    write_validation(tmp_path / "one", 1, 10, 100, {})
    (tmp_path / "one" / "validations" / "phase-1-epoch-2-detections").mkdir()
    run = records.read_run(folder)
    assert (run.name, run.step, run.finished, run.cost) == ("one", 200, True, Cost(cpu_hours=1.5, gpu_hours=0.0))
    assert [row.ap for row in run.measured.classes["d/voc"]] == [0.5, None]


def test_parameters_are_what_the_outcome_depends_on(tmp_path: Path) -> None:
    found = records.read_run(write_run(tmp_path / "one", CLASSES, lam=0.7, seed=4)).parameters
    assert found["phases.1.sampling.lam"] == 0.7
    assert found["seed"] == 4
    assert found["datasets.d"] == "f0"
    assert not {"name", "log_every"} & set(found)


def test_a_run_that_goes_on_or_kept_no_cost_is_read_too(tmp_path: Path) -> None:
    going = records.read_run(write_run(tmp_path / "one", CLASSES, finished=False))
    assert (going.finished, going.cost) == (False, None)
    assert records.read_run(write_run(tmp_path / "two", CLASSES)).cost is None


def test_what_is_no_measured_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run \(no experiment.json\)"):
        records.read_run(str(tmp_path))
    storage.write_json(tmp_path / "experiment.json", ["no run"])
    with pytest.raises(InputError, match="holds no run"):
        records.read_run(str(tmp_path))
    write_run(tmp_path / "one", CLASSES)
    file = tmp_path / "one" / "validations" / "phase-1-epoch-2.json"
    storage.write_json(file, {"metrics": {}, "classes": {}})
    with pytest.raises(InputError, match="no step"):
        records.read_run(str(tmp_path / "one"))
    file.unlink()
    with pytest.raises(InputError, match=r"has no validation\. Train it with datasets to measure on"):
        records.read_run(str(tmp_path / "one"))


def test_trials_are_the_runs_below_that_name_their_parent(tmp_path: Path) -> None:
    sweep, inner = tmp_path / "sweep", tmp_path / "sweep" / "trials"
    for folder, parent in ((sweep / "a", sweep), (inner / "b", sweep), (inner / "c", tmp_path), (inner / "d", None)):
        write_run(folder, CLASSES)
        Tracker(folder, experiment="e", name="n", uri="off", system_metrics_s=0,
                parent_folder=str(parent) if parent else None).finish()  # fmt: skip
    write_run(sweep / "untracked", CLASSES)
    assert records.trials(f"{sweep}/") == [str(sweep / "a"), str(inner / "b")]
    assert records.trials(str(tmp_path / "nowhere")) == []
    known = records.tracked(str(inner / "b"))
    assert known is not None
    assert (known.uri, known.run_id, known.name, known.parent_folder) == ("off", None, "n", str(sweep))
    assert records.tracked(str(sweep)) is None
    assert records.read_run(str(inner / "b")).name == "n"  # as MLflow has it


def test_of_a_sweep_the_longest_training_of_each_arm_counts(tmp_path: Path) -> None:
    names = ["trunk", "a/rung-0", "a/rung-1", "a/rung-10", "a/rung-2", "b/rung-0", "b/rung-1", "c", "d/rung-0"]
    going = ("b/rung-1", "d/rung-0")
    folders = [write_run(tmp_path / name, CLASSES, finished=name not in going) for name in names]
    assert records.chosen(folders) == [str(tmp_path / name) for name in ("a/rung-10", "b/rung-0", "c")]
