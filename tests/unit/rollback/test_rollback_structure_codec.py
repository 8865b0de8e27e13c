"""Objects of a catalogue survive being written down; what was tampered with is refused."""

from __future__ import annotations

from typing import Any, get_args

import orjson
import pytest
from archon_align.rollback.structure_codec import _CLASSES, decode_object, encode
from archon_align.rollback.structure_states import Change, State, decode_change, encode_change
from archon_align.schema.model import Column, Enum, Grant, Index, Key, Kind, Object, Table
from hypothesis import given
from hypothesis import strategies as st


def _keyed(kind: Kind) -> st.SearchStrategy[Object]:
    key = st.builds(Key, st.just(kind), st.text(), st.text(), st.text())
    return st.builds(_CLASSES[kind], key=key)


@given(st.sampled_from(list(set(Kind) & _CLASSES.keys())).flatmap(_keyed))
def test_every_kind_of_object_comes_back_as_it_was(value: Object) -> None:
    told = orjson.loads(orjson.dumps(encode(value)))

    assert decode_object(told) == value


def test_every_class_of_the_model_has_a_kind() -> None:
    assert {*_CLASSES.values()} == {*get_args(Object.__value__)}
    assert set(Kind) - _CLASSES.keys() == {Kind.DEFAULT, Kind.DOMAIN_CONSTRAINT}


KEY = Key(Kind.TABLE, "public", 'odd "t')
TOLD = encode_change(Change(KEY, None, State(Table(KEY), "cömment", frozenset({Grant("anon", "SELECT")}), "me")))


@pytest.mark.parametrize(
    "harm",
    [
        lambda told: told["after"]["object"].update(key=["trigger", "public", "t", ""]),
        lambda told: told["after"]["object"].update(row_security="yes"),
        lambda told: told["after"]["object"].update(surprise=1),
        lambda told: told["after"]["object"].update(columns=[1]),
        lambda told: told["after"].update(grants=[["anon"]]),
        lambda told: told["after"].update(comment=5),
        lambda told: told.update(key=["nothing", "a", "b", "c"]),
        lambda told: told.update(key="table"),
    ],
)
def test_what_was_tampered_with_is_refused(harm: Any) -> None:
    told = orjson.loads(orjson.dumps(TOLD))
    assert decode_change(told).after is not None
    harm(told)

    with pytest.raises((ValueError, TypeError, KeyError)):
        decode_change(told)


def test_types_are_told_apart() -> None:
    column = Key(Kind.COLUMN, "s", "t", "c")
    index = Index(Key(Kind.INDEX, "s", "i"), KEY, "d", "btree", statistics=((1, 100),), keys=("a",))

    for value in (Column(column, "int", "int", identity="a"), Enum(Key(Kind.ENUM, "s", "e"), ("a", "b")), index):
        assert decode_object(encode(value)) == value
