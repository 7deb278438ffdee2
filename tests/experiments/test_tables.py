"""What scripts print fits 80 columns with any names: no number and no path is cut or broken, no name is lost."""

import io
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scripts import load

from xray_det.display import terminal
from xray_det.evaluation.curves import Curve
from xray_det.evaluation.result import Result
from xray_det.labels.space import Class, LabelSpace

LONG = "n" * 200
NAMES = ("cup[/]", "Ba$$in", "a\x1b[31mb", LONG)
SHOWN = ("cup[/]", "Ba$$in", "a\\x1b[31mb")
PATH = "/storage/" + "folder/" * 20 + "weights"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def check(printed: str, *numbers: str, names: tuple[str, ...] = SHOWN) -> None:
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "…" not in printed
    rows = [line for line in printed.split("\n") if line[:1] in "┏┃┡│└"]
    assert rows
    assert max(map(len, rows)) <= 80
    for text in (*numbers, *names):
        assert text in printed, text
    assert printed.count("n") >= len(LONG)


def result(protocol: str = "coco", metrics: int = 13) -> Result:
    curve = Curve(recall=np.array([1.0]), precision=np.array([1.0]), scores=np.array([0.9]))
    return Result(
        protocol=protocol,
        space=LabelSpace(name=LONG, classes=tuple(Class(name=n, source_id=n) for n in NAMES)),
        ap=np.array([0.123456, 0.25, 0.5, 0.75]),
        boxes=np.array([1234567, 2, 3, 4]),
        curves=dict.fromkeys(range(4), curve),
        metrics={f"AP{n}": 0.1 + n / 1000 for n in range(metrics)},
    )


def test_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    script = load("evaluate")
    counts = np.array([987654321, 3, 2, 1])
    scored = [
        script.Scored(dataset=LONG, protocol=p, result=result(p), bands={"AP_head": 0.987}, counts=counts)
        for p in ("coco", "open_images", "voc", "lvis")
    ]
    script.show(scored)
    printed = capsys.readouterr().out
    check(printed, *(f"{0.1 + n / 1000:.3f}" for n in range(13)), "0.987", "987654321", "(1234567)")


def test_score(capsys: pytest.CaptureFixture[str]) -> None:
    load("score")._print(result())
    check(capsys.readouterr().out, "0.123456", "1234567", "0.112000")


def printed(script: ModuleType, function: str, *arguments: Any) -> str:
    sink = io.StringIO()
    getattr(script, function)(*arguments, terminal(file=sink, width=80))
    return sink.getvalue()


def test_compare() -> None:
    from xray_det.evaluation.comparison import compare
    from xray_det.evaluation.measured import ClassRow, Measured
    from xray_det.evaluation.variants import Cost, Run

    def run(number: int) -> Run:
        rows = tuple(ClassRow(name=n, count=9 - k, ap=(k + 1) * number / 10) for k, n in enumerate(NAMES))
        return Run(
            name=f"{LONG}{number}",
            measured=Measured(metrics={}, classes={f"{LONG}/voc": rows}),
            step=7,
            parameters={"seed": 0, "lam": number, "note": SHOWN[number]},
            cost=Cost(cpu_hours=12345.25 * number, gpu_hours=0.0),
        )

    found = compare([run(1), run(2)])
    numbers = (*str(found.spreads(0)["AP"]).split(), *str(found.variants[1].cost).split())
    check(printed(load("compare"), "show", found), *numbers, names=SHOWN[1:])


def test_train() -> None:
    from xray_det.data.annotations import Selection
    from xray_det.orchestrate.experiment import Data, Experiment
    from xray_det.orchestrate.run_folder import Result as RunResult
    from xray_det.train.phase import Phase

    selection = Selection(folder="/d")
    experiment = Experiment(name=LONG, data=Data(train=(selection,), val=(selection,)), phases=(Phase(), Phase()))
    validations = ({"val/AP": 0.1234, "val/[red]": 0.5}, {"val/Ba$$in": 0.5})
    done = RunResult(
        folder="/r", weights=PATH, phases=(PATH + "0", PATH + "1"), steps=3, metrics={}, validations=validations
    )
    check(
        printed(load("train"), "conclude", experiment, done), PATH + "0", PATH + "1", "12.3", names=("[red]", "Ba$$in")
    )


def test_quickstart() -> None:
    row = {"phase": 1, "dataset": LONG, "protocol": "open_images", "AP": 0.1234, "AP50": 0.2345}
    row |= {"AP_head": 0.3456, "AP_middle": 0.4567, "AP_tail": 0.5678}
    told = {"name": "cup[/]", "rows": [row], "same_images": [PATH], "weights": PATH, "pictures": PATH, "run": PATH}
    text = printed(load("quickstart"), "conclude", told)
    check(text, "12.3", "23.4", "34.6", "45.7", "56.8", names=(SHOWN[0], "open_images"))
    assert text.count(PATH) == 4, "each whole, on a line"


def test_sweep() -> None:
    from xray_det.orchestrate.results import Row, results_table

    rows = [
        Row(
            arm=LONG, values={"sampling.lam": 0.12345678, "note": "cup[/]"}, rung=0, share=0.125, score=0.4321,
            metrics={"val/AP_head": 0.3456, "val/AP_middle": 0.4567, "val/AP_tail": 0.5678}, reason="failed: Ba$$in",
            cost={"cpu_hours": 12345.67, "gpu_hours": 1.25}, folder=PATH, weights=PATH,
        )
    ]  # fmt: skip
    sink = io.StringIO()
    terminal(file=sink, width=80).print(results_table(rows, LONG + " \x1b[31m"))
    text = sink.getvalue()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "…" not in text
    for number in ("0.125", "43.2", "34.6", "45.7", "56.8", "12345.67", "1.25", "lam=0.12345678", "Ba$$in"):
        assert number in text


def test_experts() -> None:
    scores = {"key": f"{LONG}/voc", "names": NAMES, "counts": (9, 8, 7, 6), "bands": {"1-2": (0, 1), "3-4": (2, 3)}}
    ap = {"general": (0.1, 0.2, 0.3, 0.4), LONG: (0.2, 0.3, 0.4, 0.5678), "cup[/]": (0.2, 0.3, 0.4, 0.5)}
    told = {"scores": {"val": [{**scores, "ap": ap}]}, "chosen": "cup[/]"}
    check(printed(load("experts"), "conclude", told), "36.7", "25.0", "0 of 4", names=SHOWN[:1])


def test_preflight() -> None:
    from xray_det.orchestrate.verdicts import Finding

    node = "node-" + LONG
    findings = [
        Finding(check="nodes", where=node, ok=True, detail="16 cores", remedy=""),
        Finding(check="data", where=node, ok=False, detail=f"{PATH} [/] is not there", remedy="Mount [it]\x1b[31m"),
        Finding(check="clocks", where="cluster", ok=None, detail="differ by 3.5 s", remedy="Run chrony"),
    ]
    text = printed(load("preflight"), "show", findings, 1.5)
    check(text, PATH + " [/]", "Mount [it]\\x1b[31m", "3.5 s", names=("failed", "warning"))
