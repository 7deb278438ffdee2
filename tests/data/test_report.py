"""The tables people read hold the numbers of the manifest, and figures draw them."""

from pathlib import Path

import numpy as np
import pytest
from made_source import MadeSource
from rich.console import Console

from xray_det.data import ingest as ingest_module
from xray_det.data.figures import histograms, long_tail
from xray_det.data.ingest import ingest
from xray_det.data.manifest import Manifest
from xray_det.data.report import class_table, repair_report, statistics_table
from xray_det.data.statistics import measure
from xray_det.errors import InputError


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(ingest_module, "_WORTH_RAY", 10**9)
    monkeypatch.setattr(ingest_module, "_ray_is_up", lambda: False)
    return ingest(MadeSource(tmp_path / "published"), str(tmp_path / "out"), rows=4, progress=False)


def printed(*parts: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*parts, sep="\n")
    return console.export_text()


def test_the_repair_report_names_each_kind_with_an_example(manifest: Manifest) -> None:
    text = printed(*repair_report(manifest))
    assert "21 images (train 14, val 7)" in text
    assert "1 of its classes have no box to learn from: unused" in text
    for kind, count in {**manifest.repaired, **manifest.quarantined}.items():
        (line,) = [line for line in text.splitlines() if f" {kind} " in line]
        assert f" {count} " in line
        assert ".jpg: " in line
    assert "17.jpg: the same bytes as 1.jpg (train)" in text


def test_statistics_of_a_split_are_those_of_its_images(manifest: Manifest) -> None:
    train, val = measure(manifest, "train"), measure(manifest, "val")
    whole = measure(manifest)
    assert (int(train.images), int(val.images)) == (14, 7)
    np.testing.assert_array_equal(train.image_counts + val.image_counts, whole.image_counts)
    with pytest.raises(InputError, match=r"'test' is none of \['train', 'val'\]"):
        measure(manifest, "test")
    text = printed(statistics_table({"train": train, "all": whole}), class_table(manifest, whole))
    (line,) = [line for line in text.splitlines() if "│ images  " in line]
    assert [int(word) for word in line.split() if word.isdigit()] == [14, 21]
    assert "2 of 3" in text  # classes with a box


@pytest.mark.medium
def test_statistics_counted_by_ray_data(manifest: Manifest, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = measure(manifest)
    monkeypatch.undo()
    parallel = measure(manifest)
    assert all((getattr(alone, f) == getattr(parallel, f)).all() for f in alone.__dataclass_fields__)


def test_figures_draw_the_counts(manifest: Manifest, tmp_path: Path) -> None:
    statistics = measure(manifest)
    tail = long_tail({"made": np.array([3, 0, 40])}, {"made": ["a", "b", "c"]})
    (axes,) = tail.axes
    assert axes.get_yscale() == "log"
    assert axes.lines[0].get_xydata().tolist() == [[1, 40], [2, 3]]
    assert {t.get_text() for t in axes.texts} >= {"c 40", "a 3", "head", "tail"}
    figure = histograms("made", statistics)
    drawn = figure.axes[0].patches
    assert [int(p.get_height()) for p in drawn] == statistics.boxes_an_image[: len(drawn)].tolist()
    figure.savefig(tmp_path / "a.png")
    tail.savefig(tmp_path / "b.png")
    empty = type(statistics).zero(3)  # a split without an image draws too
    histograms("none", empty).savefig(tmp_path / "c.png")
    long_tail({"none": empty.image_counts}, {"none": ["a", "b", "c"]}).savefig(tmp_path / "d.png")
