"""Ray Tune as sweeps need it: beside the driver, silent, restored after a kill."""

import os
from collections.abc import Callable
from typing import Any

import ray
from ray import tune

from xray_det import display, storage

logger = display.logger(__name__)


def run_tuner(
    address: str,
    trainable: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    settings: tune.TuneConfig,
    concurrent: int,
) -> None:
    """Run or go on with trials.

    Args:
        address: folder or URI of Ray Tune's record of them; what it holds is gone on with.
        settings: metric, scheduler, searcher, number of samples.
        concurrent: trials at a time.

    Raises:
        Exception: the first one of a trial that failed again and again.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # ours go to MLflow
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old output can be silent
    # Trials lie beside the driver, whatever CPUs its machine offers, and take a share of it each: unlike Ray Tune's own
    # limit this counts a trial that waits for others as none.
    share = int(1000 / concurrent) / 1000
    trainable = tune.with_resources(trainable, {f"node:{ray.util.get_node_ip_address()}": share})
    fs, path = storage.locate(address)  # this one waits out what an object store refuses for a while
    tuner = None
    if tune.Tuner.can_restore(path, storage_filesystem=fs):
        try:
            tuner = tune.Tuner.restore(
                path,
                trainable=trainable,
                param_space=space,
                storage_filesystem=fs,
                resume_unfinished=True,
                resume_errored=True,
            )
        except Exception as error:  # cut off as it was written; the run folders know what is finished
            logger.warning("%s cannot be read (%s): the arms are gone through again", address, error)
    if tuner is None:
        parent, _, name = path.rpartition("/")
        run = tune.RunConfig(
            name=name,
            storage_path=parent,
            storage_filesystem=fs,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
        )
        tuner = tune.Tuner(trainable, param_space=space, tune_config=settings, run_config=run)
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
