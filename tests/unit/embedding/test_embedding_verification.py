"""Services that mix up texts and vectors, or are not one model, are found out before and after anything is written."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from archon_align.embedding import verification
from archon_align.embedding.failures import ServiceUnusable
from archon_align.embedding.same_model import require_same_model
from archon_align.embedding.vectors import Vectors
from archon_align.embedding.verification import require_order
from hypothesis import given
from hypothesis import strategies as st

SHUFFLES: dict[str, Callable[[list], list]] = {
    "reversed": lambda batch: batch[::-1],
    "rotated": lambda batch: batch[1:] + batch[:1],
    "rotated the other way": lambda batch: batch[-1:] + batch[:-1],
    "the first two swapped": lambda batch: batch[1::-1] + batch[2:] if len(batch) > 1 else batch,
    "the last two swapped": lambda batch: batch[:-2] + batch[:-3:-1],
    "even places first": lambda batch: batch[::2] + batch[1::2],
}
shuffled = pytest.mark.parametrize("shuffle", SHUFFLES.values(), ids=SHUFFLES)


def vector(text: str, dimensions: int = 16) -> Vectors:
    found = np.random.default_rng(zlib.crc32(text.encode("utf-8", "replace"))).standard_normal(dimensions)
    return (found / np.linalg.norm(found)).astype(np.float32)


def embed(texts: Sequence[str]) -> Vectors:
    return np.stack([vector(text) for text in texts])


@shuffled
def test_a_service_that_reorders_every_batch_is_refused(shuffle: Callable[[list], list]) -> None:
    with pytest.raises(ServiceUnusable) as caught:
        require_order(lambda texts: embed(shuffle(list(texts))), "http://service")
    assert (caught.value.code, caught.value.object_name) == ("embedding_order", "http://service")


def test_a_service_with_one_vector_for_all_or_with_nan_is_refused() -> None:
    with pytest.raises(ServiceUnusable) as caught:
        require_order(lambda texts: embed(["the same"] * len(texts)), "url")
    assert caught.value.code == "embedding_constant"
    with pytest.raises(ServiceUnusable):
        require_order(lambda texts: embed(texts) * np.float32("nan"), "url")


def test_two_services_are_one_model_or_the_other_is_refused() -> None:
    reference = require_order(embed, "one")
    require_same_model(reference, require_order(lambda texts: embed(texts) * 2, "other"), "other")
    for other in (
        lambda texts: embed([f"search_document: {text}" for text in texts]),
        lambda texts: embed(texts)[:, :8],
    ):
        with pytest.raises(ServiceUnusable) as caught:
            require_same_model(reference, require_order(other, "other"), "http://other")
        assert (caught.value.code, caught.value.object_name) == ("embedding_other_model", "http://other")


@given(st.lists(st.text(), min_size=1, max_size=9))
def test_texts_get_their_own_vectors_in_other_company(texts: list[str]) -> None:
    found = verification._in_other_company(embed, texts)
    assert [list(one) for one in found] == [list(vector(text)) for text in texts]


@shuffled
@pytest.mark.parametrize("number", range(1, 6))
def test_the_sample_shows_a_service_that_shuffles(shuffle: Callable[[list], list], number: int) -> None:
    """It shuffled the batch in which the rows were written in the same way; even when that was of the sample alone."""
    texts = [f"text {n}" for n in range(number)]
    written = embed(shuffle(texts))
    if shuffle(texts) == texts:
        return  # nothing wrong was written
    for _ in range(20):
        again = verification._in_other_company(lambda sent: embed(shuffle(list(sent))), texts)
        assert not np.allclose(again, written)


def test_hardly_any_way_to_shuffle_is_missed() -> None:
    """Three of a batch's five rows are the sample: only a service that exchanges the same two again may agree with itself."""
    texts = [f"text {n}" for n in range(3)]
    missed = tries = 0
    for places in itertools.permutations(range(5)):
        if places[:3] == (0, 1, 2):
            continue  # the rows were written rightly

        def mixed(sent: Sequence[str], places: tuple[int, ...] = places) -> Vectors:
            return embed([sent[place] for place in places])

        tries += 1
        missed += np.allclose(verification._in_other_company(mixed, texts), mixed([*texts, "a", "b"])[:3])
    assert missed / tries < 0.05
