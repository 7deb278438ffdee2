"""What a run on a command line means: the folder that it is kept in; and what runs have to do with each other.

MLflow is asked, and imported, only where the folders do not tell.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xray_det import storage
from xray_det.errors import InputError
from xray_det.tracking import records
from xray_det.tracking.address import default_uri
from xray_det.tracking.tracker import compare_address

if TYPE_CHECKING:
    from xray_det.tracking.runs import Found, Runs


class Resolver:
    """Finds runs by folder, by MLflow id, by name; a sweep's stands for its finished trials.

    Args:
        uri: tracking address; None: the default one, and for a folder the one that it was tracked at.
        experiment: name of the MLflow experiment in which names are looked up; None for all.

    Attributes:
        notes: what a user should know of what was found.
    """

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        self.uri, self.experiment = uri, experiment
        self.notes: list[str] = []
        self._stores: dict[str, Runs] = {}

    def folders(self, texts: Sequence[str]) -> list[str]:
        """Run folders, each once, in the order given.

        Raises:
            InputError: a text that means no run or several, a folder that cannot be reached, a sweep without a result.
        """
        return list(dict.fromkeys(records.address(folder) for text in texts for folder in self._folders_of(text)))

    def common_parent(self, folders: Sequence[str]) -> str | None:
        """The folder of the run that all of them are trials of; None where they have none in common."""
        parents = {self._parent(folder) for folder in folders}
        return parents.pop() if len(parents) == 1 else None

    def compare_page(self, folders: Sequence[str]) -> str | None:
        """MLflow's own page that compares the runs; None where not all of them are at one address."""
        found = [self.tracked(folder) for folder in folders]
        known = [t for t in found if t is not None and t.run_id is not None]
        if len(known) < len(found) or len({t.uri for t in known}) > 1:
            return None
        experiments = dict.fromkeys(str(t.experiment_id) for t in known)
        return compare_address(known[0].uri, list(experiments), [str(t.run_id) for t in known])

    def tracked(self, folder: str) -> records.Tracked | None:
        """Where a run is: at this tracking address if it was ever sent there, else at its own."""
        here = records.tracked(folder, self.uri)
        return here if here is not None and here.run_id is not None else records.tracked(folder)

    def _folders_of(self, text: str) -> list[str]:
        if records.is_run(text) or (storage.exists(text) and records.tracked(text)):
            return self._expanded(text, text, None)
        if "/" in text or text.startswith(("~", ".")):
            problem = "holds no run" if storage.exists(text) else "is not there"
            raise InputError(text, problem, "Give the folder of a training or a sweep, or a run's id or name in MLflow")
        found = self._in_mlflow(text)
        return self._expanded(text, self._reachable(found), found)

    def _expanded(self, text: str, folder: str | None, found: "Found | None") -> list[str]:
        """The run itself if it was measured, else its finished trials."""
        if folder is not None and records.is_measured(folder):
            return [folder]
        below = records.trials(folder) if folder is not None else []
        trials = below or self._trials_in_mlflow(folder, found)
        if not trials:
            if folder is None:
                raise InputError(text, "was not made by xray_det (it has no tag run_folder)", "Give another run")
            return [folder]  # whoever reads it says what is missing
        chosen = records.chosen(trials)
        if not chosen:
            raise InputError(
                text, f"none of its {len(trials)} trials has finished", "Wait for one, or give run folders"
            )
        if unfinished := sum(not records.is_finished(trial) for trial in trials):
            self.notes.append(f"{text}: {unfinished} of {len(trials)} trials have not finished and are left out.")
        return chosen

    def _trials_in_mlflow(self, folder: str | None, found: "Found | None") -> list[str]:
        store = self._store(self.uri or default_uri()) if found is not None else None
        if found is None and folder is not None and not records.is_run(folder):
            tracked = self.tracked(folder)
            if tracked is not None and tracked.run_id is not None:
                store = self._store(tracked.uri)
                found = store.by_id(tracked.run_id)
        if store is None or found is None:
            return []
        return [folder for child in store.children(found) if (folder := self._reachable(child)) is not None]

    def _in_mlflow(self, text: str) -> "Found":
        """The one run with that id or name."""
        store = self._store(self.uri or default_uri())
        found = store.by_id(text) if re.fullmatch("[0-9a-f]{32}", text) else None
        matches = [found] if found else store.by_name(text, self.experiment)
        if not matches:
            where = f"{store.uri}, experiment {self.experiment!r}" if self.experiment else store.uri
            raise InputError(
                text,
                f"no run folder, and no run's id or name in {where}",
                "Check --tracking and --experiment, or give a folder",
            )
        if len(matches) > 1:
            listed = ", ".join(f"{run.run_id} ({run.folder})" for run in matches)
            raise InputError(text, f"{len(matches)} runs have this name: {listed}", "Give the id of one, or its folder")
        return matches[0]

    def _parent(self, folder: str) -> str | None:
        tracked = self.tracked(folder)
        if tracked is None:
            return None
        if tracked.parent_folder is None and tracked.parent_run_id is not None and tracked.uri != "off":
            found = self._store(tracked.uri).by_id(tracked.parent_run_id)
            return records.address(found.folder) if found and found.folder else None
        return tracked.parent_folder

    def _reachable(self, found: "Found") -> str | None:
        if found.folder is not None and not storage.exists(found.folder):
            raise InputError(
                found.name,
                f"its folder {found.folder} cannot be reached from here",
                "Run this where the folder is, or give the address of a copy",
            )
        return found.folder

    def _store(self, uri: str) -> "Runs":
        from xray_det.tracking.runs import Runs

        if uri not in self._stores:
            self._stores[uri] = Runs(uri)
        return self._stores[uri]
