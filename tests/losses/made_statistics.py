"""Statistics of training data that does not exist."""

import numpy as np

from xray_det.labels.concurrence import Concurrence
from xray_det.labels.statistics import ClassStatistics


def statistics(classes: int, *, seed: int = 0, rates: np.ndarray | None = None) -> ClassStatistics:
    """Falling counts; class 1 is a kind of class 0. Unless ``rates`` [C, C] are given, three quarters of the pairs have
    one, a tenth of them 1."""
    if rates is None:
        rates = np.random.default_rng(seed).random((classes, classes))
        rates = np.where(rates > 0.9, 1, np.where(rates > 0.15, rates, 0))
    rates = np.where(np.eye(classes, dtype=bool), 0, rates)
    row, column = np.nonzero(rates)
    found = Concurrence(
        num_classes=classes,
        row=row.astype(np.int32),
        column=column.astype(np.int32),
        rate=rates[row, column].astype(np.float32),
    )
    ancestors = np.zeros((classes, classes), bool)
    ancestors[1, 0] = True
    counts = 4 ** np.arange(classes, 0, -1)
    return ClassStatistics(image_counts=counts, instance_counts=2 * counts, ancestors=ancestors, concurrence=found)
