"""Ray Tune as sweeps need it: beside the driver, silent, restored after a kill."""

import logging
import os
from collections.abc import Callable
from typing import Any

import ray
from ray import tune

from xray_det import storage
from xray_det.orchestrate.run_folder import TUNE, RunFolder

logger = logging.getLogger(__name__)


def run_tuner(
    folder: RunFolder,
    trainable: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    settings: tune.TuneConfig,
    concurrent: int,
) -> None:
    """Run or go on with the trials of a sweep.

    Args:
        folder: of the sweep; what it held of Ray Tune before is gone on with.
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
    address = folder.path(TUNE)
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
        run = tune.RunConfig(
            name=TUNE,
            storage_path=storage.locate(folder.uri)[1],
            storage_filesystem=fs,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
        )
        tuner = tune.Tuner(trainable, param_space=space, tune_config=settings, run_config=run)
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
