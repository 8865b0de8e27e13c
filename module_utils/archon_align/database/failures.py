"""Server and libpq errors in words that say what to do."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors as pg

from ..errors import AlignError, ConnectionFailed
from .target import Target

# libpq reports most connection failures without an SQLSTATE; its wording is stable and is all there is to go by.
_CONNECTION = (
    (
        r"password authentication failed|no password supplied|SASL authentication failed",
        "wrong_password",
        "a log-in that the server accepts",
        "Check user and password of the DSN (Vault, environment or passfile).",
    ),
    (r'database ".*" does not exist', "no_database", "an existing database", "Correct the database name in the DSN."),
    (r'role ".*" does not exist', "no_role", "an existing role", "Correct the user name in the DSN."),
    (
        r"no pg_hba.conf entry",
        "not_allowed",
        "a pg_hba.conf entry for this client",
        "Allow this host, or set the sslmode the server demands.",
    ),
    (
        r"could not translate host name|Name or service not known|nodename nor servname|Temporary failure in name",
        "unknown_host",
        "a host name that resolves",
        "Correct the host in the DSN or the name service.",
    ),
    (
        r"Connection refused|could not connect|No such file or directory|No route to host|Network is unreachable",
        "unreachable",
        "a PostgreSQL server listening there",
        "Check host and port, that the server runs, and firewalls.",
    ),
    (
        r"timeout expired|timed out",
        "timeout",
        "an answer within the connect timeout",
        "Check host, port and firewalls; raise archon_connect_timeout.",
    ),
    (
        r"starting up|shutting down|recovery mode|not yet accepting",
        "not_ready",
        "a server that accepts connections",
        "Wait until the server is up and run again.",
    ),
    (
        r"too many (clients|connections)|remaining connection slots",
        "no_slot",
        "a free connection slot",
        "Close idle clients or raise max_connections.",
    ),
    (r"SSL|certificate", "tls", "a TLS connection as sslmode demands", "Check sslmode and sslrootcert in the DSN."),
)


def where(parts: dict[str, str]) -> str:
    """`user@host:port/database` of a DSN, without anything secret."""
    return f"{parts.get('user', '')}@{parts.get('host') or parts.get('hostaddr') or 'local socket'}:{parts.get('port', '5432')}/{parts.get('dbname', '')}"


def _scrubbed(text: str, parts: dict[str, str]) -> str:
    for key in ("password", "sslpassword"):
        if parts.get(key):
            text = text.replace(parts[key], "********")
    return " ".join(text.split())


def connection_failed(target: Target, parts: dict[str, str], error: psycopg.Error) -> ConnectionFailed:
    """The ConnectionFailed for a failed psycopg.connect."""
    text = _scrubbed(str(error), parts)
    unknown = (
        "connection_failed",
        "a working connection",
        f"Try the same DSN with psql; correct {target.where_set}.",
    )
    code, expected, remedy = next((words for pattern, *words in _CONNECTION if re.search(pattern, text)), unknown)
    return ConnectionFailed(
        f"{target.name} cannot be reached.",
        object_name=f"{target.name} ({where(parts)})",
        expected=expected,
        found=text,
        remedy=remedy,
        code=code,
    )


def server_error(
    target: Target,
    error: psycopg.Error,
    *,
    doing: str,
    object_name: str = "",
    timeout: str = "archon_statement_timeout",
) -> AlignError:
    """An AlignError for a server error met while `doing` something; nothing was committed when it is raised.

    `object_name` is what the statement was about, where the server does not say; `timeout` the variable that limits it.
    """
    diag = error.diag
    names = [part for part in (diag.schema_name, diag.table_name, diag.column_name or diag.constraint_name) if part]
    code, remedy = (
        "database_error",
        "Correct the cause named above and run again; the database is as it was before this transaction.",
    )
    if isinstance(error, pg.InsufficientPrivilege):
        code, remedy = "missing_privilege", "Connect as the owner of the objects, or grant what is missing."
        if diag.source_function == "check_enable_rls":
            code = "row_security"
            remedy = "Connect through a role with BYPASSRLS that is a member of the owner: it sees every row, as a proof must."
    elif isinstance(error, pg.QueryCanceled):
        code, remedy = "statement_timeout", f"Raise {timeout}, or run again at a quieter time."
        # The same SQLSTATE stands for both, so the words must tell; where they are of another language, the first is the likelier.
        if "user request" in (diag.message_primary or ""):
            code, remedy = "canceled", "Somebody canceled the statement (pg_cancel_backend); run again."
    elif isinstance(error, pg.LockNotAvailable):
        code = "lock_timeout"
        remedy = "Wait until whoever holds the table has let go (pg_locks and pg_stat_activity show it), and run again."
    elif isinstance(error, (pg.DiskFull, pg.OutOfMemory, pg.InsufficientResources)):
        code = "server_resources"
        remedy = "Free disk or memory on the server and run again; rewriting a table needs room for it and its indexes once more."
    elif isinstance(error, pg.ReadOnlySqlTransaction):
        code, remedy = "read_only_server", "Connect to the primary; the server or the role is read-only."
    elif isinstance(error, (pg.AdminShutdown, pg.CrashShutdown, pg.OperationalError)) and diag.sqlstate in (
        None,
        "57P01",
        "57P02",
        "57P03",
    ):
        code, remedy = "connection_lost", "Check the server and run again; what was not committed is undone."
    found = " ".join((diag.message_primary or str(error)).split())
    if diag.message_detail:
        found += f" ({' '.join(diag.message_detail.split())})"
    return AlignError(
        f"{target.name} refused while {doing}.",
        object_name=".".join(names) or object_name or target.name,
        expected="the statement to succeed",
        found=found,
        remedy=remedy,
        code=code,
    )
