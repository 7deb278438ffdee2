"""Tracking addresses: what can work, what is wrong at once, and that a password is written down nowhere."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from xray_det import storage
from xray_det.errors import InputError
from xray_det.tracking.address import check_uri, database_file, default_uri, without_password
from xray_det.tracking.outbox import Outbox
from xray_det.tracking.sender import follow
from xray_det.tracking.tracker import Tracker


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:se:cr@t@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("http://me:secret@host", "http://me:***@host"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:////data/a@b:c.db", "sqlite:////data/a@b:c.db"),
        ("train.py --to http://host:5000 --mail a@b --db mysql://u:p@h/d",
         "train.py --to http://host:5000 --mail a@b --db mysql://u:***@h/d"),
    ],
)  # fmt: skip
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert without_password(text) == shown
    assert without_password(shown) == shown


def test_a_run_folder_keeps_the_address_without_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, kept = "postgresql://me:secret@host/db", "postgresql://me:***@host/db"
    outbox = Outbox(tmp_path, given)
    outbox.run_id = "1"
    outbox.save()
    assert "secret" not in next((tmp_path / "tracking").iterdir()).read_text()
    assert Outbox(tmp_path, kept).run_id == "1", "and whoever knows it without finds the run again"
    assert Outbox(tmp_path, given.replace("secret", "new")).run_id == "1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert check_uri(kept) == given
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given.replace("host", "other"))
    with pytest.raises(InputError, match="Set MLFLOW_TRACKING_URI"):
        check_uri(kept)


@pytest.mark.medium
def test_a_database_of_another_mlflow_says_how_to_upgrade(tmp_path: Path) -> None:
    from xray_det.tracking.mlflow_run import MlflowRun

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Tracker(tmp_path / "run", experiment="e", name="n", uri="off", system_metrics_s=0).finish()
    MlflowRun(str(tmp_path / "run"), uri).send(final=True)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(InputError, match=r"out-of-date.*mlflow db upgrade"):
        MlflowRun(str(tmp_path / "run"), f"{uri}?mlflow-keeps-one-client-an-address").connect()


class Stubborn:
    """A run whose folder's storage refuses twice, before it takes everything."""

    def __init__(self) -> None:
        self.outbox = type("Box", (), {"run_id": "1", "experiment_id": "2"})
        self.refusals, self.sent = 2, False

    def connect(self) -> None:
        pass

    def send(self, *, final: bool) -> None:
        if self.refusals:
            self.refusals -= 1
            raise storage.Refused("s3://bucket/x", "the object store refuses (SLOW_DOWN)", "Wait")
        self.sent = final


def test_the_sender_waits_for_the_storage_of_the_run_too() -> None:
    run, said = Stubborn(), []
    closing = threading.Event()
    closing.set()

    def say(**message: Any) -> None:
        said.append(message)

    follow(run, closing=closing, orphaned=threading.Event(), say=say)  # type: ignore[arg-type]
    assert run.sent
    assert [message["state"] for message in said] == ["ready", "down"]


@pytest.mark.parametrize("name", ["a?b", "a%41b", "a#b", "a b", "ü;&=@"])
def test_any_home_holds_the_database(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that SQLAlchemy opens by the default address is the one in the home, and ours."""
    import sqlalchemy

    monkeypatch.setenv("XRAY_DET_HOME", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = check_uri(default_uri())
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x INTEGER)"))
    assert database_file(uri) == tmp_path / name / "mlflow.db"
    with sqlite3.connect(tmp_path / name / "mlflow.db") as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    assert [path.name for path in tmp_path.iterdir()] == [name], "and nothing beside it"


def test_an_ordinary_home_has_a_plain_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAY_DET_HOME", "/home/me/xray_det")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri() == "sqlite:////home/me/xray_det/mlflow.db"
