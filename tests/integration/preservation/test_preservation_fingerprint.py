"""Fingerprints on a real server: equal for equal rows in any order, different for any difference."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.database.target import Table
from archon_align.errors import AlignError
from archon_align.preservation.fingerprint import columns_of, fingerprint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ODD = Table("public", 'odd "table" näme')
TEXTS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
ROWS = st.lists(st.tuples(st.none() | TEXTS, st.none() | st.integers(-(2**31), 2**31 - 1)), max_size=8)


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database('CREATE TABLE "odd ""table"" näme" ("a b" text, "N" int)')


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=ROWS, second=ROWS)
def test_equal_exactly_when_the_rows_are(
    prod: str, make_context: Callable[..., Context], first: list, second: list
) -> None:
    context = make_context(prod)
    digests = []
    for rows in (first, second, list(reversed(first))):
        with psycopg.connect(prod, autocommit=True) as owner:
            owner.execute('TRUNCATE "odd ""table"" näme"')
            owner.cursor().executemany('INSERT INTO "odd ""table"" näme" VALUES (%s, %s)', rows)
        with open_session(context, context.prod, read_only=True) as session:
            digests.append(fingerprint(session, ODD, columns_of(session, ODD)))
    multiset = [sorted(map(repr, rows)) for rows in (first, second)]
    assert (digests[0] == digests[1]) == (multiset[0] == multiset[1])
    assert digests[0] == digests[2]


def test_settings_of_the_role_do_not_matter(prod: str, make_context: Callable[..., Context]) -> None:
    context = make_context(prod)
    found = []
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute('ALTER TABLE "odd ""table"" näme" ADD at timestamptz, ADD f float8, ADD b bytea')
        owner.execute('INSERT INTO "odd ""table"" näme" VALUES (\'x\', 1, now(), 0.1 + 0.2, \'\\x00ff\')')
        for zone, style, digits in (("UTC", "ISO, YMD", "1"), ("Asia/Kathmandu", "German", "-5")):
            owner.execute("ALTER ROLE CURRENT_USER SET TimeZone = '" + zone + "'")
            owner.execute("ALTER ROLE CURRENT_USER SET DateStyle = '" + style + "'")
            owner.execute("ALTER ROLE CURRENT_USER SET extra_float_digits = '" + digits + "'")
            with open_session(context, context.prod, read_only=True) as session:
                found.append(fingerprint(session, ODD, columns_of(session, ODD)))
        owner.execute("ALTER ROLE CURRENT_USER RESET ALL")
    assert found[0] == found[1]


def test_a_hidden_row_is_an_error_not_a_zero(prod: str, make_context: Callable[..., Context]) -> None:
    context = make_context(prod)
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute('INSERT INTO "odd ""table"" näme" VALUES (\'x\', 1)')
        owner.execute('ALTER TABLE "odd ""table"" näme" ENABLE ROW LEVEL SECURITY')
        owner.execute('ALTER TABLE "odd ""table"" näme" FORCE ROW LEVEL SECURITY')
    with (
        open_session(context, context.prod, read_only=True) as session,
        pytest.raises(AlignError, match="BYPASSRLS"),
    ):
        fingerprint(session, ODD, columns_of(session, ODD))
