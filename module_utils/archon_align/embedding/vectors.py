"""From a service's reply to vectors that may be stored: every check happens before a byte is written."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .failures import RequestRejected, ServiceUnusable

Vectors = NDArray[np.float32]
# Half-precision models are off by up to about 1e-3; anything beyond is not rounding.
NORM_TOLERANCE = 0.01
# Below, squares of 32-bit floats lose too many digits to be trusted.
_TINY = 1e-20


def _wrong(url: str, expected: str, found: str, code: str) -> RequestRejected:
    return RequestRejected(
        "The embedding service's reply is wrong.",
        object_name=url,
        expected=expected,
        found=found,
        remedy="Nothing of this reply was stored. Check the service's log and version.",
        code=code,
    )


def openai_items(reply: object, count: int, url: str) -> list[object]:
    """The `embedding` members of OpenAI's reply, in the order of the texts that were sent. Raises RequestRejected."""
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) and "embedding" in item for item in data):
        raise _wrong(url, "an object with a list `data` of embeddings", "another shape", "embedding_reply_shape")
    _require_count(len(data), count, url)
    indices = [item.get("index") for item in data]
    if any(type(index) is not int for index in indices) or sorted(indices) != list(range(count)):
        raise _wrong(url, f"the indices 0 to {count - 1}, each once", repr(indices)[:120], "embedding_indices")
    ordered: list[object] = [None] * count
    for index, item in zip(indices, data, strict=True):
        ordered[index] = item["embedding"]
    return ordered


def ollama_items(reply: object, count: int, url: str) -> list[object]:
    """The vectors of the reply of Ollama's own API. Raises RequestRejected."""
    embeddings = reply.get("embeddings") if isinstance(reply, dict) else None
    if not isinstance(embeddings, list):
        raise _wrong(url, "an object with a list `embeddings`", "another shape", "embedding_reply_shape")
    _require_count(len(embeddings), count, url)
    return embeddings


def _require_count(found: int, count: int, url: str) -> None:
    if found != count:
        raise _wrong(url, f"{count} embeddings", f"{found}", "embedding_count")


def _numbers(embedding: object, position: int, url: str) -> Vectors:
    """One vector from base64 (little-endian 32-bit floats) or from a list of numbers."""
    try:
        if isinstance(embedding, str):
            raw = binascii.a2b_base64(embedding, strict_mode=True)
            return np.frombuffer(raw, dtype="<f4").astype(np.float32, copy=False)
        if isinstance(embedding, list):
            with np.errstate(over="ignore"):
                vector = np.asarray(embedding, dtype=np.float64).astype(np.float32)
            if vector.ndim == 1:
                return vector
    except (binascii.Error, ValueError, TypeError, OverflowError):
        pass
    raise _wrong(
        url, "numbers, or base64 of 32-bit floats", f"something else at position {position}", "embedding_not_numbers"
    )


def _all_numbers(items: Sequence[object], dimensions: int) -> Vectors | None:
    """All vectors decoded at once, or None where they are not all of one kind and of this dimension."""
    # Twelve bytes are sixteen characters without padding, so that the strings of such vectors decode as one.
    if dimensions % 3 == 0 and all(isinstance(item, str) and len(item) * 3 == dimensions * 16 for item in items):
        try:
            raw = binascii.a2b_base64("".join(items), strict_mode=True)  # type: ignore[arg-type]
        except ValueError:
            return None
        return np.frombuffer(raw, dtype="<f4").astype(np.float32, copy=False).reshape(len(items), dimensions)
    if all(isinstance(item, list) and len(item) == dimensions for item in items):
        try:
            numbers = np.fromiter(chain.from_iterable(items), np.float64, len(items) * dimensions)  # type: ignore[arg-type]
        except (ValueError, TypeError, OverflowError):
            return None
        with np.errstate(over="ignore"):
            return numbers.astype(np.float32).reshape(len(items), dimensions)
    return None


def vectors_of(items: Sequence[object], *, dimensions: int, url: str, unit: bool = False) -> Vectors:
    """The matrix (a row of `dimensions` numbers per item) of a reply's `items`, in their order.

    `unit` demands vectors of length one (for models known to give them). Raises RequestRejected, or ServiceUnusable
    when every vector has the same wrong dimension, because then the model is the wrong one.
    """
    matrix = _all_numbers(items, dimensions)
    if matrix is None:
        rows = [_numbers(item, position, url) for position, item in enumerate(items)]
        _require_dimensions({len(row) for row in rows}, dimensions, url)
        matrix = np.stack(rows)
    squares = _squares(matrix)
    # A square that is finite and not tiny proves in one go that the row is finite and has a direction.
    if not (np.isfinite(squares) & (squares > _TINY)).all():
        squares = _checked_squares(matrix, url)
    if unit and not _unit(squares):
        norms = np.sqrt(squares)
        worst = float(norms[np.argmax(np.abs(norms - 1))])
        raise _wrong(url, "vectors of length 1, as this model gives", f"length {worst:.4g}", "embedding_norm")
    return matrix


def _require_dimensions(lengths: set[int], dimensions: int, url: str) -> None:
    if lengths == {dimensions}:
        return
    found = ", ".join(str(length) for length in sorted(lengths))
    if len(lengths) != 1:
        raise _wrong(url, f"{dimensions} dimensions each", f"dimensions {found} mixed", "embedding_dimension_mixed")
    raise ServiceUnusable(
        "The embedding model has another dimension than the database.",
        object_name=url,
        expected=f"{dimensions} dimensions",
        found=f"{found} dimensions",
        remedy="Set archon_embedding_model to the model DEV uses, or archon_embedding_dimensions to the model's.",
        code="embedding_dimension",
    )


def _squares(matrix: Vectors) -> NDArray[np.floating[Any]]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.einsum("ij,ij->i", matrix, matrix))


def _checked_squares(matrix: Vectors, url: str) -> NDArray[np.floating[Any]]:
    """The squared lengths in double precision, where that of a large or small 32-bit float is exact enough."""
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        position = int(np.flatnonzero(~finite)[0])
        raise _wrong(url, "finite numbers", f"NaN or infinity at position {position}", "embedding_not_finite")
    squares = np.square(matrix, dtype=np.float64).sum(axis=1)
    if not squares.all():
        position = int(np.flatnonzero(squares == 0)[0])
        raise _wrong(url, "vectors with a direction", f"only zeros at position {position}", "embedding_zero")
    return np.asarray(squares)


def _unit(squares: NDArray[np.floating[Any]]) -> bool:
    return bool((np.abs(np.sqrt(squares) - 1) <= NORM_TOLERANCE).all())


def unit_length(matrix: Vectors) -> bool:
    """Whether every row has length 1 within the tolerance."""
    return _unit(_squares(matrix))


def cosines(left: Vectors, right: Vectors) -> Sequence[float]:
    """The cosine of each row of `left` with the same row of `right`."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return [float(value) for value in (a * b).sum(axis=1) / lengths]
