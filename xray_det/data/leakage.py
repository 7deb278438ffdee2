"""Images that a detector is measured on and has been trained on: what is to be said of them before a number is read."""

from collections.abc import Sequence

from xray_det.data.manifest import Manifest
from xray_det.data.publish import ALIKE_IN_TWO_SPLITS, IN_TWO_SPLITS

#: Images of a dataset: of one split, or all (None).
Chosen = tuple[Manifest, str | None]


def also_trained_on(train: Sequence[Chosen], measured: Sequence[Chosen]) -> tuple[str, ...]:
    """A sentence for each choice of images to measure on some of which are trained on, with how many. Manifests tell.

    Datasets are the same where their fingerprints are, whatever they are called and wherever they lie. An image is in
    one split of a dataset, so the splits in common say which images are; the same picture under two names in two splits
    is what ingest found. Datasets of different content are not compared.
    """
    said = []
    for manifest, split in measured:
        same = [chosen for other, chosen in train if other.fingerprint == manifest.fingerprint]
        if not same:
            continue
        taught = {name for chosen in same for name in _splits(manifest, chosen)}
        common = sum(manifest.splits.get(name, 0) for name in _splits(manifest, split) if name in taught)
        total = sum(manifest.splits.get(name, 0) for name in _splits(manifest, split))
        copies = sum(manifest.repaired.get(kind, 0) for kind in (IN_TWO_SPLITS, ALIKE_IN_TWO_SPLITS))
        where = f"{manifest.name} ({manifest.folder})"
        if common:
            chosen_for = " and ".join(dict.fromkeys(map(_called, same)))
            said.append(
                f"{where}: {common:,} of {total:,} validation images are also trained on "
                f"(trained on {chosen_for}, measured on {_called(split)})"
            )
        elif copies:
            said.append(
                f"{where}: up to {copies:,} of {total:,} validation images are also trained on under another name: "
                f"they stand in two splits (findings.parquet, {IN_TWO_SPLITS} and {ALIKE_IN_TWO_SPLITS})"
            )
    return tuple(said)


def _splits(manifest: Manifest, split: str | None) -> Sequence[str]:
    return tuple(manifest.splits) if split is None else (split,)


def _called(split: str | None) -> str:
    return "all its images" if split is None else f"its split {split}"
