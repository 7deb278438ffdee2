"""A database server as tracking address: what is wrong with it, said at once.

MLflow takes any failure to connect for a passing one and tries ten times in silence, 100 seconds.
"""

import re
from typing import Final

from xray_det.errors import InputError
from xray_det.tracking.address import without_password

CONNECT_SECONDS: Final = 10
#: What the drivers of PostgreSQL and MySQL say -> what to do. Anything else may pass by waiting.
_REMEDIES: Final = (
    (
        "password authentication failed|no password supplied|Access denied|no pg_hba.conf entry|role .* does not exist",
        "Correct user and password in the tracking address, or the server's permissions",
    ),
    ("database .* does not exist|Unknown database", "Create the database, or correct the tracking address"),
    ("failed to resolve host|could not translate host name|Name or service not known", "Correct the host's name"),
)


def check_database(uri: str) -> None:
    """Connect once.

    Raises:
        InputError: no driver, not an address, unknown host, user, password or database.
        Exception: the server does not answer.
    """
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

    shown = without_password(uri)
    options = {"connect_timeout": CONNECT_SECONDS} if uri.startswith(("postgresql", "mysql")) else {}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=options, poolclass=sqlalchemy.NullPool)
        with engine.connect():
            pass
    except (ImportError, NoSuchModuleError) as error:
        remedy = "Install it, or name another (for PostgreSQL: pip install 'psycopg[binary]', postgresql+psycopg://...)"
        raise InputError(shown, f"the database's driver is not here ({error})", remedy) from error
    except (ArgumentError, ValueError) as error:
        raise InputError(shown, f"not a database's address ({error})", "Correct it") from error
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        for pattern, remedy in _REMEDIES:
            if re.search(pattern, reason):
                raise InputError(shown, reason, remedy) from error
        raise ConnectionError(reason) from error
    except SQLAlchemyError as error:
        raise ConnectionError(str(error).splitlines()[0]) from error
