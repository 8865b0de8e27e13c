"""Builds the lab's two databases and brings them back to their start state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

OWNER = "archon"
ADMIN = "archon_admin"  # a member of the owner that no row-level security applies to; for the variant force-rls
DATABASE = "archon"
STANDARD = "standard"
# What PROD is like besides, by variant: a file that is applied to it last.
VARIANTS: Mapping[str, str | None] = {
    STANDARD: None,
    "two-shapes": "prod_two_shapes.sql",
    "force-rls": "prod_force_rls.sql",
}
_BUILDING = "archon_building"
_FIXTURES = Path(__file__).parent / "fixtures"
_GRANTED = ("anon", "authenticated", "service_role")


def _run_file(connection: psycopg.Connection, name: str) -> None:
    connection.execute((_FIXTURES / name).read_bytes())


def ensure_roles(superuser_dsn: str, password: str) -> None:
    """Owner and admin with this password, and the roles that Supabase has; none of them is a superuser."""
    with psycopg.connect(superuser_dsn, autocommit=True) as admin:
        known = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles")}
        if OWNER not in known:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(OWNER)))
        if ADMIN not in known:
            member = sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS IN ROLE {}")
            admin.execute(member.format(sql.Identifier(ADMIN), sql.Identifier(OWNER)))
        for role in _GRANTED:
            if role not in known:
                bypass = sql.SQL("BYPASSRLS" if role == "service_role" else "NOBYPASSRLS")
                admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN {}").format(sql.Identifier(role), bypass))
                admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(OWNER)))
        for role in (OWNER, ADMIN):
            # Hashed here, so that no statement carries the password itself.
            secret = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(secret)))


def variant(superuser_dsn: str) -> str | None:
    """The variant that the database was built as, None when it is not there. It is renamed into place as the last step,
    so a half-built one never counts."""
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    with psycopg.connect(superuser_dsn, autocommit=True) as admin:
        found = admin.execute(query, (DATABASE,)).fetchone()
    return None if found is None else found[0] if found[0] in VARIANTS else STANDARD


def rebuild(
    superuser_dsn: str,
    world: str,
    embedding_base_url: str,
    variant: str,
    name: str = DATABASE,
    *,
    hosted: bool = False,
) -> None:
    """Put `dev` or `prod` into its start state. Until the new database is complete, the old one of this name stays as it is.

    `hosted` has its extensions where a Supabase project has them.
    """
    special = VARIANTS[variant] if world == "prod" else None
    with psycopg.connect(superuser_dsn, autocommit=True) as admin:
        building, final = sql.Identifier(_BUILDING), sql.Identifier(name)
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        admin.execute(drop.format(building))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(building, sql.Identifier(OWNER)))
        with psycopg.connect(superuser_dsn, dbname=_BUILDING) as superuser:
            _run_file(superuser, "database.sql")
            if hosted:
                _run_file(superuser, "hosted.sql")
        with psycopg.connect(superuser_dsn, dbname=_BUILDING, user=OWNER) as owner:
            _fill(owner, world, embedding_base_url)
            if special is not None:
                _run_file(owner, special)
        with psycopg.connect(superuser_dsn, dbname=_BUILDING, user=OWNER, autocommit=True) as owner:
            owner.execute("ANALYZE")
        admin.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(building, sql.Literal(variant)))
        admin.execute(drop.format(final))
        admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(building, final))


def _fill(owner: psycopg.Connection, world: str, embedding_base_url: str) -> None:
    owner.execute("SELECT set_config('lab.embedding_base_url', %s, true)", (embedding_base_url,))
    _run_file(owner, "common.sql")
    _run_file(owner, f"{world}.sql")
    # With numpy behind it, which a lab that already stands never needs.
    from . import start_rows

    for batch in start_rows.of(world):
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(batch.table), sql.SQL(", ").join(map(sql.Identifier, batch.columns))
        )
        with owner.cursor() as cursor, cursor.copy(copy) as stream:
            for row in batch.rows:
                stream.write_row(row)
    _run_file(owner, f"{world}_data.sql")
    if world == "dev":
        # After the rows, because such an index wants data first.
        for table in ("archon_crawled_pages", "archon_code_examples"):
            owner.execute(
                sql.SQL("CREATE INDEX {} ON {} USING ivfflat (embedding vector_cosine_ops) WITH (lists = 1)").format(
                    sql.Identifier(f"{table}_embedding_idx"), sql.Identifier(table)
                )
            )


def condition(dsn: str) -> str:
    """One line on the state of search: pages, those with a vector, dimensions and the configured provider."""
    with psycopg.connect(dsn, connect_timeout=30) as connection:
        row = connection.execute("""
            SELECT count(*), count(embedding), (SELECT count(*) FROM archon_sources),
                (SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                 WHERE attrelid = 'archon_crawled_pages'::regclass AND attname = 'embedding'),
                (SELECT string_agg(value, '/' ORDER BY key DESC) FROM archon_settings
                 WHERE key IN ('EMBEDDING_PROVIDER', 'EMBEDDING_MODEL'))
            FROM archon_crawled_pages""").fetchone()
    if row is None:
        raise psycopg.DataError("no answer")
    pages, embedded, sources, shape, provider = row
    word = "working" if pages == embedded else "broken: search finds nothing" if not embedded else "incomplete"
    return f"{word}; {embedded} of {pages} pages embedded as {shape}, {sources} sources, settings at {provider}"
