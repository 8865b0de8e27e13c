"""The plan's `archon_credentials` (item 2.3) as part of the desired structure of both databases. Pure.

Supabase serves schema `public` to the anon key, so the table is closed like `archon_settings`: row-level security, the same
policies and grants, and nothing for `anon` or PUBLIC.
"""

from __future__ import annotations

from dataclasses import replace

from .model import PUBLIC, Catalog, Column, Constraint, Grant, Key, Kind, Object, Policy, Sequence, Table, Trigger

TABLE, MODEL, TOUCH = "archon_credentials", "archon_settings", "update_updated_at_column"
_CLOSED_TO = ("anon", PUBLIC)
_SERIAL = "START WITH 1 INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 CACHE 1 NO CYCLE"
_NAME_BYTES = 63


def with_credentials(catalog: Catalog, schema: str) -> Catalog:
    """`catalog` with `archon_credentials` in it, made as the plan says if it is missing, and in any case closed."""
    table = Key(Kind.TABLE, schema, TABLE)
    sequence = Key(Kind.SEQUENCE, schema, f"{TABLE}_id_seq")
    forbidden = catalog.forbidden | {(key, role) for key in (table, sequence) for role in _CLOSED_TO}
    found = catalog.table(table)
    if found is not None:
        closed = {**catalog.objects, table: replace(found, row_security=True)}
        kept = {
            key: frozenset(grant for grant in catalog.grants[key] if grant.role not in _CLOSED_TO)
            for key in (table, sequence)
            if key in catalog.grants
        }
        return replace(catalog, objects=closed, grants={**catalog.grants, **kept}, forbidden=frozenset(forbidden))
    made = _objects(catalog, table, sequence)
    return replace(
        catalog,
        objects={**catalog.objects, **{value.key: value for value in made}},
        depends={**catalog.depends, **_depends(catalog, table, sequence, made)},
        grants={**catalog.grants, **_grants(catalog, table, sequence)},
        owners={**catalog.owners, table: catalog.maker(table), sequence: catalog.maker(sequence)},
        forbidden=frozenset(forbidden),
    )


def _column(table: Key, name: str) -> Key:
    return Key(Kind.COLUMN, table.schema, table.name, name)


def _objects(catalog: Catalog, table: Key, sequence: Key) -> list[Object]:
    schema = table.schema

    def column(name: str, base: str, length: str = "", *, not_null: bool = False, default: str | None = None) -> Column:
        return Column(_column(table, name), base + length, base, not_null=not_null, default=default)

    next_id = f"nextval('{schema}.{sequence.name}'::regclass)"
    columns = (
        column("id", "integer", not_null=True, default=next_id),
        column("category", "character varying", "(100)", not_null=True),
        column("key", "character varying", "(200)", not_null=True),
        column("value", "text"),
        column("created_at", "timestamp with time zone", default="now()"),
        column("updated_at", "timestamp with time zone", default="now()"),
    )
    made: list[Object] = [
        Sequence(sequence, "integer", _SERIAL, _column(table, "id")),
        Table(table, {one.key.part: one for one in columns}, row_security=True),
        Constraint(Key(Kind.CONSTRAINT, schema, TABLE, f"{TABLE}_pkey"), "p", "PRIMARY KEY (id)", ("id",)),
        Constraint(
            Key(Kind.CONSTRAINT, schema, TABLE, f"{TABLE}_category_key_key"),
            "u",
            "UNIQUE (category, key)",
            ("category", "key"),
        ),
    ]
    if _touch(schema) in catalog.objects:
        name = f"update_{TABLE}_updated_at"
        text = (
            f"CREATE TRIGGER {name} BEFORE UPDATE ON {schema}.{TABLE} FOR EACH ROW EXECUTE FUNCTION {schema}.{TOUCH}()"
        )
        made.append(Trigger(Key(Kind.TRIGGER, schema, TABLE, name), text))
    return made + [_policy_like(policy, table) for policy in _policies(catalog, schema)]


def _touch(schema: str) -> Key:
    return Key(Kind.FUNCTION, schema, TOUCH)


def _policies(catalog: Catalog, schema: str) -> list[Policy]:
    """The model's policies, without those that speak of its columns."""
    found = []
    for key in sorted(catalog.on_table.get(Key(Kind.TABLE, schema, MODEL), ())):
        value = catalog.objects[key]
        if isinstance(value, Policy) and not any(one.kind is Kind.COLUMN for one in catalog.depends.get(key, ())):
            found.append(value)
    return found


def _policy_like(policy: Policy, table: Key) -> Policy:
    name = policy.key.part.replace(MODEL, TABLE).encode()[:_NAME_BYTES].decode(errors="ignore")
    return replace(policy, key=Key(Kind.POLICY, table.schema, TABLE, name))


def _depends(catalog: Catalog, table: Key, sequence: Key, made: list[Object]) -> dict[Key, frozenset[Key]]:
    found: dict[Key, frozenset[Key]] = {
        Key(Kind.DEFAULT, table.schema, TABLE, "id"): frozenset({_column(table, "id"), sequence}),
        sequence: frozenset({_column(table, "id")}),
    }
    for value in made:
        if isinstance(value, Constraint):
            found[value.key] = frozenset(_column(table, name) for name in value.columns)
        elif isinstance(value, Trigger):
            found[value.key] = frozenset({table, _touch(table.schema)})
    for policy in _policies(catalog, table.schema):
        needs = {one for one in catalog.depends.get(policy.key, ()) if one.kind is Kind.FUNCTION}
        found[_policy_like(policy, table).key] = frozenset({table, *needs})
    return found


def _grants(catalog: Catalog, table: Key, sequence: Key) -> dict[Key, frozenset[Grant]]:
    model = catalog.grants.get(Key(Kind.TABLE, table.schema, MODEL), frozenset())
    rights = frozenset(grant for grant in model if grant.role not in _CLOSED_TO)
    writers = {grant.role for grant in rights if grant.privilege == "INSERT"}
    numbers = frozenset(Grant(role, privilege) for role in writers for privilege in ("SELECT", "USAGE"))
    return {table: rights, sequence: numbers}
