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
from xray_det.models.backbones import Backbone
from xray_det.models.retinanet import RetinaNet
from xray_det.models.weights import save_detector
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


def test_what_is_said_of_validation_images_is_obeyed_by_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = (Selection(folder=write_dataset(tmp_path / "d", name="\x1b[31mred", images=4)),)
    prepare(experiment(both[0].folder, tmp_path, data=Data(train=both, val=both)))
    assert capsys.readouterr().err.startswith("warning: \\x1b[31mred (")


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


def test_the_sizes_at_test_go_with_the_weights_and_do_not_change_them(dataset: str, tmp_path: Path) -> None:
    made = experiment(dataset, tmp_path)
    tested = config.replace(config.replace(made, "augmentation.test_max_side", 160), "augmentation.test_short_side", 96)
    assert prepare(made).preprocessor["size"] == {"shortest_edge": 64, "longest_edge": 64}
    assert prepare(tested).preprocessor["size"] == {"shortest_edge": 96, "longest_edge": 160}
    assert prepare(tested).fingerprints == prepare(made).fingerprints
    assert prepare(tested).document != prepare(made).document


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
    for weights, expected in (("b.pth", str(tmp_path / "b.pth")), ("s3://b/w.pth", "s3://b/w.pth"), ("none", "none")):
        begun = replace(made, model=RetinaNet(backbone=Backbone(weights=weights)))
        assert begun.absolute().model.backbone.weights == expected


def test_a_start_decides_the_norm_that_nobody_named(tmp_path: Path) -> None:
    frozen = RetinaNet(backbone=Backbone(name="resnet18", norm="frozen"), channels=8, head_layers=1, levels=(3, 5))
    space = LabelSpace(name="s", classes=(Class(name="a", source_id="a"),))
    save_detector(tmp_path / "w", frozen.build(1), space)
    auto = replace(frozen, backbone=Backbone(name="resnet18"))
    made = experiment("data", tmp_path, model=auto)
    assert made.built() == auto
    started = replace(made, start_from=str(tmp_path / "w"))
    assert started.built() == frozen
    assert started.model == auto  # as it was told: what a run is does not depend on whether its start is still there
    group = replace(started, model=replace(frozen, backbone=Backbone(name="resnet18", norm="group")))
    with pytest.raises(InputError, match=r"is group, the detector of .* has frozen"):
        group.built()
    assert replace(group, start_partial=True).built() == group.model
    with pytest.raises(InputError, match="no such file"):
        replace(made, start_from=str(tmp_path / "gone")).built()


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


def folders(*datasets: str) -> tuple[Selection, ...]:
    return tuple(Selection(folder=folder) for folder in datasets)


def test_aliases_join_classes_and_the_run_says_which(tmp_path: Path) -> None:
    train = folders(
        with_space(tmp_path / "a", "a", ("bird", "hut", "cup")),
        with_space(tmp_path / "b", "b", ("Wild Bird", "house", "Cup")),
    )
    made = experiment("unused", tmp_path, data=Data(train=train, aliases=(("hut", "House"),)))
    prepared = prepare(made)
    assert prepared.space.names == ("bird", "hut", "cup")
    assert prepared.document["merged"] == ["bird: a bird, b Wild Bird", "hut: a hut, b house"]
    assert config.from_dict(Experiment, config.to_dict(made)) == made
    told = config.replace(made, "data.aliases", '[["hut", "House"], ["wild bird", "wild bird"]]')
    assert prepare(told).space.names == ("bird", "hut", "cup", "Wild Bird")
    apart = replace(made, data=Data(train=train, merge=False))
    assert prepare(apart).document["merged"] == []


def test_aliases_in_a_file_are_part_of_the_run_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = folders(
        with_space(tmp_path / "a", "a", ("hut", "x", "y")), with_space(tmp_path / "b", "b", ("house", "z", "w"))
    )
    (tmp_path / "names.json").write_text('[["hut", "house"]]')
    monkeypatch.chdir(tmp_path)
    made = experiment("unused", tmp_path, data=Data(train=train))
    in_file = config.replace(made, "data.aliases", "names.json")
    assert in_file.data.aliases == "names.json"
    written = replace(made, data=replace(made.data, aliases=(("hut", "house"),)))
    assert prepare(in_file).document == prepare(written).document
    assert prepare(in_file).fingerprints == prepare(written).fingerprints
    assert in_file.absolute() == written.absolute()


@pytest.mark.parametrize(
    ("aliases", "told"),
    [
        ('[["hut", "hause"]]', "no class of the training datasets is called 'hause'"),
        ('[["hat", "house"]]', "no class of the training datasets is called 'hat'"),
        ('[["hut", "house"], ["house", "hut"]]', "circle"),
        ('{"hut": "house"}', "is no list"),
        ('[["hut", "house", "home"]]', "is no pair"),
        ('[["hut", 3]]', "is no pair"),
        ('["hut"]', "is no pair"),
        ("[", "not valid JSON"),
        (None, "no such file"),
    ],
)
def test_aliases_that_cannot_be_are_refused(tmp_path: Path, aliases: str | None, told: str) -> None:
    train = folders(
        with_space(tmp_path / "a", "a", ("hut", "x", "y")), with_space(tmp_path / "b", "b", ("house", "z", "w"))
    )
    file = tmp_path / "names.json"
    if aliases is not None:
        file.write_text(aliases)
    with pytest.raises(InputError) as caught:
        prepare(experiment("unused", tmp_path, data=Data(train=train, aliases=str(file))))
    assert told in str(caught.value)
    assert caught.value.where in (str(file), "data.aliases")


def test_aliases_without_merging_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.merge is off"):
        Data(train=(Selection(folder="d"),), merge=False, aliases=(("a", "b"),))


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
