"""Pages of MLflow's UI as a person would use them, and their pictures.

The picture of a sweep in the README, from a server that has it:

    PYTHONPATH=tests python -m servers.mlflow_pages --png sweep.png --uri http://127.0.0.1:5000 \
        --experiment-id 1 --run-ids ID ID ID
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from servers.browser import Browser
from xray_det.tracking.tracker import compare_address

PARAMETERS = ("phases.1.sampling.lam", "seed")
METRICS = ("val/AP", "val/AP_head", "val/AP_middle", "val/AP_tail")
#: Where the page lets one choose the axes of its plot: the first box is of parameters, the second of metrics.
_BOXES = "#root input[role=combobox]"
_PLOTTED = "[...document.querySelectorAll('.pcp-plot .axis-title')].map(t => t.textContent)"


def show_comparison(
    page: Browser,
    uri: str,
    experiment_id: str,
    run_ids: Sequence[str],
    parameters: Sequence[str] = PARAMETERS,
    metrics: Sequence[str] = METRICS,
) -> None:
    """Open the page that compares runs, with these axes in its plot of parallel coordinates."""
    page.remember("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")  # a chat, over a quarter of the page
    page.remember("mlflow.assistant.panelOpen_v1", "false")
    page.open(compare_address(uri, [experiment_id], run_ids))
    page.wait_for("document.querySelector('.pcp-plot svg')")
    page.click("document.querySelector('[data-testid=clear-button]')")
    for number, names in enumerate((parameters, metrics)):
        for name in names:
            page.type(f"document.querySelectorAll({json.dumps(_BOXES)})[{number}]", name)  # a long list has no others
            page.click(f"document.querySelector('[class*=select-item-option][title={json.dumps(name)}]')")
            page.run("document.activeElement.blur()")  # closes the list
            page.wait_for(f"{_PLOTTED}.includes({json.dumps(name)})")


def picture_of_comparison(
    *,
    png: Path,
    uri: str,
    experiment_id: str,
    run_ids: tuple[str, ...],
    parameters: tuple[str, ...] = PARAMETERS,
    metrics: tuple[str, ...] = METRICS,
) -> None:
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile), 1400, 610) as page:
        show_comparison(page, uri, experiment_id, run_ids, parameters, metrics)
        page.picture(png)


if __name__ == "__main__":
    import tyro

    tyro.cli(picture_of_comparison)
