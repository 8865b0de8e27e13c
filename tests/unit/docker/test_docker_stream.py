"""The output of an exec: frames of two streams, a terminal's bytes, and what was cut off."""

from __future__ import annotations

import pytest
from archon_align.docker.stream import demultiplex
from hypothesis import given
from hypothesis import strategies as st


def frame(stream: int, content: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.text())))
def test_frames_are_taken_apart_wherever_they_begin(pieces: list[tuple[int, str]]) -> None:
    content = b"".join(frame(stream, text.encode()) for stream, text in pieces)
    expected = tuple("".join(text for stream, text in pieces if stream == wanted) for wanted in (1, 2))
    assert demultiplex(content) == expected


def test_a_character_may_be_split_over_frames() -> None:
    euro = "€".encode()
    assert demultiplex(frame(1, euro[:1]) + frame(2, b"x") + frame(1, euro[1:])) == ("€", "x")


@pytest.mark.parametrize("content", [b"hello\r\n", b"a", b"\x1b[1mbold", b"\x01bc", b"12345678901"])
def test_what_has_no_frames_is_a_terminals(content: bytes) -> None:
    assert demultiplex(content) == (content.decode(), "")


def test_the_engines_own_words_are_an_error() -> None:
    assert demultiplex(frame(1, b"out") + frame(3, b"the daemon says")) == ("out", "the daemon says")


def test_what_was_cut_off_is_left_out() -> None:
    whole = frame(1, b"first") + frame(1, b"second")
    assert demultiplex(whole[:-3]) == ("firstsec", "")
    assert demultiplex(whole[: len(frame(1, b"first")) + 3]) == ("first", "")
    assert demultiplex(b"") == ("", "")
