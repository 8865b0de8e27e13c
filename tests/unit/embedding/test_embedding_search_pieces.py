"""The pure parts of index and search: sizes as PostgreSQL writes them, sentences that may be asked for."""

from __future__ import annotations

import pytest
from archon_align.embedding import memory
from archon_align.embedding.known_items import is_prose, sentences
from archon_align.embedding.recall import Sample, sufficient
from archon_align.errors import AlignError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256MB", 256 * 1024**2),
        (" 1.5 GB ", 3 * 1024**3 // 2),
        ("65536", 64 * 1024**2),
        ("65536kB", 64 * 1024**2),
        ("1048576B", 1024**2),
        ("1TB", 1024**4),
    ],
)
def test_sizes_are_read_as_postgresql_reads_them(text: str, expected: int) -> None:
    assert memory.size(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "much", "256mb", "256 M", "-1GB", "1e3MB", "0", "64kB", "3TB", "256MB; DROP TABLE x", "٣MB", "1GB\n1"],
)
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(AlignError) as caught:
        memory.size(text)
    assert (caught.value.code, caught.value.object_name) == ("bad_variable", "archon_index_maintenance_work_mem")


def test_sizes_are_shown_so_that_they_can_be_set() -> None:
    for count in (1024**2, 30 * 1024**2 + 1, 45 * 1024**3 + 5):
        assert count <= memory.size(memory.shown(count)) <= count * 1.05 + 1024**2


def test_the_sentence_nearest_to_the_middle_comes_first() -> None:
    text = (
        "Title\n\nThe first sentence is long enough to be asked for. The second one is the one in the very middle! Short."
        " The last one is again quite long enough."
    )
    assert next(sentences(text)) == "The second one is the one in the very middle!"
    assert len(list(sentences(text))) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Home",
        "a b",
        "for (int i = 0; i < n; i++) { total += values[i]; }",
        "| name | type | default | meaning of the column |",
        "https://example.org/a/very/long/path/that/nobody/reads?query=string",
        "2024-01-01 12:00:00 3.14159 2.71828 1.41421 1.73205",
        "x" * 5000,
        "import os, sys; print(os.environ['HOME'], sys.argv[1:])",
    ],
)
def test_no_sentence_in_what_nobody_would_ask(text: str) -> None:
    assert list(sentences(text)) == []


def test_code_in_a_fence_is_no_prose() -> None:
    text = "```\nthis is a comment inside of a program that says a lot\n```\nOutside of it there is a sentence that can be asked for."
    assert list(sentences(text)) == ["Outside of it there is a sentence that can be asked for."]


@pytest.mark.parametrize(
    "sentence",
    [
        "Die Datenbank schreibt jede Änderung zuerst in das Protokoll.",
        "База данных сначала записывает каждое изменение в журнал.",
        "データベースは各変更を最初にログに書き込みます。",
        "تكتب قاعدة البيانات كل تغيير في السجل أولاً قبل كل شيء.",
        "डेटाबेस हर बदलाव को पहले लॉग में लिखता है और फिर आगे बढ़ता है।",
    ],
)
def test_prose_of_other_languages_is_prose(sentence: str) -> None:
    assert is_prose(sentence)


def test_sentences_of_other_scripts_end_without_a_space() -> None:
    text = "データベースは各変更を最初にログに書き込みます。次にページをディスクに書き込みます。"
    assert len(list(sentences(text))) == 2


def test_a_neighbour_as_near_as_the_last_one_is_a_hit() -> None:
    sample = Sample((1,), ((0.1, 0.2, 0.2),))
    assert sample.recall([(0.1, 0.2, 0.2)]) == 1.0
    assert sample.recall([(0.1, 0.2000001, 0.3)]) == pytest.approx(0.6667)
    assert sample.recall([(0.1, 0.1, 0.1, 0.1)]) == 1.0
    assert sample.recall([()]) == 0.0


def test_the_first_value_that_is_enough_is_named() -> None:
    assert sufficient(lambda value: value / 400, 0.7) == 320
    assert sufficient(lambda _: 0.5, 0.7) is None
