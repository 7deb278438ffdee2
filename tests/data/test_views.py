"""What an epoch shows of each class: against plans that were drawn, and the paper's two figures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from made_shards import made_dataset
from rich.console import Console

from xray_det.data import ingest as ingest_module
from xray_det.data.annotations import Annotations, Selection
from xray_det.data.figures import sampling_views
from xray_det.data.manifest import Manifest
from xray_det.data.plan import plan
from xray_det.data.sampling import ImageClasses, Natural, SoftBalance
from xray_det.data.views import Views, name_of, read_image_classes, views_tables
from xray_det.errors import InputError

CLASSES = 6


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "_WORTH_RAY", 10**9)
    monkeypatch.setattr(ingest_module, "_ray_is_up", lambda: False)


@pytest.fixture(scope="module")
def images() -> ImageClasses:
    """400 images: class c in about one of 2^c, class 5 in none."""
    rng = np.random.default_rng(0)
    held = rng.random((400, CLASSES)) < 0.5 ** np.arange(1, CLASSES + 1)
    held[:, 5] = False
    image, label = np.nonzero(held)
    return ImageClasses.of(image, label, 400)


def test_expectations_agree_with_epochs_that_were_drawn(images: ImageClasses) -> None:
    views = Views.of(images, CLASSES)
    assert [name_of(rule) for rule in views.rules][:3] == ["natural", "lambda 0", "lambda 0.5"]
    holds = np.zeros((400, CLASSES), bool)
    holds[np.repeat(np.arange(400), np.diff(images.offsets)), images.classes] = True
    seeds = 300
    for row, rule in enumerate(views.rules):
        times = np.array(
            [
                np.bincount(plan([images], rule, batch=1, seed=seed, phase=0, epoch=0), minlength=400)
                for seed in range(seeds)
            ]
        )
        for c in range(CLASSES - 1):
            of_class = times[:, holds[:, c]]
            for drawn, expected in (
                (of_class.sum(axis=1), views.exposure[row, c]),
                (of_class.mean(axis=1), views.views[row, c]),
                ((of_class == 0).mean(axis=1), views.neglected[row, c]),
            ):
                error = max(drawn.std(ddof=1), 1e-6) / np.sqrt(seeds)
                assert abs(drawn.mean() - expected) < 4.5 * error, (rule, c)
        assert views.exposure[row, 5] == 0
        assert np.isnan([views.views[row, 5], views.neglected[row, 5], views.formula[row, 5]]).all()


def test_the_papers_two_figures_come_out(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Class-aware sampling of 1.74 M images and 500 classes: 99.13 % of Person neglected, a rare image seen 252 times.

    The counts that the paper gives: 500 classes, 1.7 million images, the largest class in nearly 30,000 times as many
    images as the rarest, which has 14. Each image holds one class here, as the paper counts; real labels follow, whose
    images are drawn for their other classes too.
    """
    person, cooker = 400_000, 14
    rest = np.full(498, (1_740_000 - person - cooker) // 498)
    of_class = np.concatenate([[person, cooker], rest])
    label = np.repeat(np.arange(500), of_class)
    alone = Views.of(ImageClasses.of(np.arange(len(label)), label, len(label)), 500, [SoftBalance(lam=1.0)])
    assert 25_000 < person / cooker < 30_000
    assert 1 - alone.formula[0, 0] == pytest.approx(0.9913, abs=0.001)
    assert alone.formula[0, 1] == pytest.approx(252, rel=0.03)
    np.testing.assert_allclose(alone.views, alone.formula, rtol=1e-6)
    np.testing.assert_allclose(alone.neglected[0, 0], 1 - alone.formula[0, 0], rtol=1e-6)
    held: dict[str, set[str]] = {}
    with (shared_data / "open_images/gt_sample/annotations.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            held.setdefault(line["ImageID"], set()).update({line["LabelName"]} - {""})
    names = sorted(set().union(*held.values()))
    image, label = np.array([(k, names.index(name)) for k, one in enumerate(held.values()) for name in sorted(one)]).T
    real = Views.of(ImageClasses.of(image, label, len(held)), len(names), [SoftBalance(lam=1.0)])
    first, last = int(real.image_counts.argmax()), int(real.image_counts.argmin())
    assert real.views[0, last] > real.formula[0, last]
    assert real.neglected[0, first] < 1 - real.formula[0, first]
    with capsys.disabled():
        print()
        for what, one, rare, frequent in (("paper's counts", alone, 1, 0), ("gt_sample", real, last, first)):
            print(
                f"{what}: a rare image is seen {one.formula[0, rare]:.1f} times by the formula, "
                f"{one.views[0, rare]:.1f} with co-occurrence; {1 - one.formula[0, frequent]:.2%} of the head is "
                f"neglected by the formula, {one.neglected[0, frequent]:.2%} with co-occurrence"
            )


def test_classes_are_read_from_shards_as_the_loader_counts_them(tmp_path: Path) -> None:
    made_dataset(tmp_path / "a", "a", 30)
    manifest, folder = Manifest.load(str(tmp_path / "a")), str(tmp_path / "a")
    for split in (None, "train", "val"):
        annotations = Annotations.open([Selection(folder=folder, split=split)])
        (counted,) = annotations.image_classes([np.arange(4, dtype=np.int32)])
        read = read_image_classes(manifest, split)
        np.testing.assert_array_equal(read.classes, counted.classes)
        np.testing.assert_array_equal(read.offsets, counted.offsets)
    with pytest.raises(InputError, match="'test' is none of"):
        read_image_classes(manifest, "test")


def test_tables_figure_and_json_have_every_rule(tmp_path: Path) -> None:
    made_dataset(tmp_path / "a", "a", 30)
    manifest = Manifest.load(str(tmp_path / "a"))
    views = Views.of(read_image_classes(manifest), 4)
    console = Console(width=220, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*views_tables(manifest, views), sep="\n")
    text = console.export_text()
    for rule in views.rules:
        assert name_of(rule) in text
    assert "class-aware: an image of a " in text
    lines = sampling_views("a", views).axes[0].get_lines()
    assert [len(line.get_xdata()) for line in lines] == [4] * len(views.rules)
    stored = json.loads(json.dumps(views.to_json(), allow_nan=False))
    assert list(stored) == [name_of(rule) for rule in views.rules]
    assert stored["lambda 1"]["exposure"] == pytest.approx(views.exposure[4], abs=1e-6)
    assert stored["natural"]["formula"] == [None] * 4


def test_one_class_and_none() -> None:
    one = Views.of(ImageClasses.of(np.arange(3), np.zeros(3, int), 4), 1)
    aware = list(map(name_of, one.rules)).index("lambda 1")
    assert one.views[aware, 0] == pytest.approx(4 / 3), "the image without an object is never drawn"
    none = Views.of(ImageClasses.of(np.zeros(0, int), np.zeros(0, int), 4), 1)
    assert none.rules == (Natural(),)
    assert none.exposure.tolist() == [[0.0]]
