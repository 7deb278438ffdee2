"""What many tests need: the shared real data, and one Ray cluster a session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One thread a process: two cores are shared by workers, and oversubscribed threads run ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

# An example's time says nothing on a machine that is shared.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

#: Fixtures of real servers, started by the first test that asks for one.
pytest_plugins = ["servers.postgres", "servers.object_store", "servers.mlflow_server"]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, annotations and metric references beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside this checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches and default outputs of the tests lie in a folder of their own."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("XRAY_DET_HOME")
    os.environ["XRAY_DET_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XRAY_DET_HOME"]
    else:
        os.environ["XRAY_DET_HOME"] = before


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole session: starting one costs 6 to 10 seconds."""
    import ray

    from xray_det.data.cluster import start

    start(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
