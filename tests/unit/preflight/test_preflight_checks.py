"""Preflight's judgements on facts, the pooler's betrayals, and several problems told as one."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from archon_align.errors import AlignError
from archon_align.preflight import checks
from archon_align.preflight.facts import DatabaseFacts, Extension, OwnedObject, Schema
from archon_align.preflight.pooler import shared_backend
from archon_align.preflight.problems import PreflightFailed

NEEDED = frozenset({"archon_projects", "odd table"})
GOOD = DatabaseFacts(
    target="PROD",
    version="17.2",
    major=17,
    database="archon",
    role='my "role"',
    in_recovery=False,
    read_only_source="",
    track_counts=True,
    size_bytes=1,
    may_create_schemas=False,
    connections_free=50,
    pgvector=Extension("0.8.0", "extensions", True),
    schemas=(Schema("public", True, "boss", True, True),),
    objects=(OwnedObject("public", "archon_projects", "boss", True, True, False),),
)


def codes(facts: DatabaseFacts) -> list[str]:
    return [problem.code for problem in checks.problems(facts, min_version=14, needed=NEEDED)]


def test_nothing_stands_against_a_good_database() -> None:
    assert codes(GOOD) == []
    assert codes(replace(GOOD, target="DEV")) == []
    assert checks.findings(GOOD, needed=NEEDED) == []


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"major": 13, "version": "13.9"}, "server_too_old", "PostgreSQL 13.9"),
        ({"in_recovery": True}, "in_recovery", "standby"),
        # On a standby the read-only default is no second problem.
        ({"in_recovery": True, "read_only_source": "the server"}, "in_recovery", "standby"),
        ({"read_only_source": 'role "x y"'}, "read_only_server", 'ALTER ROLE "x y" RESET default_transaction_read_only'),
        ({"read_only_source": "database d"}, "read_only_server", "ALTER DATABASE d RESET"),
        ({"read_only_source": "the server's configuration"}, "read_only_server", "set default_transaction_read_only = off"),
        ({"pgvector": None}, "no_pgvector", "CREATE EXTENSION vector"),
        ({"pgvector": Extension("0.4.4", "public", True)}, "pgvector_too_old", "0.4.4"),
        ({"pgvector": Extension("0.8", "se c", False)}, "missing_privilege", 'ON SCHEMA "se c" TO "my ""role"""'),
        ({"schemas": (Schema("public", False, None, False, False),)}, "no_schema", "schema public"),
        ({"schemas": (Schema("public", True, "boss", True, False),)}, "missing_privilege", "no CREATE"),
        ({"schemas": (Schema("public", True, "boss", False, False),)}, "missing_privilege", "no USAGE and CREATE"),
    ],
)  # fmt: skip
def test_each_defect_is_one_problem_that_says_what_to_do(changes: dict[str, Any], code: str, told: str) -> None:
    (problem,) = checks.problems(replace(GOOD, **changes), min_version=14, needed=NEEDED)
    assert problem.code == code
    assert told in str(problem)
    assert "PROD" in problem.what


@pytest.mark.parametrize("version", ["0.5", "0.5.0", "0.10.1", "1.0"])
def test_new_enough_is_compared_by_numbers(version: str) -> None:
    assert codes(replace(GOOD, pgvector=Extension(version, "public", True))) == []


def test_a_schema_that_prod_lacks_is_no_problem_for_a_role_that_may_create_it() -> None:
    missing = replace(GOOD, schemas=(Schema("extra", False, None, False, False),), may_create_schemas=True)
    assert codes(missing) == []
    assert codes(replace(missing, target="DEV")) == ["no_schema"]


def an_object(name: str, *, owned: bool = False, readable: bool = True, hidden: bool = False) -> OwnedObject:
    return OwnedObject("public", name, "boss", owned, readable, hidden)


def test_what_must_be_changed_must_be_owned_in_prod_only() -> None:
    foreign = tuple(an_object(f"archon_{number}") for number in range(7))
    (problem,) = checks.problems(replace(GOOD, objects=foreign), min_version=14, needed=NEEDED)
    assert problem.code == "not_owner"
    assert problem.object_name.endswith("public.archon_4 and 2 more")
    assert 'GRANT boss TO "my ""role"""' in problem.remedy
    assert codes(replace(GOOD, target="DEV", objects=foreign)) == []
    assert codes(replace(GOOD, objects=(an_object("odd table"),))) == ["not_owner"]


def test_objects_of_others_that_are_none_of_archon_s_are_a_finding() -> None:
    other = replace(GOOD, objects=(an_object("billing"),))
    assert codes(other) == []
    (finding,) = checks.findings(other, needed=NEEDED)
    assert (finding.code, finding.object) == ("foreign_objects", "public.billing")


@pytest.mark.parametrize("target", ["PROD", "DEV"])
def test_what_cannot_be_read_or_is_hidden_is_a_problem_on_both(target: str) -> None:
    objects = (an_object("a", owned=True, readable=False), an_object("b", owned=True, hidden=True))
    assert codes(replace(GOOD, target=target, objects=objects)) == ["missing_privilege", "rows_hidden"]


def test_soft_things_are_findings() -> None:
    soft = replace(GOOD, track_counts=False, connections_free=-1)
    assert codes(soft) == []
    assert [(one.code, one.severity) for one in checks.findings(soft, needed=NEEDED)] == [
        ("track_counts_off", "warning"),
        ("few_connections", "warning"),
    ]
    assert "has 0 connections left" in checks.findings(soft, needed=NEEDED)[1].message


def problem(code: str) -> AlignError:
    return AlignError(f"What {code}.", object_name="o", expected="e", found="f", remedy="r", code=code)


def test_all_problems_are_told_and_the_first_leads() -> None:
    failure = PreflightFailed([problem("one"), problem("two")])
    assert failure.code == "one"
    assert failure.as_dict()["what"] == "What one."
    assert str(failure).startswith("Preflight found 2 problems; nothing was changed.\n1. What one.\n  object:   o\n")
    assert "\n2. What two.\n" in str(failure)
    assert str(PreflightFailed([problem("one")])) == str(problem("one"))


class Backends:
    """A server or pooler: which backend serves a statement, by the pooler's manners."""

    def __init__(self, *, serve: Callable[[FakeSession], int]) -> None:
        self.serve = serve
        self.numbers = itertools.count(1)

    def connect(self) -> FakeSession:
        return FakeSession(self, next(self.numbers))


class FakeSession:
    """As much of a Session as the recognition of poolers uses."""

    def __init__(self, backends: Backends, number: int) -> None:
        self.backends = backends
        self.number = number
        self.in_transaction = False
        self.near, self.far = socket.socketpair()
        self.connection = self

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.near.close()
        self.far.close()

    def fileno(self) -> int:
        return self.near.fileno()

    def value(self, _: str) -> int:
        return self.backends.serve(self)

    @contextlib.contextmanager
    def transaction(self, _: str) -> Iterator[None]:
        self.in_transaction = True
        yield
        self.in_transaction = False


def recognised(serve: Callable[[FakeSession], int], seconds: float = 5.0) -> str | None:
    return shared_backend(Backends(serve=serve).connect, seconds)  # type: ignore[arg-type]


def test_a_session_of_one_s_own_is_no_pooler() -> None:
    assert recognised(lambda session: 100 + session.number) is None


def test_a_pooler_that_gives_the_last_used_backend_is_recognised() -> None:
    assert recognised(lambda _: 7) == "two connections share backend 7"


def test_a_pooler_that_moves_on_is_recognised() -> None:
    turn = itertools.count(1)
    assert recognised(lambda _: next(turn)) == "the backend changed from 1 to 3 between two statements"


def test_a_pooler_that_lets_us_wait_is_recognised_in_time() -> None:
    def serve(session: FakeSession) -> int:
        if session.number == 2:
            session.near.recv(1)  # as libpq waits, until the socket is shut
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return 1

    others = set(threading.enumerate())
    began = time.monotonic()
    assert recognised(serve, 0.1) == "no backend for a second connection within 0 s"
    assert time.monotonic() - began < 30  # not as long as a pooler likes
    for thread in set(threading.enumerate()) - others:
        thread.join(30)
        assert not thread.is_alive()


def test_a_pooler_in_statement_mode_is_recognised() -> None:
    def serve(session: FakeSession) -> int:
        if session.in_transaction:
            raise psycopg.errors.ProtocolViolation("transaction blocks not allowed in statement pooling mode")
        return 1

    assert recognised(serve) == "transaction blocks not allowed in statement pooling mode"


def test_a_server_that_fails_is_not_taken_for_a_pooler() -> None:
    def serve(session: FakeSession) -> int:
        raise psycopg.OperationalError("terminating connection due to administrator command")

    with pytest.raises(psycopg.OperationalError):
        recognised(serve)
