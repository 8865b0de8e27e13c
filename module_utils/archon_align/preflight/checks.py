"""Judging what was read: pure functions from facts to problems (the run cannot begin) and findings (worth knowing)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import AlignError
from ..findings import Finding
from .facts import DatabaseFacts, OwnedObject

MIN_PGVECTOR = (0, 5)  # the first with hnsw
CONNECTIONS_NEEDED = 10
_SHOWN = 5


def problems(facts: DatabaseFacts, *, min_version: int, needed: frozenset[str]) -> list[AlignError]:
    """Everything about one database that keeps a run from beginning, causes before consequences.

    `needed` names the objects that the run must be able to change; others are findings only.
    """
    return [
        *_server(facts, min_version),
        *_pgvector(facts),
        *_schemas(facts),
        *_privileges(facts, needed),
    ]


def findings(facts: DatabaseFacts, *, needed: frozenset[str]) -> list[Finding]:
    """What does not keep a run from beginning but should be known."""
    found = []
    if not facts.track_counts:
        found.append(
            Finding(
                "track_counts_off",
                "warning",
                facts.target,
                f"track_counts is off on {facts.target}: protected tables are proved by scanning them twice.",
                "Set track_counts = on if the tables are large.",
            )
        )
    if facts.connections_free < CONNECTIONS_NEEDED:
        found.append(
            Finding(
                "few_connections",
                "warning",
                facts.target,
                f"{facts.target} has {max(facts.connections_free, 0)} connections left for role {facts.role};"
                f" a run uses up to {CONNECTIONS_NEEDED}.",
                "Close idle clients, raise max_connections or the role's CONNECTION LIMIT.",
            )
        )
    foreign = [one for one in facts.objects if not one.owned and not _is_needed(one, needed)]
    if foreign and facts.target == "PROD":
        found.append(
            Finding(
                "foreign_objects",
                "warning",
                _names(foreign),
                f"{len(foreign)} object(s) on {facts.target} belong to other roles ({_owners(foreign)})"
                " and could not be altered should they differ.",
                f"Connect as their owner, or grant that role to {facts.role}.",
            )
        )
    return found


def _server(facts: DatabaseFacts, min_version: int) -> Iterable[AlignError]:
    if facts.major < min_version:
        yield AlignError(
            f"The server of {facts.target} is too old.",
            object_name=facts.target,
            expected=f"PostgreSQL {min_version} or newer",
            found=f"PostgreSQL {facts.version}",
            remedy="Upgrade the server.",
            code="server_too_old",
        )
    if facts.in_recovery:
        yield AlignError(
            f"{facts.target} is a standby.",
            object_name=facts.target,
            expected="the primary server",
            found="pg_is_in_recovery() = true",
            remedy=f"Point archon_dsn of {facts.target} at the primary (target_session_attrs=read-write finds it).",
            code="in_recovery",
        )
    elif facts.read_only_source:
        yield AlignError(
            f"{facts.target} is read-only.",
            object_name=f"{facts.target}: {facts.read_only_source}",
            expected="default_transaction_read_only = off",
            found=f"on, set for {facts.read_only_source}",
            remedy="Find out why (a full disk makes hosted databases read-only), then "
            + (
                f"ALTER {facts.read_only_source.upper().split(' ')[0]} {facts.read_only_source.split(' ', 1)[1]}"
                " RESET default_transaction_read_only."
                if facts.read_only_source.startswith(("role ", "database "))
                else "set default_transaction_read_only = off there."
            ),
            code="read_only_server",
        )


def _pgvector(facts: DatabaseFacts) -> Iterable[AlignError]:
    wanted = ".".join(map(str, MIN_PGVECTOR))
    if facts.pgvector is None:
        yield AlignError(
            f"pgvector is missing on {facts.target}.",
            object_name=f"{facts.target}: extension vector",
            expected=f"version {wanted} or newer, installed in database {facts.database}",
            found="not installed",
            remedy="As a superuser run CREATE EXTENSION vector (Supabase: Dashboard, Database, Extensions).",
            code="no_pgvector",
        )
        return
    if facts.pgvector.number < MIN_PGVECTOR:
        yield AlignError(
            f"pgvector is too old on {facts.target}.",
            object_name=f"{facts.target}: extension vector",
            expected=f"version {wanted} or newer",
            found=f"version {facts.pgvector.version}",
            remedy="Install a newer pgvector on the server and run ALTER EXTENSION vector UPDATE.",
            code="pgvector_too_old",
        )
    if not facts.pgvector.usable:
        yield AlignError(
            f"pgvector cannot be used on {facts.target}.",
            object_name=f"{facts.target}: schema {facts.pgvector.schema}",
            expected=f"USAGE for role {facts.role}",
            found="no privilege",
            remedy=f"GRANT USAGE ON SCHEMA {_quoted(facts.pgvector.schema)} TO {_quoted(facts.role)}.",
            code="missing_privilege",
        )


def _schemas(facts: DatabaseFacts) -> Iterable[AlignError]:
    for schema in facts.schemas:
        if not schema.present:
            # In PROD a missing schema is a difference like any other, if the role may create it.
            if facts.target == "PROD" and facts.may_create_schemas:
                continue
            yield AlignError(
                f"A schema is missing on {facts.target}.",
                object_name=f"{facts.target}: schema {schema.name}",
                expected="the schemas named in archon_schema_names"
                if facts.target != "PROD"
                else f"the schema, or the right of role {facts.role} to create it",
                found="no such schema",
                remedy="Correct archon_schema_names or the database name in the DSN.",
                code="no_schema",
            )
        elif not (schema.usable and schema.creatable):
            missing = " and ".join(
                name for name, has in (("USAGE", schema.usable), ("CREATE", schema.creatable)) if not has
            )
            yield AlignError(
                f"The role may not create anything on {facts.target}.",
                object_name=f"{facts.target}: schema {schema.name} (owner {schema.owner})",
                expected=f"USAGE and CREATE for role {facts.role}",
                found=f"no {missing}",
                remedy=f"Connect as {schema.owner}, or GRANT USAGE, CREATE ON SCHEMA {_quoted(schema.name)} TO {_quoted(facts.role)}.",
                code="missing_privilege",
            )


def _privileges(facts: DatabaseFacts, needed: frozenset[str]) -> Iterable[AlignError]:
    role = _quoted(facts.role)
    foreign = [one for one in facts.objects if not one.owned and _is_needed(one, needed)]
    if foreign and facts.target == "PROD":
        yield AlignError(
            "The role does not own what has to be changed on PROD.",
            object_name=f"PROD: {_names(foreign)}",
            expected=f"role {facts.role} is their owner or a member of it",
            found=f"owned by {_owners(foreign)}",
            remedy=f"Connect as the owner, or as a superuser GRANT {_owners(foreign)} TO {role}.",
            code="not_owner",
        )
    unreadable = [one for one in facts.objects if not one.readable]
    if unreadable:
        yield AlignError(
            f"Objects cannot be read on {facts.target}.",
            object_name=f"{facts.target}: {_names(unreadable)}",
            expected=f"SELECT for role {facts.role}",
            found=f"no privilege; owned by {_owners(unreadable)}",
            remedy=f"Connect as the owner, or GRANT SELECT ON {_names(unreadable)} TO {role}.",
            code="missing_privilege",
        )
    hidden = [one for one in facts.objects if one.hidden]
    if hidden:
        owners = sorted({one.owner for one in hidden})
        if all(one.owned for one in hidden):
            found = f"row-level security is forced on the owner, {', '.join(owners)}"
            remedy = (
                "Connect through a role with BYPASSRLS that is a member of the owner, as a superuser makes it: CREATE ROLE"
                f" archon_admin LOGIN BYPASSRLS IN ROLE {', '.join(map(_quoted, owners))}. Or ALTER ROLE {role} BYPASSRLS,"
                " or ALTER TABLE … NO FORCE ROW LEVEL SECURITY."
            )
        else:
            found = f"row-level security applies to this role; owned by {', '.join(owners)}"
            remedy = f"Connect as the owner, or as a superuser ALTER ROLE {role} BYPASSRLS."
        yield AlignError(
            f"Row-level security would hide rows on {facts.target}.",
            object_name=f"{facts.target}: {_names(hidden)}",
            expected=f"a role that sees every row: their owner (without FORCE) or one with BYPASSRLS; this is {facts.role}",
            found=found,
            remedy=remedy,
            code="rows_hidden",
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_needed(one: OwnedObject, needed: frozenset[str]) -> bool:
    return one.name in needed or one.name.startswith(("archon_", "match_archon_"))


def _names(objects: Sequence[OwnedObject]) -> str:
    more = f" and {len(objects) - _SHOWN} more" if len(objects) > _SHOWN else ""
    return ", ".join(str(one) for one in objects[:_SHOWN]) + more


def _owners(objects: Sequence[OwnedObject]) -> str:
    return ", ".join(sorted({one.owner for one in objects}))
