"""Hazards by name and estimated seconds: what words and sizes tell, without a server."""

from __future__ import annotations

import pytest
from archon_align.plan import Statement
from archon_align.schema import costs, stages, widening
from archon_align.schema.model import Catalog, Column, Constraint, Index, Key, Kind, Size, Table

T = Key(Kind.TABLE, "public", "t")
PART = Key(Kind.TABLE, "public", "part")
CATALOG = Catalog(
    180000,
    "db",
    "me",
    ("public",),
    {
        T: Table(T),
        PART: Table(PART),
        Key(Kind.INDEX, "public", "i"): Index(Key(Kind.INDEX, "public", "i"), T, "", "btree"),
    },
    depends={PART: frozenset({T})},
    sizes={T: Size(1_000_000, 300_000_000), PART: Size(1_000_000, 300_000_000)},
)


def priced(text: str, *hazards: str, relation: Key | None = T, transactional: bool = True) -> Statement:
    found, seconds = costs.price(text, hazards, relation, CATALOG, transactional=transactional)
    return Statement(text, "o", "s", found, seconds=seconds)


@pytest.mark.parametrize(
    ("text", "given", "shown"),
    [
        ("ALTER TABLE t ADD COLUMN a int", (), ("takes_exclusive_lock",)),
        ("ALTER TABLE t ALTER a TYPE bigint", ("rewrites_table",), ("rewrites_table", "takes_exclusive_lock")),
        ("CREATE POLICY p ON t", (), ("takes_exclusive_lock",)),
        ("COMMENT ON TABLE t IS 'x'", (), ()),
        ("GRANT SELECT ON t TO anon", (), ()),
        ("SELECT setval('s', 3)", (), ()),
    ],
)
def test_words_show_hazards(text: str, given: tuple[str, ...], shown: tuple[str, ...]) -> None:
    assert priced(text, *given).hazards == shown


def test_labels_cannot_be_taken_back_and_what_runs_outside_says_so() -> None:
    assert priced("ALTER TYPE m ADD VALUE 'x'", relation=None).hazards == ("irrevocable",)
    build = priced("CREATE INDEX CONCURRENTLY i ON t (a)", "builds_index", transactional=False)
    assert build.hazards == ("builds_index", "outside_transaction")


def test_a_table_that_is_not_there_yet_is_in_nobodys_use() -> None:
    new = priced("ALTER TABLE n ADD CHECK (a > 0)", "validates_rows", relation=Key(Kind.TABLE, "public", "n"))
    assert (new.hazards, new.seconds) == (("validates_rows",), None)


def test_seconds_grow_with_the_table_and_its_partitions() -> None:
    both = 2_000_000
    assert priced("ALTER TABLE t ADD CHECK (a > 0)", "validates_rows").seconds == both / costs.VALIDATE_ROWS
    foreign = priced("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES p", "validates_rows").seconds
    assert foreign == round(both / costs.FOREIGN_KEY_ROWS, 3)
    assert priced("CREATE INDEX ON t USING gin (a)", "builds_index").seconds == both / costs.GIN_ROWS
    rewriting = priced("ALTER TABLE t ALTER a TYPE bigint", "rewrites_table").seconds
    assert rewriting == 600_000_000 / costs.REWRITE_BYTES + both / costs.INDEX_ROWS  # the index is built anew
    assert priced("ALTER TABLE t ADD COLUMN a int").seconds is None


@pytest.mark.parametrize(
    ("default", "rewrites"),
    [
        (None, False),
        ("0", False),
        ("now()", False),
        ("CURRENT_TIMESTAMP", False),
        ("'a (b)'::text", False),
        ("'1'::numeric(10,2)", False),
        ("''::character varying(10)", False),
        ("timezone('utc'::text, now())", False),
        ("ARRAY[]::text[]", False),
        ("gen_random_uuid()", True),
        ("nextval('s'::regclass)", True),
        ('public."own f"()', True),
        ("(random() * (3)::double precision)", True),
    ],
)
def test_a_default_that_differs_by_row_rewrites_the_table(default: str | None, rewrites: bool) -> None:
    column = Column(Key(Kind.COLUMN, "public", "t", "c"), "text", "text", default=default)
    assert costs.of_new_column(column) == (("rewrites_table",) if rewrites else ())


def test_computed_columns_rewrite_the_table_if_they_are_stored() -> None:
    key = Key(Kind.COLUMN, "public", "t", "c")
    assert costs.of_new_column(Column(key, "int", "int", generated="s", default="f(a)")) == ("rewrites_table",)
    assert costs.of_new_column(Column(key, "int", "int", generated="v", default="f(a)")) == ()
    assert costs.of_new_column(Column(key, "int", "int", identity="a")) == ("rewrites_table",)


@pytest.mark.parametrize(
    ("old", "new", "loses"),
    [
        ("numeric(6,3)", "numeric(5,1)", True),
        ("numeric", "integer", True),
        ("double precision", "real", True),
        ("bigint", "double precision", True),
        ("integer", "double precision", False),
        ("timestamp without time zone", "timestamp(3) without time zone", True),
        ("timestamp with time zone", "date", True),
        ("numeric(5,1)", "numeric(4,1)", False),
        ("bigint", "integer", False),
        ("text", "integer", False),
    ],
)
def test_fewer_digits_are_a_hazard_of_their_own(old: str, new: str, loses: bool) -> None:
    assert widening.loses_precision(old, new) is loses


def test_a_transaction_is_as_long_as_its_statements_and_the_proof() -> None:
    slow = priced("ALTER TABLE t ADD CHECK (a > 0)", "validates_rows")
    quick = costs.transaction_seconds([], CATALOG, [])
    assert quick < 0.1
    assert costs.transaction_seconds([slow], CATALOG, []) == pytest.approx(quick + 1, abs=0.1)
    proved = costs.transaction_seconds([slow], CATALOG, [T])
    assert proved == pytest.approx(quick + 1 + 1_000_000 / costs.FINGERPRINT_ROWS, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "under a second"),
        (0.4, "under a second"),
        (12.3, "about 12 s"),
        (600, "about 10 min"),
        (9000, "about 2.5 h"),
    ],
)
def test_seconds_in_words(seconds: float | None, words: str) -> None:
    assert costs.shown(seconds) == words


@pytest.mark.parametrize(
    ("name", "is_leftover"),
    [
        ("i", True),
        ("i_ccnew", True),
        ("i_ccold", True),
        ("i_ccnew1", True),
        ("i_cc", False),
        ("i2", False),
        ("x_i", False),
    ],
)
def test_what_a_build_that_failed_leaves(name: str, is_leftover: bool) -> None:
    assert stages.is_leftover_of(name, "i") is is_leftover


def test_a_key_is_made_of_an_index_only_if_it_is_the_same() -> None:
    key = Constraint(Key(Kind.CONSTRAINT, "public", "t", "k"), "u", 'UNIQUE (a, "B")', ("a", "B"))
    index = Index(Key(Kind.INDEX, "public", "k"), T, "", "btree", unique=True, keys=("a", '"B"'))
    assert stages.fits(index, key)
    others = (
        {"unique": False},
        {"valid": False},
        {"predicate": "a > 1"},
        {"keys": ("a",)},
        {"nulls_equal": True},
        {"method": "hash"},
    )
    for change in others:
        fields = {name: getattr(index, name) for name in Index.__dataclass_fields__} | change
        assert not stages.fits(Index(**fields), key)
