"""What a person sees in MLflow's UI of the trials of a sweep."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers.browser import Browser
from servers.mlflow_pages import METRICS, PARAMETERS, picture_of_comparison, show_comparison
from servers.mlflow_server import MlflowServer

from xray_det.tracking.tracker import Tracker

pytestmark = pytest.mark.slow

TRIALS = [(lam, seed) for lam in (0.0, 0.5, 0.7, 1.0) for seed in (0, 1)]


@pytest.fixture(scope="module")
def trials(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Experiment and runs of a made sweep: the tail gains with lambda, up to 0.7."""
    folder = tmp_path_factory.mktemp("sweep")
    parent = Tracker(folder / "sweep", experiment="lambda", name="lambda sweep", uri=mlflow_server.uri,
                     system_metrics_s=0)  # fmt: skip
    children = []
    for lam, seed in TRIALS:
        name = f"lam-{lam}-seed-{seed}"
        child = Tracker(folder / name, experiment="lambda", name=name, uri=mlflow_server.uri, system_metrics_s=0,
                        parent_folder=str(folder / "sweep"), wait=False)  # fmt: skip
        child.params({"phases.1.sampling.lam": lam, "seed": seed})
        for step in range(10):
            grown, gain = (step + 1) / 10, 0.3 * lam - 0.1 * (lam > 0.7) + 0.01 * seed
            values = {"AP_head": 0.6 + 0.02 * seed, "AP_middle": 0.4 + gain / 2, "AP_tail": 0.2 + gain}
            values["AP"] = sum(values.values()) / 3
            child.log({f"val/{key}": grown * value for key, value in values.items()}, step)
        children.append(child)
    assert [tracker.finish(patience_s=120) for tracker in (*children, parent)] == [0] * (len(TRIALS) + 1)
    assert parent.destination is not None
    return parent.destination.experiment_id, [child.destination.run_id for child in children if child.destination]


def test_the_compare_page_shows_runs_parameters_and_metrics(
    mlflow_server: MlflowServer, trials: tuple[str, list[str]], tmp_path: Path
) -> None:
    experiment, runs = trials
    with Browser(tmp_path / "profile") as page:
        show_comparison(page, mlflow_server.uri, experiment, runs)
        shown, elements = page.text(), page.elements()
    assert "Comparing 8 Runs from 1 Experiment" in shown
    for lam, seed in TRIALS:
        assert f"lam-{lam}-seed-{seed}" in shown
    for name in (*PARAMETERS, *METRICS):
        assert elements.count(f">{name}<") >= 2, "an axis of the plot, and a row of the table"


def test_the_picture_of_a_comparison(
    mlflow_server: MlflowServer, trials: tuple[str, list[str]], tmp_path: Path
) -> None:
    """That of the README is made by this function from a real sweep."""
    experiment, runs = trials
    png = tmp_path / "sweep.png"
    picture_of_comparison(png=png, uri=mlflow_server.uri, experiment_id=experiment, run_ids=tuple(runs))
    pixels = np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 500, "the plot's colours"
