"""Do function bodies compile where they now are? Asked of the server's own validators, before COMMIT."""

from __future__ import annotations

import psycopg
from psycopg import sql

from ..database.session import Session
from .compare import Comparison
from .ddl import Writer
from .model import Catalog, Function, Key

_VALIDATOR = sql.SQL("""
SELECT n.nspname::text AS schema, v.proname::text AS name, p.oid::bigint
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_proc v ON v.oid = l.lanvalidator JOIN pg_namespace n ON n.oid = v.pronamespace
WHERE p.oid = {}::regprocedure
""")


def changed_functions(comparison: Comparison) -> list[Key]:
    """The functions that DEV has and PROD lacked or had otherwise."""
    aspects = {
        difference.key
        for difference in comparison.differences
        if not difference.aspect.startswith(("grant ", "comment"))
    }
    return sorted(key for key in aspects if isinstance(comparison.desired.objects.get(key), Function))


def compile_error(session: Session, catalog: Catalog, key: Key) -> str | None:
    """What the server says against the body of function `key`; None when it compiles. Needs a transaction, which is left as it was.

    Names without a schema are looked for in the aligned schemas and in those of the extensions.
    """
    name = Writer(catalog.extension_schemas).name(key)
    found = session.row(_VALIDATOR.format(sql.Literal(name)))
    if found is None:
        return None
    path = dict.fromkeys((*catalog.schemas, *catalog.extension_schemas.values()))
    session.execute("SAVEPOINT body")
    try:
        session.execute("SET LOCAL check_function_bodies = on")
        session.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.SQL(", ").join(map(sql.Identifier, path))))
        validator = sql.Identifier(found["schema"], found["name"])
        session.rows(sql.SQL("SELECT {}({}::oid)").format(validator, sql.Literal(found["oid"])))
    except psycopg.Error as error:
        if session.connection.broken or session.connection.closed:
            raise
        return " ".join((error.diag.message_primary or str(error)).split())
    finally:
        if not (session.connection.broken or session.connection.closed):
            session.execute("ROLLBACK TO SAVEPOINT body")
    return None
