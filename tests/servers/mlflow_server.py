"""An MLflow server as a team runs one: PostgreSQL for runs, an S3 bucket for artifacts."""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from servers.object_store import ObjectStore
from servers.postgres import Postgres
from servers.programs import Server, free_port


class MlflowServer(Server):
    """``mlflow server`` on 127.0.0.1; stopped and started again it has the same address.

    Attributes:
        uri: the tracking address, and that of its UI.
        store, artifacts: where it keeps runs and artifacts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: str,
        artifacts: str,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.uri, self.store, self.artifacts = f"http://127.0.0.1:{port}", store, artifacts
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", store, "--artifacts-destination", artifacts, *options,
        ]  # fmt: skip
        environment = {
            **(environment or {}),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight helper processes less
            "MLFLOW_TRACKING_URI": store,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_PYTHON_REFRESH": "quiet",
        }
        super().__init__(command, log=folder / "mlflow-server.log", ready=self.healthy, environment=environment)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return True  # it serves, and refuses us: --allowed-hosts
        except OSError:
            return False


@pytest.fixture(scope="session")
def mlflow_server(
    postgres: Postgres, object_store_server: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """The MLflow server of the session. It starts in 13 to 20 s; a test that stops it starts it again."""
    database = postgres.new_database()
    server = MlflowServer(
        tmp_path_factory.mktemp("mlflow"),
        store=postgres.uri(database),
        artifacts=f"{object_store_server.new_bucket()}/mlflow",
        environment=object_store_server.environment,
    )
    server.start()
    yield server
    server.stop()
