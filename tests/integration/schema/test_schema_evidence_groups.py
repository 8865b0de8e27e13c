"""Questions about rows are asked many at a time; each gets the answer that it gets alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.schema import evidence
from archon_align.schema.evidence import Evidence, Question
from archon_align.schema.model import Key, Kind

MADE = """
CREATE TABLE t (id int PRIMARY KEY, word text);
INSERT INTO t SELECT n, CASE WHEN n % 2 = 0 THEN n::text ELSE 'word' END FROM generate_series(1, 10) n;
"""


def _question(number: int, condition: str) -> Question:
    key = Key(Kind.COLUMN, "public", "t", f"c{number}")
    text = f"SELECT count(*) OVER () AS violators, concat('id=', id) AS key FROM public.t WHERE {condition} LIMIT 3"
    return Question(key, "type", text, "it is so")


HARMLESS = ["id > 5", "false", "word = '100 %'", "word = 'word'", "id = 1"]
FAILING = ["CAST(word AS int) = 1", "no_such_column", "no_such_function(id)", "CAST(word AS no_such_type) IS NULL"]


@pytest.fixture
def session(new_database: Callable[[str], str], make_context: Callable[..., Context]) -> Session:
    context = make_context(new_database(MADE), check=True)
    return open_session(context, context.prod)


def _alone(session: Session, questions: list[Question], monkeypatch: pytest.MonkeyPatch) -> Evidence:
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "TOGETHER", 1)
        return evidence.gather(session, questions)


@pytest.mark.parametrize("failing", [[], *([one] for one in FAILING), FAILING])
def test_a_group_says_what_each_alone_says(
    session: Session, failing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with session:
        # The failing ones stand in the middle: what comes before and after them is answered all the same.
        conditions = [*HARMLESS[:2], *failing, *HARMLESS[2:]]
        asked = [_question(number, condition) for number, condition in enumerate(conditions)]
        together = evidence.gather(session, asked)
        assert together == _alone(session, asked, monkeypatch)
        found = together.against(asked[-2].key, "type")
        assert found is not None
        assert found.text == "5 rows (id=1; id=3; id=5, …)"
        assert together.against(asked[1].key, "type") is None


def test_harmless_questions_are_one_query(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with session:
        monkeypatch.setattr(evidence, "_ask", lambda *_: pytest.fail("asked by itself"))
        evidence.gather(session, [_question(number, condition) for number, condition in enumerate(HARMLESS)])


def test_what_takes_long_is_asked_by_itself_with_the_whole_time(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session:
        monkeypatch.setattr(evidence, "QUICK", 0.1)
        asked = [_question(1, "(SELECT true FROM pg_sleep(0.2))"), _question(2, "id = 2")]
        found = evidence.gather(session, asked)
        assert [answer.violators for answer in found.answers.values()] == [10, 1]
        assert session.value("SHOW statement_timeout") == "5min"
