"""An experiment is plain data that says what cannot be; its datasets decide classes and supervision."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dataset import NAMES, experiment, write_dataset

from xray_det import config, storage
from xray_det.data.annotations import Selection
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.orchestrate.command_line import choose
from xray_det.orchestrate.experiment import Data, Experiment, prepare, read_experiment
from xray_det.train.phase import SGD, AdamW, ClassRows, Phase


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares", images=6)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"phases": ()}, "phases"),
        ({"batch": 0}, "batch"),
        ({"batch": 6, "workers": 4}, "workers"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"ema": 1.0}, "ema"),
        ({"seed": -1}, "seed"),
        ({"phases": (Phase(ratio=(1.0, 2.0)),)}, "phases.0.ratio"),
        ({"phases": (Phase(keep_optimizer=True),)}, "phases.0.keep_optimizer"),
        (
            {"phases": (Phase(optimizer=SGD()), Phase(optimizer=AdamW(), keep_optimizer=True))},
            "phases.1.keep_optimizer",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        experiment("data", Path("out"), **changes)
    assert caught.value.where == field


def test_a_world_that_does_not_divide_the_batch_is_told_which_do() -> None:
    with pytest.raises(InputError, match=r"4 workers .* batch of 6 .* Use 1, 2, 3, 6 workers"):
        experiment("data", Path("out"), batch=6, workers=4)


def test_validation_images_that_are_trained_on_are_said_once(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_dataset(tmp_path / "other", name="other", images=4, seed=1)
    same = experiment(
        dataset, tmp_path, data=Data(train=(Selection(folder=dataset),), val=(Selection(folder=dataset),))
    )
    prepared = prepare(same)
    prepare(same)
    said = f"squares ({dataset}): 6 of 6 validation images are also trained on"
    assert prepared.also_trained_on[0].startswith(said)
    assert capsys.readouterr().err.count(said) == 1
    apart = replace(same, data=Data(train=(Selection(folder=dataset),), val=(Selection(folder=other),)))
    assert prepare(apart).also_trained_on == ()
    assert capsys.readouterr().err == ""


def test_a_dataset_is_told_with_its_split(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is called so, with its @, goes before a split."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "me@home", name="home", images=4)
    for text, folder, split in (
        (dataset, dataset, None),
        (f"{dataset}@val", dataset, "val"),
        ("me@home", "me@home", None),
        ("me@home@test", "me@home", "test"),
        ("gone@test", "gone", "test"),
    ):
        assert choose(text, ("train",)) == Selection(folder=folder, split=split)


def test_an_experiment_survives_its_json_form(dataset: str, tmp_path: Path) -> None:
    made = experiment(dataset, tmp_path)
    assert config.from_dict(Experiment, config.to_dict(made)) == made
    changed = config.replace(made, "phases.1.sampling.lam", "0.3")
    assert config.difference(config.to_dict(made), config.to_dict(changed)) == ["phases.1.sampling.lam: 0.7 -> 0.3"]
    prepared = prepare(made)
    assert read_experiment(prepared.document) == replace(made, out="", device="auto")
    assert read_experiment(config.to_dict(made)) == made


def test_where_a_run_lies_does_not_change_what_it_is(dataset: str, tmp_path: Path) -> None:
    here, there = (prepare(experiment(dataset, tmp_path / place)).document for place in ("a", "b"))
    assert here == there


def test_runs_lie_in_the_projects_home_unless_told(home: Path) -> None:
    made = replace(experiment("data", Path("x")), out="")
    assert made.folder == str(storage.home() / "runs" / "run")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = experiment("data", Path("runs"), start_from="w", data=Data(train=(Selection(folder="s3://b/d"),)))
    absolute = made.absolute()
    assert absolute.out == str(tmp_path / "runs")
    assert absolute.start_from == str(tmp_path / "w")
    assert absolute.data.train[0].folder == "s3://b/d"


def with_space(folder: Path, name: str, names: tuple[str, ...], **changes: Any) -> str:
    """A dataset whose manifest alone matters."""
    write_dataset(folder, name=name, images=2)
    space = LabelSpace(name=name, classes=tuple(Class(name=n, source_id=n) for n in names))
    counts = {"": (1,) * len(names)}
    manifest = replace(Manifest.load(str(folder)), space=space, image_counts=counts, instance_counts=counts, **changes)
    manifest.save(str(folder))
    return str(folder)


def test_supervision_follows_the_datasets(tmp_path: Path) -> None:
    a = with_space(tmp_path / "a", "a", ("cat", "animal"), hierarchy=Hierarchy(parents=(("cat", "animal"),), parts=()))
    b = with_space(tmp_path / "b", "b", ("Cat", "dog"), exhaustive=False)
    data = Data(train=(Selection(folder=a), Selection(folder=b)), positives_teach_all=False)
    prepared = prepare(experiment(a, tmp_path, data=data))
    assert prepared.unified.space.names == ("cat", "animal", "dog")
    assert prepared.supervision.labelled.tolist() == [[True, True, False], [False, False, False]]
    assert np.argwhere(prepared.supervision.ancestors).tolist() == [[0, 1]]
    assert not prepared.supervision.positives_teach_all
    apart = prepare(experiment(a, tmp_path, data=replace(data, merge=False)))
    assert apart.unified.space.names == ("a/cat", "a/animal", "b/Cat", "b/dog")


def test_some_of_the_classes_are_learned_in_the_united_order(tmp_path: Path) -> None:
    a = with_space(tmp_path / "a", "a", ("cat", "animal"), hierarchy=Hierarchy(parents=(("cat", "animal"),), parts=()))
    b = with_space(tmp_path / "b", "b", ("Cat", "dog"))
    data = Data(train=(Selection(folder=a), Selection(folder=b)), classes=("dog", "cat"))
    made = experiment(a, tmp_path, data=data)
    prepared = prepare(made)
    assert prepared.space.names == prepared.recipe.classes == ("cat", "dog")
    assert prepared.space.classes == tuple(prepared.unified.space.classes[row] for row in (0, 2))
    assert prepared.supervision.learned.tolist() == [0, 2]
    assert prepared.supervision.num_classes == 3
    assert prepared.fingerprints != prepare(config.replace(made, "data.classes", "none")).fingerprints
    assert config.replace(made, "data.classes", "dog,cat") == made
    for classes, says in ((("cat", "Cat"), "no class is called 'Cat'"), (("cat", "cat"), "'cat' is named twice")):
        with pytest.raises(InputError, match=says) as caught:
            prepare(replace(made, data=replace(data, classes=classes)))
        assert caught.value.where == "data.classes"
    with pytest.raises(InputError, match="is empty"):
        replace(data, classes=())
    animals = Phase(trainable=ClassRows(names=("animal",)))  # a class, but not one that is learned
    with pytest.raises(InputError, match="'animal'"):
        prepare(replace(made, phases=(animals,)))


def test_what_is_taken_to_be_absent(tmp_path: Path) -> None:
    """Dataset a is exhaustive; in b a face is a part of a person, and verified labels say what is there."""
    tree = Hierarchy(parents=(), parts=(("face", "Person"),))
    a = with_space(tmp_path / "a", "a", ("person", "car"))
    b = with_space(tmp_path / "b", "b", ("Person", "face"), exhaustive=False, hierarchy=tree)
    data = Data(train=(Selection(folder=a), Selection(folder=b)))
    found = {
        rule: prepare(experiment(a, tmp_path, data=replace(data, unverified=rule))).supervision
        for rule in ("unknown", "absent", "absent_but_parts")
    }
    assert found["unknown"].labelled.tolist() == [[True, True, False], [False, False, False]]
    for rule in ("absent", "absent_but_parts"):
        assert found[rule].labelled.tolist() == [[True, True, False], [True, False, True]]
    assert found["unknown"].parts is None
    assert found["absent"].parts is None
    parts = found["absent_but_parts"].parts
    assert parts is not None
    assert np.argwhere(parts).tolist() == [[2, 0]]


def test_datasets_that_do_not_fit_are_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ingested dataset"):
        prepare(experiment(str(tmp_path / "none"), tmp_path))
    with pytest.raises(InputError, match="split 'train'"):
        prepare(experiment(dataset, tmp_path, data=Data(train=(Selection(folder=dataset, split="train"),))))
    other = write_dataset(tmp_path / "other", images=4, seed=1)
    both = Data(train=(Selection(folder=dataset), Selection(folder=other)))
    with pytest.raises(InputError, match="different datasets of one name, squares"):
        prepare(experiment(dataset, tmp_path, data=both))
    with pytest.raises(InputError, match="'pink'") as caught:
        prepare(experiment(dataset, tmp_path, phases=(Phase(trainable=ClassRows(names=(NAMES[0], "pink"))),)))
    assert caught.value.where == "phases.0.trainable"
