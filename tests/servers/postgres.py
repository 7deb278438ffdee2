"""A PostgreSQL server from Debian's package, run as an unprivileged user in a temporary folder."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers.programs import UNPRIVILEGED, Server, free_port, program

USER, PASSWORD = "tracker", "correct-horse"
FOLDERS = "/usr/lib/postgresql/*/bin"


class Postgres:
    """A server on 127.0.0.1 that asks for a password."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._databases = 0

    def uri(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """As SQLAlchemy, and so MLflow, takes it."""
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """An empty database of its own for each test; its name."""
        self._databases += 1
        name = f"mlflow_{self._databases}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return name

    def query(self, database: str, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        import psycopg

        address = f"host=127.0.0.1 port={self.port} user={USER} password={PASSWORD} dbname={database}"
        with psycopg.connect(address, autocommit=True, connect_timeout=2) as connection:
            cursor = connection.execute(sql, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        import psycopg

        try:
            self.query("postgres", "SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of the session."""
    initdb, server_program = program("initdb", FOLDERS), program("postgres", FOLDERS)
    user = UNPRIVILEGED if os.geteuid() == 0 else None  # the server refuses to run as root
    # pytest's own folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="xray_det-postgres-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        data, port = folder / "data", free_port()
        subprocess.run(
            [initdb, "--pgdata", data, "--username", USER, "--pwfile", folder / "password", "--encoding=UTF8",
             "--auth=scram-sha-256", "--no-sync", "--no-locale"],
            user=user, group=user and pwd.getpwnam(user).pw_gid, cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        database = Postgres(port)
        command = [
            server_program,
            "-D",
            str(data),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-k",
            str(folder),
            "-c",
            "fsync=off",
        ]
        # SIGINT ends it without waiting for clients to leave.
        server = Server(command, log=folder / "postgres.log", ready=database.answers, user=user, stop=signal.SIGINT)
        server.start()
        yield database
        server.stop()
    finally:
        shutil.rmtree(folder)
