"""Tracking addresses: which can work, and what of them may be written down.

A database's address holds a password. It is shown in no message, no process list and no run folder: there the password
is ``***``, and whoever needs it again takes it from ``MLFLOW_TRACKING_URI``.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from xray_det import storage
from xray_det.errors import InputError

SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
_PASSWORD: Final = re.compile(r"(?<=://)([^:/@\s]*):[^/\s]*@")
_HIDDEN: Final = ":***@"


def default_uri() -> str:
    """``MLFLOW_TRACKING_URI`` when set, else a SQLite database in the project's home."""
    path = re.sub("[?#%]", lambda found: quote(found[0]), str(storage.home() / "mlflow.db"))
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path}"


def database_file(uri: str) -> Path:
    """The file of a ``sqlite:///`` address, in which ``%3F`` stands for a question mark in a name."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def check_uri(uri: str) -> str:
    """The address if its form is one that can work; ``off`` tracks nothing beyond the journal.

    An address as a run folder keeps it gets the password that ``MLFLOW_TRACKING_URI`` has for it.

    Raises:
        InputError: no scheme, a file store (MLflow refuses it), a scheme MLflow does not know, an unwritable database,
            a password that is not known any more.
    """
    if uri == "off":
        return uri
    if _HIDDEN in uri:
        given = os.environ.get("MLFLOW_TRACKING_URI", "")
        if without_password(given) != uri:
            raise InputError(
                uri,
                "its password is not kept with the run",
                "Set MLFLOW_TRACKING_URI to this address with the password",
            )
        uri = given
    shown = without_password(uri)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9]*)(\+\w+)?://", uri)
    if scheme is None or scheme[1].lower() not in SCHEMES:
        raise InputError(
            shown,
            "not a tracking address that MLflow takes" + (" (its file store is retired)" if "file" in uri[:5] else ""),
            f"Give a server (http://HOST:5000), a database (sqlite:///FILE, postgresql://...) or off; "
            f"schemes: {', '.join(SCHEMES)}",
        )
    if scheme[1] == "sqlite":
        folder = database_file(uri).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(shown, f"its folder cannot be made ({error.strerror})", "Choose another file") from error
        if not os.access(folder, os.W_OK):
            raise InputError(shown, f"the folder {folder} is not writable", "Choose another file")
    return uri


def without_password(uri: str) -> str:
    """``postgresql://me:secret@host/db`` -> ``postgresql://me:***@host/db``: what may be shown and written down."""
    return _PASSWORD.sub(rf"\1{_HIDDEN}", uri)
