"""Texts beyond the model's context: found without guessing, cut or left out, and every other text as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from archon_align.embedding.failures import RequestRejected
from archon_align.embedding.overlong import LimitedVectors, Policy, TextLimit
from fake_service import FakeService, vector
from hypothesis import given, settings
from hypothesis import strategies as st

SHORT = "a b"
LONG = "word " * 20
DENSE = "antidisestablishmentarianism"  # more bytes than the context has tokens, one token


def limit(service: FakeService, policy: Policy = "truncate") -> TextLimit:
    return TextLimit.of(service.client(), policy)


def rows(found: LimitedVectors) -> dict[int, list[float]]:
    return {place: row.tolist() for place, row in zip(found.positions, found.vectors, strict=True)}


def cut(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def test_short_texts_go_where_they_always_went() -> None:
    service = FakeService()
    found = limit(service).embed([SHORT, "c"])
    assert service.paths() == ["v1 2"]
    assert rows(found) == {0: vector(SHORT), 1: vector("c")}
    assert (found.truncated, found.refused) == ({}, {})


def test_long_bytes_that_are_few_tokens_cost_no_further_request() -> None:
    service = FakeService()
    found = limit(service).embed([SHORT, DENSE])
    assert service.paths() == ["native 2"]
    assert np.allclose(found.vectors, [vector(SHORT), vector(DENSE)])
    assert found.vectors.dtype == np.float32


def test_what_is_too_long_is_cut_by_ollama_itself_and_said() -> None:
    service = FakeService()
    found = limit(service).embed([SHORT, LONG, DENSE, LONG + "x"])
    assert np.allclose(found.vectors, [vector(SHORT), vector(cut(LONG, 14)), vector(DENSE), vector(cut(LONG, 14))])
    assert set(found.truncated) == {1, 3}
    assert "16 tokens" in found.truncated[1]
    assert "100 characters" in found.truncated[1]
    # One refused, the harmless one, the suspects halved until they stand alone, and both culprits in one.
    assert service.paths()[:2] == ["native 4", "native 1"]
    assert service.paths()[-1] == "v1 2"


def test_quarantine_leaves_them_out_and_loses_no_other() -> None:
    service = FakeService()
    found = limit(service, "quarantine").embed([SHORT, LONG, DENSE])
    assert rows(found).keys() == {0, 2}
    assert found.truncated == {}
    assert found.refused.keys() == {1}
    assert "100 characters" in found.refused[1]
    assert "16 tokens" in found.refused[1]
    alone = limit(service, "quarantine").embed([LONG])
    assert (list(alone.positions), alone.vectors.shape, list(alone.refused)) == ([], (0, 3), [0])


@pytest.mark.parametrize("native", [True, False])
def test_a_server_that_does_not_cut_gets_less_and_less(native: bool) -> None:
    service = FakeService(cuts=False, native=native)
    found = limit(service).embed([SHORT, LONG])
    kept = int(found.truncated[1].split("first ")[1].split()[0])
    assert found.truncated[1] == f"embedded from its first {kept} of 100 characters"
    assert 10 <= kept <= 70
    assert np.allclose(found.vectors[1], vector(LONG[:kept]))
    assert rows(limit(service).embed([SHORT, LONG])) == rows(found)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "This model's maximum context length is {limit} tokens. However, you requested {given} tokens in the input."),
        (400, "input exceeds maximum context length"),
        (500, "input exceeds maximum context length and cannot be truncated further"),
        (400, '{{"error":{{"code":400,"message":"request ({given} tokens) exceeds the available context size ({limit} tokens), try increasing it"}}}}'),
        (413, "`inputs` must have less than {limit} tokens. Given: {given}"),
        (422, "input is too long"),
    ],
)  # fmt: skip
def test_each_servers_words_for_too_long_are_understood(status: int, words: str) -> None:
    service = FakeService(cuts=False, native=False, status=status, refusal=words)
    found = limit(service).embed([SHORT, LONG])
    assert found.truncated.keys() == {1}
    refused = limit(service, "quarantine").embed([SHORT, LONG])
    assert refused.refused.keys() == {1}


def test_the_numbers_of_a_refusal_tell_how_much_to_keep() -> None:
    service = FakeService(
        cuts=False, native=False, refusal="maximum context length is {limit} tokens, requested {given}"
    )
    found = limit(service).embed([LONG])
    kept = int(found.truncated[0].split("first ")[1].split()[0])
    assert kept > 60
    assert service.paths() == ["v1 1", "v1 1"]


def test_a_million_characters_are_cut_to_what_the_model_reads() -> None:
    text = "word " * 200_000
    for service in (FakeService(cuts=False, native=False), FakeService(cuts=False, native=False, context=400)):
        found = limit(service).embed([text])
        assert found.truncated.keys() == {0} or found.refused.keys() == {0}
        assert len(service.requests) <= 13
    assert found.truncated.keys() == {0}
    told = FakeService(cuts=False, native=False, listed={"max_model_len": 16})
    assert limit(told).embed([text]).truncated.keys() == {0}
    assert len(told.requests) <= 5


def test_a_text_of_which_nothing_is_accepted_is_refused_not_lost() -> None:
    service = FakeService(context=2, cuts=False, native=False)
    found = limit(service).embed(["a"])
    assert found.refused.keys() == {0}
    assert "too long" in found.refused[0]


def test_other_refusals_are_not_taken_for_length() -> None:
    service = FakeService(poison="POISON")
    for texts in ([SHORT, "POISON"], [SHORT, LONG, "POISON " + LONG]):
        with pytest.raises(RequestRejected, match="EOF"):
            limit(service).embed(texts)


def test_a_context_smaller_than_told_is_noticed_all_the_same() -> None:
    """A server may be started with less context than the model has, and say so nowhere."""
    service = FakeService(context=64)
    limited = limit(service)
    service.context = 8
    service.cuts = False
    texts = ["w " * 12, "a"]
    found = limited.embed(texts)
    assert found.truncated.keys() == {0}
    assert rows(found)[1] == vector("a")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"context": 2048, "parameters": "num_ctx                        8192"}, 2048),
        ({"context": 512, "parameters": 'stop "x"\nnum_ctx                        256'}, 256),
        ({"context": 8192, "parameters": ""}, 2048),
        ({"context": 8192, "parameters": "", "loaded": 4096}, 4096),
        ({"context": 8192, "parameters": "num_ctx 8192", "loaded": 1024}, 1024),
        ({"native": False}, None),
        ({"native": False, "listed": {"max_model_len": 512}}, 512),
        ({"native": False, "listed": {"max_model_len": "512"}}, None),
    ],
)
def test_the_context_is_the_smallest_that_is_told(changes: dict[str, object], expected: int | None) -> None:
    assert limit(replace(FakeService(), **changes)).context_length == expected  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 40).map(lambda words: "w " * words + "e"), min_size=1, max_size=12),
    st.sampled_from(["truncate", "quarantine"]),
    st.booleans(),
    st.booleans(),
)
def test_every_text_gets_its_own_vector_or_a_reason(
    texts: Sequence[str], policy: Policy, native: bool, cuts: bool
) -> None:
    service = FakeService(native=native, cuts=cuts or not native, context=16)
    if not native:
        service.cuts = False
    found = limit(service, policy).embed(texts)
    assert sorted([*found.positions, *found.refused]) == list(range(len(texts)))
    too_long = {place for place, text in enumerate(texts) if len(text.split()) + 2 > 16}
    assert set(found.truncated if policy == "truncate" else found.refused) == too_long
    for place, row in rows(found).items():
        if place not in too_long:
            assert np.allclose(row, vector(texts[place]))
