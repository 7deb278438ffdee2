"""compare.py over run folders written by hand; with a sweep, its report ends in MLflow."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripts import load

from xray_det import storage
from xray_det.errors import InputError
from xray_det.tracking.outbox import Outbox
from xray_det.tracking.tracker import Tracker

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tracking"))
from made_runs import Row, write_run  # noqa: E402

script = load("compare")
COST = {"cpu_hours": 0.5, "gpu_hours": 0.0}


def rows(*ap: float | None) -> dict[str, Sequence[Row]]:
    """Six classes in one set: [red]car, <b>, c, … seen 60, 50, … 10 times."""
    names = ["[red]car", "<script>x</script>", "c", "d", "e", "f"]
    return {"fod/voc": [(name, 60 - 10 * n, value) for n, (name, value) in enumerate(zip(names, ap, strict=True))]}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")


def test_two_runs_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = write_run(tmp_path / "control", rows(0.8, 0.6, 0.5, 0.3, 0.1, None), cost=COST)
    balanced = write_run(tmp_path / "balanced", rows(0.7, 0.6, 0.5, 0.4, 0.3, None), lam=0.7, cost=COST)
    script.main(script.Args(runs=(control, balanced), out=str(tmp_path / "out")))
    text = said(capsys)
    # AP, head, middle, tail, cost; below the name what differs
    assert "1 │ control │ 46.0 │ 70.0 │ 40.0 │ 10.0 │ 0.5 CPU-h │ │ │ phases.1.sampling.lam=0.0" in text
    assert "2 │ balanced │ 50.0 │ 65.0 │ 45.0 │ 30.0 │ 0.5 CPU-h │ │ │ phases.1.sampling.lam=0.7" in text
    assert "2 │ balanced │ 2 │ 1 │ - │ e +20.0 │ [red]car -10.0" in text
    assert "- Every variant has one seed" in text
    assert "not logged: the runs are not trials of one sweep" in text
    assert "compare-runs" not in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<script>") == 1
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_lies_in_the_projects_home_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tuple(write_run(tmp_path / name, rows(0.8, 0.6, 0.5, 0.3, 0.1, None)) for name in "ab")
    script.main(script.Args(runs=runs))
    (report,) = (storage.home() / "comparisons").glob("*/report.html")
    assert str(report) in said(capsys)


def test_codes_in_names_reach_no_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = {"d\x1b[2J/voc": [("\x1b]0;title\x07", 3, 0.5), ("b\u202e", 2, 0.1)]}
    runs = tuple(write_run(tmp_path / name, classes) for name in "ab")
    document = storage.read_json(storage.join(runs[0], "experiment.json"))
    document["experiment"] |= {"name": "a\x1b[2J", "seed": 1}
    storage.write_json(storage.join(runs[0], "experiment.json"), document)
    third = write_run(tmp_path / "c", {**classes, "e\x1b[2J/voc": [("a", 3, 0.5)]}, lam=0.7, finished=False)
    runs = (*runs, third)
    script.main(script.Args(runs=runs, out=str(tmp_path / "out")))
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(out + (tmp_path / "out" / "report.html").read_text())


def test_what_cannot_be_compared_is_an_input_error(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", rows(0.8, 0.6, 0.5, 0.3, 0.1, None))
    with pytest.raises(InputError, match="Give two runs or more"):
        script.main(script.Args(runs=(one,)))
    other = write_run(tmp_path / "other", {"x/coco": [("a", 1, 0.5)]})
    with pytest.raises(InputError, match="no validation set in common"):
        script.main(script.Args(runs=(one, other)))
    with pytest.raises(InputError, match="--set x/coco: one was not measured on it"):
        script.main(script.Args(runs=(one, other), set=("x/coco",)))


@pytest.mark.medium
def test_the_report_on_a_sweep_is_an_artifact_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow.tracking import MlflowClient

    uri, sweep = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "sweep"
    parent = Tracker(sweep, experiment="lambdas", name="sweep", uri=uri, system_metrics_s=0)
    children = []
    for lam, tail in ((0.0, 0.1), (0.7, 0.3)):
        folder = Path(write_run(sweep / f"lam={lam}" / "rung-0", rows(0.8, 0.6, 0.5, 0.3, tail, None), lam=lam))
        children.append(
            Tracker(folder, experiment="lambdas", name=f"lam={lam}", uri=uri, system_metrics_s=0, wait=False,
                    parent_folder=str(sweep))
        )  # fmt: skip
    assert [tracker.finish() for tracker in (*children, parent)] == [0, 0, 0]

    script.main(script.Args(runs=("sweep",), tracking=uri))
    text = said(capsys)
    ids = [Outbox(tracker.run_folder, uri).run_id for tracker in (*children, parent)]
    assert "1 │ lam=0.0 │ 46.0" in text
    assert "2 │ lam=0.7 │ 1 │ 0 │ - │ e +20.0" in text
    assert (
        f"artifacts compare/report.html and report.png of http://127.0.0.1:5000/#/experiments/1/runs/{ids[2]}" in text
    )
    assert f"compare-runs?runs=%5B%22{ids[0]}%22%2C%22{ids[1]}%22%5D&experiments=%5B%221%22%5D" in text
    client = MlflowClient(tracking_uri=uri)
    assert {f.path for f in client.list_artifacts(str(ids[2]), "compare")} == {
        "compare/report.html",
        "compare/report.png",
    }
    kept = Path(client.download_artifacts(str(ids[2]), "compare/report.html", str(tmp_path)))
    assert kept.read_bytes() == (sweep / "compare" / "report.html").read_bytes()
    assert client.get_run(str(ids[2])).info.status == "FINISHED"

    script.main(script.Args(runs=(str(sweep / "lam=0.7" / "rung-0"), str(ids[0])), tracking=uri))  # the other way round
    assert "2 │ lam=0.0 │ 0 │ 1 │ - │ │ e -20.0" in said(capsys)


def test_a_sweep_that_is_tracked_nowhere_keeps_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep"
    Tracker(sweep, experiment="e", name="sweep", uri="off", system_metrics_s=0).finish()
    for name in "ab":
        folder = write_run(sweep / name, rows(0.8, 0.6, 0.5, 0.3, 0.1, None))
        Tracker(folder, experiment="e", name=name, uri="off", system_metrics_s=0, parent_folder=str(sweep)).finish()
    script.main(script.Args(runs=(str(sweep),)))
    assert f"not logged: the sweep {sweep} is not tracked" in said(capsys)
    assert (sweep / "compare" / "report.html").is_file()
