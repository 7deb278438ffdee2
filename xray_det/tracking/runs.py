"""Runs read back from MLflow: by id, by name, by parent. With mlflow_run.py the only file that knows MLflow.

What a run measured is read from its folder (records.py), which the tag ``run_folder`` names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from xray_det.errors import InputError
from xray_det.tracking.address import check_uri, database_file, without_password
from xray_det.tracking.mlflow_run import check_answer, first_line


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run in MLflow; ``folder`` is None for a run that xray_det did not make."""

    run_id: str
    experiment_id: str
    name: str
    folder: str | None
    created_ms: int


class Runs:
    """The runs at a tracking address.

    Raises:
        InputError: the address cannot work, nothing is there, or it does not answer.
    """

    def __init__(self, uri: str) -> None:
        uri = check_uri(uri)
        self.uri = without_password(uri)
        if uri == "off":
            raise InputError("tracking", "is off, so no run has an id or a name there", "Give run folders")
        if uri.startswith("sqlite:///") and not database_file(uri).is_file():
            raise InputError(uri, "no such database", "Give --tracking ADDRESS, or run folders")
        try:
            check_answer(uri)
            self._client = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        except InputError:
            raise
        except Exception as error:  # mlflow, sqlalchemy and requests each raise their own
            raise InputError(
                self.uri, f"does not answer ({first_line(error)})", "Start it, or give run folders"
            ) from error

    def by_id(self, run_id: str) -> Found | None:
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return _found(run) if run.info.lifecycle_stage == "active" else None

    def by_name(self, name: str, experiment: str | None = None) -> list[Found]:
        """Runs of that name, the newest first, a folder once: a folder that was removed may have had runs before.

        Args:
            experiment: the name of an experiment; all of them unless given.

        Raises:
            InputError: no such experiment.
        """
        if experiment is not None:
            known = self._client.get_experiment_by_name(experiment)
            if known is None or known.lifecycle_stage != "active":
                names = ", ".join(sorted(e.name for e in self._experiments())[:10])
                raise InputError(f"experiment {experiment!r}", f"is not in {self.uri}", f"Give one of: {names}")
            experiments = [known.experiment_id]
        else:
            experiments = [e.experiment_id for e in self._experiments()]
        # A name is put into the query where it can be quoted, and compared here in any case: databases differ in case.
        quoted = next((f"{mark}{name}{mark}" for mark in "'\"" if mark not in name), None)
        where = f"attributes.run_name = {quoted}" if quoted and "\\" not in name else ""
        matches = [run for run in self._search(experiments, where) if run.name == name]
        newest: dict[str, Found] = {}
        for run in sorted(matches, key=lambda run: -run.created_ms):
            newest.setdefault(run.folder or run.run_id, run)
        return list(newest.values())

    def children(self, parent: Found) -> list[Found]:
        """Its trials, the oldest first."""
        experiments = [e.experiment_id for e in self._experiments()]
        found = self._search(experiments, f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
        return sorted(found, key=lambda run: run.created_ms)

    def _experiments(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_experiments(page_token=token)
            yield from page
            if not (token := page.token):
                return

    def _search(self, experiments: list[str], where: str) -> Iterator[Found]:
        token = None
        while experiments:
            page = self._client.search_runs(experiments, where, ViewType.ACTIVE_ONLY, 1000, page_token=token)
            yield from map(_found, page)
            if not (token := page.token):
                return


def _found(run: Any) -> Found:
    return Found(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        name=run.info.run_name or run.info.run_id,
        folder=run.data.tags.get("run_folder"),
        created_ms=run.info.start_time or 0,
    )
