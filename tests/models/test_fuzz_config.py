"""Damaged config.json of a weights folder: the detector is the one that the file describes, or it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.formats import mutations
from tests.data.formats.fuzzing import REFUSED, check
from tests.data.formats.slow_readers import Bad, label_space
from tests.models.scenes import tiny_retinanet
from xray_det.config import to_dict
from xray_det.errors import InputError
from xray_det.labels.space import Class, LabelSpace
from xray_det.models.weights import load_detector, save_detector

OTHER = "another architecture: refused, or built as it says"


@pytest.mark.slow
def test_config(tmp_path: Path) -> None:
    space = LabelSpace(name="s", classes=tuple(Class(name=name, source_id=name) for name in ("cat", "dog")))
    save_detector(tmp_path, tiny_retinanet().build(len(space)), space, experiment={"phases": [{"epochs": 2}]})
    file = tmp_path / "config.json"
    whole = file.read_bytes()
    architecture = json.loads(whole)["architecture"]

    def fast(data: bytes) -> Any:
        file.write_bytes(data)
        try:
            detector, found = load_detector(tmp_path)
        except InputError:
            if slow(data) == OTHER:
                return OTHER
            raise
        described = {"type": type(detector.config).__name__, **to_dict(detector.config)}
        said = json.loads(data)["architecture"]
        if said != architecture:
            for key in ("weights", "partial"):  # of a start from other weights, which a saved detector has behind it
                said.get("backbone", {}).pop(key, None)
            assert holds(described, said)
            return OTHER
        return [(each.source_id, each.name) for each in found.classes]

    def slow(data: bytes) -> Any:
        """The weights fit two classes and the architecture that was saved, and now and then another one."""
        try:
            config = json.loads(data)
            classes = label_space(config["label_space"])
            described, experiment = config["architecture"], config["experiment"]
        except (Bad, ValueError, LookupError, TypeError, RecursionError):
            return REFUSED
        if config.get("model_type") != "xray_det" or not isinstance(experiment, dict | None) or len(classes) != 2:
            return REFUSED
        return classes if described == architecture else OTHER

    check("config", [whole], mutations.JSON, 60, fast, slow)


def holds(whole: Any, part: Any) -> bool:
    """Whether a description says all that a shorter one does."""
    if isinstance(part, dict):
        return all(key in whole and holds(whole[key], part[key]) for key in part)
    return bool(whole == part)
