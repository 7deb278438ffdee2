"""A run by folder, id or name, against a real SQLite store; and every way in which that can fail."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from made_runs import write_run

from xray_det.errors import InputError
from xray_det.tracking.resolve import Resolver
from xray_det.tracking.tracker import Tracker

CLASSES = {"d/voc": [("a", 9, 0.5)]}


def test_a_folder_is_itself_once_and_mlflow_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (write_run(tmp_path / name, CLASSES) for name in ("one", "two"))
    monkeypatch.chdir(tmp_path)
    resolver = Resolver("http://127.0.0.1:9")
    assert resolver.folders([one, "two", f"{one}/", "./two"]) == [one, two]
    assert resolver.common_parent([one, two]) is None
    assert resolver.compare_page([one, two]) is None


def test_a_path_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        Resolver().folders([str(tmp_path / "no")])
    with pytest.raises(InputError, match="holds no run"):
        Resolver().folders([str(tmp_path)])


def test_a_sweep_stands_for_its_finished_trials(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    Tracker(sweep, experiment="e", name="sweep", uri="off", system_metrics_s=0).finish()
    folders = [write_run(sweep / name, CLASSES, finished=name != "b") for name in "abc"]
    for folder in folders:
        Tracker(folder, experiment="e", name="n", uri="off", system_metrics_s=0, parent_folder=str(sweep)).finish()
    resolver = Resolver()
    assert resolver.folders([str(sweep), folders[2]]) == [folders[0], folders[2]]
    assert resolver.notes == [f"{sweep}: 1 of 3 trials have not finished and are left out."]
    assert resolver.common_parent(folders) == str(sweep)
    for name in "ac":
        (sweep / name / "finished.json").unlink()
    with pytest.raises(InputError, match="none of its 3 trials has finished"):
        Resolver().folders([str(sweep)])


@pytest.mark.medium
def test_names_need_an_address_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such database"):
        Resolver(f"sqlite:///{tmp_path}/none.db").folders(["fod"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="tracking: is off"):
        Resolver("off").folders(["fod"])
    (tmp_path / "text.db").write_text("no database at all, whatever its name says")
    with pytest.raises(InputError, match="does not answer"):
        Resolver(f"sqlite:///{tmp_path}/text.db").folders(["fod"])


@dataclass(frozen=True)
class Store:
    """A sweep of two trials whose folders lie elsewhere; ``twice`` is the name of two runs, ``strange`` not ours."""

    uri: str
    sweep: str
    trials: list[str]
    ids: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    from mlflow.tracking import MlflowClient

    from xray_det.tracking.mlflow_run import MlflowRun

    folder = tmp_path_factory.mktemp("store")
    uri, ids = f"sqlite:///{folder}/mlflow.db", {}

    def send(where: Path, name: str, parent: Path | None = None, experiment: str = "e") -> None:
        """As a Tracker does it, without its process."""
        made = Tracker(where, experiment=experiment, name=name, uri="off", system_metrics_s=0,
                       parent_folder=str(parent) if parent else None)  # fmt: skip
        made.finish()
        (where / "tracking" / "run.json").write_text(
            (where / "tracking" / "run.json").read_text().replace('"off"', f'"{uri}"')
        )
        sender = MlflowRun(str(where), uri)
        sender.send(final=True)
        assert sender.outbox.run_id is not None
        ids[where.name] = sender.outbox.run_id

    send(folder / "sweep", "my sweep's")
    trials = [write_run(folder / "elsewhere" / name, CLASSES) for name in ("one", "two")]
    for trial in map(Path, trials):
        send(trial, trial.name, folder / "sweep")
    for name, experiment in (("twice-a", "e"), ("twice-b", "f")):
        write_run(folder / name, CLASSES)
        send(folder / name, "twice", experiment=experiment)
    client = MlflowClient(tracking_uri=uri)
    experiment_id = client.get_experiment_by_name("e").experiment_id
    ids["strange"] = client.create_run(experiment_id, run_name="strange").info.run_id
    # The folder of an older run was removed and trained into again: one folder, two runs of one name.
    client.create_run(experiment_id, run_name="one", start_time=1, tags={"run_folder": trials[0]})
    gone = client.create_run(experiment_id, run_name="gone", tags={"run_folder": str(folder / "gone")})
    ids["gone"] = gone.info.run_id
    deleted = client.create_run(experiment_id, run_name="deleted").info.run_id
    client.delete_run(deleted)
    ids["deleted"] = deleted
    return Store(uri, str(folder / "sweep"), trials, ids, folder)


@pytest.mark.medium
def test_ids_and_names_lead_to_the_folder(store: Store) -> None:
    resolver = Resolver(store.uri)
    assert resolver.folders(["one", store.ids["two"]]) == store.trials
    assert resolver.folders([store.ids["two"], "one", store.trials[0]]) == store.trials[::-1]
    assert Resolver(store.uri, "f").folders(["twice"]) == [str(store.folder / "twice-b")]


@pytest.mark.medium
def test_a_sweep_by_name_id_or_folder_stands_for_its_trials(store: Store) -> None:
    for text in ("my sweep's", store.ids["sweep"], store.sweep):
        assert Resolver(store.uri).folders([text]) == store.trials
    assert Resolver().folders([store.sweep]) == store.trials  # a folder knows its address


@pytest.mark.medium
def test_the_parent_and_mlflows_own_page_are_known(store: Store) -> None:
    resolver = Resolver()
    assert resolver.common_parent(store.trials) == store.sweep
    assert resolver.common_parent([*store.trials, str(store.folder / "twice-a")]) is None
    page = resolver.compare_page([store.trials[0], str(store.folder / "twice-b")])
    assert page is not None
    base, _, query = page.partition("?")
    assert base == "http://127.0.0.1:5000/#/compare-runs"
    runs = f'runs=["{store.ids["one"]}","{store.ids["twice-b"]}"]'
    assert unquote(query) == f'{runs}&experiments=["1","2"]&workflowType=machine_learning'
    assert '"' not in page


@pytest.mark.medium
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nobody", r"no run folder, and no run's id or name in sqlite:.*Check --tracking and --experiment"),
        ("no'b\"ody", "no run's id or name"),
        ("ONE", "no run's id or name"),
        ("0" * 32, "no run's id or name"),
        ("strange", r"was not made by xray_det \(it has no tag run_folder\)"),
        ("gone", r"its folder .*/gone cannot be reached from here\. Run this where the folder is"),
        ("deleted", "no run's id or name"),
    ],
)
def test_what_names_no_run_is_refused(store: Store, text: str, problem: str) -> None:
    for name in {text, store.ids.get(text, text)}:
        with pytest.raises(InputError, match=problem):
            Resolver(store.uri).folders([name])


@pytest.mark.medium
def test_a_name_of_several_runs_lists_their_ids(store: Store) -> None:
    with pytest.raises(InputError, match="2 runs have this name") as caught:
        Resolver(store.uri).folders(["twice"])
    assert store.ids["twice-a"] in caught.value.problem
    assert store.ids["twice-b"] in caught.value.problem
    with pytest.raises(InputError, match=r"experiment 'g': is not in .* Give one of: Default, e, f"):
        Resolver(store.uri, "g").folders(["twice"])
