"""Data flows one way: a folder imports only the folders before it, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xray_det"
ORDER = ["labels", "data", "losses", "models", "train", "inference", "evaluation", "tracking", "orchestrate"]
FILES = sorted(PACKAGE.rglob("*.py"))

#: library -> the only places (a folder, or a file) that may import it
CONFINED = {
    "ray": (
        "data/cluster.py",
        "data/ingest.py",
        "data/statistics.py",
        "data/loader.py",
        "inference/predict.py",
        "orchestrate/",
    ),
    "mlflow": ("tracking/",),
    "torch": ("data/batch.py", "data/loader.py", *(f"{folder}/" for folder in ORDER[2:])),
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; the direction is read off absolute names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_direction(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "xray_det" or len(parts) < 2 or parts[1] not in ORDER:
            continue
        assert own in ORDER, f"{own} is imported by every folder and may import none ({name})"
        assert ORDER.index(parts[1]) <= ORDER.index(own), f"{own} imports {name}, which comes after it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_confined(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        places = CONFINED.get(name.split(".")[0], ("",))
        assert relative.startswith(places), f"{relative} imports {name}; allowed in {places}"


def test_every_folder_is_in_the_order() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(ORDER)


def test_a_process_that_runs_no_network_does_not_import_the_compiler() -> None:
    """torchvision imports torch's compiler, which takes longer than torch itself."""
    code = "import sys, xray_det.orchestrate.sweep; print({'torchvision', 'torch._dynamo', 'mlflow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
