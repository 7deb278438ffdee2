"""A miniature in shards: rendered and ingested below the project's home, unless it is there."""

from pathlib import Path

from xray_det import storage
from xray_det.config import fingerprint
from xray_det.data.ingest import ingest_published
from xray_det.data.manifest import Manifest
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.releases import Releases, write


def rendered(parameters: Miniature) -> tuple[str, Releases]:
    """The folder of a miniature, called after its parameters, and what lies in it."""
    folder = storage.join(storage.home(), f"miniature-{fingerprint(parameters)[:8]}")
    return folder, write(folder, parameters)


def ingested(folder: str, published: Path) -> Manifest:
    """One release of the miniature in ``folder``, or a truth file of it, in shards called after it."""
    return ingest_published([published], storage.join(folder, "shards", published.stem))
