"""The scripts in experiments/ as modules: they belong to no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def load(name: str) -> ModuleType:
    """``train``, ``benchmarks/evaluation``: made anew by each call."""
    spec = importlib.util.spec_from_file_location(f"script_{name.replace('/', '_')}", EXPERIMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
