"""Measuring each phase's end beside the training, as a Ray task that the workers do not wait for."""

import logging
from collections.abc import Callable, Mapping

import ray

from xray_det import storage
from xray_det.orchestrate.run_folder import RunFolder

logger = logging.getLogger(__name__)

#: Weights folder -> metrics. It may use Ray Data; it is run in a process of its own.
Validate = Callable[[str], Mapping[str, float]]


class Validations:
    """Starts a validation for each phase once; a finished one is read from the run folder after a restart."""

    def __init__(self, validate: Validate | None, folder: RunFolder, *, averaged: bool) -> None:
        self._validate, self._folder, self._averaged = validate, folder, averaged
        self._running: dict[int, ray.ObjectRef] = {}

    def start(self, phase: int) -> None:
        """Measure the weights of a phase's end, unless that has been done."""
        if self._validate is None or phase in self._running or storage.exists(self._address(phase)):
            return
        weights = self._folder.weights(phase, averaged=self._averaged)
        # The task itself only waits for others: what computes asks for CPUs of its own.
        task = ray.remote(num_cpus=0, max_retries=2)(_measure)
        self._running[phase] = task.remote(self._validate, weights, self._address(phase))

    def results(self, phases: int) -> list[dict[str, float]]:
        """Metrics of each phase, waiting for what still runs. A failed validation leaves an empty result."""
        for phase, task in self._running.items():
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                logger.error("the validation of phase %d failed: %s", phase, error)
        addresses = [self._address(phase) for phase in range(phases)]
        return [storage.read_json(address) if storage.exists(address) else {} for address in addresses]

    def _address(self, phase: int) -> str:
        return self._folder.path("phases", str(phase), "metrics.json")


def _measure(validate: Validate, weights: str, address: str) -> None:
    storage.write_json(address, {name: float(value) for name, value in validate(weights).items()})
