"""Roles and grants as they come: names that need quoting, and default privileges that reach every new sequence."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.embedded.server import EmbeddedServer
from archon_align.schema.inspect import inspect
from archon_align.schema.model import Grant
from psycopg import sql
from schema_worlds import World

ODD = 'Rolé "o\'x" %s'


def test_a_role_whose_name_needs_quotes_can_be_connected_as(
    server: EmbeddedServer, new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    dsn = new_database("")
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ODD)))
    try:
        odd_dsn = psycopg.conninfo.make_conninfo(dsn, user=ODD)
        with psycopg.connect(odd_dsn, autocommit=True) as odd:
            odd.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO anon")
        context = make_context(odd_dsn)
        with open_session(context, context.prod, read_only=True) as session:
            catalog = inspect(session, ("public",))
        assert catalog.default_grants == {("", "r"): frozenset({Grant("anon", "SELECT")})}
    finally:
        with psycopg.connect(dsn, user="postgres", autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(ODD)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ODD)))


def test_an_identitys_sequence_that_default_privileges_grant_is_not_taken_for_its_column(
    make_world: Callable[..., World],
) -> None:
    given = "ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT ALL ON SEQUENCES TO anon, authenticated;"
    schema = "identity_grants"
    world = make_world(given.format(schema) + "CREATE TABLE t (a bigint GENERATED ALWAYS AS IDENTITY);", "", schema)

    outcome = world.align()

    assert outcome.status == "changed"
    assert world.align().status == "aligned"
