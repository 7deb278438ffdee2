"""A run folder knows what it is and whether it is done."""

from pathlib import Path

import pytest

from xray_det import storage
from xray_det.errors import InputError
from xray_det.orchestrate.run_folder import PROGRESS, Result, RunFolder

DOCUMENT = {"experiment": {"seed": 0, "phases": [{"lr": 0.1}]}, "datasets": {"a": "f00"}}


def test_the_same_configuration_opens_it_again(tmp_path: Path) -> None:
    first = RunFolder.open(str(tmp_path / "run"), DOCUMENT)
    assert RunFolder.open(str(tmp_path / "run"), DOCUMENT) == first


def begun(uri: str) -> RunFolder:
    folder = RunFolder.open(uri, DOCUMENT)
    storage.write_json(folder.path(PROGRESS), {"step": 1})
    return folder


def test_another_configuration_is_refused_with_every_difference(tmp_path: Path) -> None:
    begun(str(tmp_path / "run"))
    other = {"experiment": {"seed": 1, "phases": [{"lr": 0.2}]}, "datasets": {"a": "f00"}}
    with pytest.raises(InputError) as caught:
        RunFolder.open(str(tmp_path / "run"), other)
    assert "experiment.seed: 0 -> 1" in str(caught.value)
    assert "experiment.phases.0.lr: 0.1 -> 0.2" in str(caught.value)
    assert "datasets" not in str(caught.value)


def test_a_dataset_that_was_ingested_anew_is_another_configuration(tmp_path: Path) -> None:
    begun(str(tmp_path / "run"))
    with pytest.raises(InputError, match=r'datasets.a: "f00" -> "f01"'):
        RunFolder.open(str(tmp_path / "run"), {**DOCUMENT, "datasets": {"a": "f01"}})


def test_a_run_that_made_no_step_takes_another_configuration(tmp_path: Path) -> None:
    RunFolder.open(str(tmp_path / "run"), DOCUMENT)
    other = {**DOCUMENT, "datasets": {"a": "f01"}}
    assert (
        RunFolder.open(str(tmp_path / "run"), other).fingerprint
        != RunFolder.open(str(tmp_path / "x"), DOCUMENT).fingerprint
    )
    begun_now = RunFolder.open(str(tmp_path / "run"), other)
    storage.write_json(begun_now.path(PROGRESS), {"step": 1})
    with pytest.raises(InputError, match=r'datasets.a: "f01" -> "f00"'):
        RunFolder.open(str(tmp_path / "run"), DOCUMENT)


def test_a_result_comes_back_also_from_a_moved_folder(tmp_path: Path) -> None:
    folder = RunFolder.open(str(tmp_path / "run"), DOCUMENT)
    assert folder.finished() is None
    result = Result(
        folder=folder.uri,
        weights=folder.weights(1, averaged=True),
        phases=(folder.weights(0, averaged=True), folder.weights(1, averaged=True)),
        steps=7,
        metrics={"loss": 0.5},
        validations=({"AP": 0.1}, {}),
        seconds={"total": 3.0},
    )
    folder.finish(result)
    assert folder.finished() == result
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = RunFolder.open(str(tmp_path / "moved"), DOCUMENT).finished()
    assert moved is not None
    assert moved.weights == str(tmp_path / "moved" / "phases" / "1" / "ema")


def test_a_failure_is_known_until_it_is_cleared(tmp_path: Path) -> None:
    folder = RunFolder.open(str(tmp_path / "run"), DOCUMENT)
    folder.clear_failure()
    assert folder.failure() is None
    folder.fail("InputError", where="a", problem="b", remedy="c")
    assert folder.failure() == {"kind": "InputError", "where": "a", "problem": "b", "remedy": "c"}
    folder.clear_failure()
    assert folder.failure() is None
