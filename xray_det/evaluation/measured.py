"""What one validation found, as it is kept: a run's validations, and what compares runs, speak in it.

Its JSON is plain: a value that is not defined (NaN, or COCO's -1 for a class) is null, so that any reader takes it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xray_det.errors import InputError
from xray_det.evaluation.result import Result, finite

_REMEDY = "Measure the run again"


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of one validation set.

    Attributes:
        name: of the class, as the validation set calls it.
        count: how often the training data hold the class; bands and order of classes go by it.
        ap: average precision in [0, 1]; None where the set has no truth of the class.
    """

    name: str
    count: int
    ap: float | None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"class {self.name}", f"a count of {self.count}", _REMEDY)
        if self.ap is not None and not 0 <= self.ap <= 1:
            raise InputError(f"class {self.name}", f"an average precision of {self.ap}", _REMEDY)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The numbers of one validation.

    Attributes:
        metrics: ``val/AP``, ``val/AP_head``, … (means over the validation sets) and ``val/DATASET/PROTOCOL/NAME``.
        classes: ``DATASET/PROTOCOL`` -> its classes, in the order of the dataset's label space.
    """

    metrics: Mapping[str, float]
    classes: Mapping[str, tuple[ClassRow, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "metrics": {name: finite(value) for name, value in self.metrics.items()},
            "classes": {key: [asdict(row) for row in rows] for key, rows in self.classes.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "validation") -> "Measured":
        """From ``to_json``'s form; what else the mapping holds (phase, step) is the writer's own.

        Args:
            where: the file it comes from, for messages.

        Raises:
            InputError: a part is missing or no number.
        """
        try:
            metrics = {str(name): math.nan if v is None else float(v) for name, v in value["metrics"].items()}
            classes = {
                str(key): tuple(
                    ClassRow(
                        name=str(row["name"]),
                        count=int(row["count"]),
                        ap=None if row["ap"] is None else float(row["ap"]),
                    )
                    for row in rows
                )
                for key, rows in value["classes"].items()
            }
        except InputError as error:
            raise InputError(where, f"{error.where}: {error.problem}", _REMEDY) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(where, f"holds no validation ({error!r})", _REMEDY) from error
        return cls(metrics=metrics, classes=classes)


def class_rows(result: Result, counts: NDArray[np.integer]) -> tuple[ClassRow, ...]:
    """A result class by class.

    Args:
        result: of any protocol.
        counts: [C] how often the training data hold each class of ``result.space`` (assess.trained_counts: images).

    Raises:
        InputError: another number of counts than of classes.
    """
    if len(counts) != len(result.space):
        raise InputError(
            "counts", f"{len(counts)} for {len(result.space)} classes", "Count in the label space that is scored"
        )
    return tuple(
        # A sum of a curve's pieces may round to a hair above 1.
        ClassRow(name=name, count=int(count), ap=None if ap == -1 else finite(min(float(ap), 1.0)))
        for name, count, ap in zip(result.space.names, counts, result.ap, strict=True)
    )
