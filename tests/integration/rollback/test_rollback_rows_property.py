"""Whatever order runs and users write in: undone, users' rows are as they left them, and the others as before."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from archon_align.context import Context
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from undoing_rows import execute, next_run, table, undone, written


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database("CREATE TABLE archon_projects (id int PRIMARY KEY)")


@pytest.fixture
def context(prod: str, make_context: Callable[..., Context]) -> Context:
    return make_context(prod, prod, phase="data")


_KEY = st.integers(0, 5)
_ROUND = st.lists(
    st.tuples(
        st.sampled_from(["run", "user"]), st.sampled_from(["set", "add", "drop", "same"]), _KEY, st.integers(0, 3)
    ),
    max_size=7,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=_ROUND)
def test_any_interleaving_leaves_users_rows_as_users_left_them_and_the_others_as_before(
    new_table: Callable[[], tuple[str, str]], context: Context, rounds: list[tuple[str, str, int, int]]
) -> None:
    prod, name = new_table()
    model = {key: f"{key}" for key in range(3)}
    rows, touched = dict(model), set()
    done = []
    for who, what, key, value in rounds:
        if who == "run":
            # As the phases do: what is there is set, what is not is added, and nothing is written that is so already.
            wanted = f"run {value}"
            if rows.get(key) == wanted:
                continue
            statement = (
                f"UPDATE public.{name} SET value = '{wanted}' WHERE key = {key}"
                if key in rows
                else f"INSERT INTO public.{name} (key, value) VALUES ({key}, '{wanted}')"
            )
            done += written(next_run(context), [table(name, "key")], statement)
            rows[key] = wanted
            continue
        if what == "add" and key not in rows:
            execute(prod, f"INSERT INTO {name} (key, value) VALUES ({key}, 'user {value}')")
            rows[key] = f"user {value}"
        elif what == "drop" and key in rows:
            execute(prod, f"DELETE FROM {name} WHERE key = {key}")
            del rows[key]
        elif what in ("set", "same") and key in rows:
            rows[key] = f"user {value}" if what == "set" else rows[key]
            execute(prod, f"UPDATE {name} SET value = '{rows[key]}' WHERE key = {key}")
        else:
            continue
        model[key] = rows.get(key, "")
        touched.add(key)
    plan = undone(context, done)
    with psycopg.connect(prod) as connection:
        left = dict(connection.execute(f"SELECT key, value FROM {name}").fetchall())
    assert left == {key: value for key, value in model.items() if value}
    assert {int(kept.name.rsplit("=", 1)[1]) for kept in plan.kept} <= touched


@pytest.fixture
def new_table(prod: str) -> Callable[[], tuple[str, str]]:
    """Call for the database and the name of a table of three rows that nobody has touched."""
    made: list[str] = []

    def make() -> tuple[str, str]:
        made.append(f"t{len(made)}")
        execute(
            prod,
            f"CREATE TABLE {made[-1]} (id serial PRIMARY KEY, key int UNIQUE, value text)",
            f"INSERT INTO {made[-1]} (key, value) VALUES (0, '0'), (1, '1'), (2, '2')",
        )
        return prod, made[-1]

    return make
