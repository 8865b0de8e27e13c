"""From a service's reply to vectors that may be stored: every check happens before a byte is written."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .failures import RequestRejected, ServiceUnusable

Vectors = NDArray[np.float32]
# Half-precision models are off by up to about 1e-3; anything beyond is not rounding.
NORM_TOLERANCE = 0.01


def _wrong(url: str, expected: str, found: str, code: str) -> RequestRejected:
    return RequestRejected(
        "The embedding service's reply is wrong.",
        object_name=url,
        expected=expected,
        found=found,
        remedy="Nothing of this reply was stored. Check the service's log and version.",
        code=code,
    )


def _items(reply: object, count: int, url: str) -> list[object]:
    """The `embedding` members of `reply`, in the order of the texts that were sent."""
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) and "embedding" in item for item in data):
        raise _wrong(url, "an object with a list `data` of embeddings", "another shape", "embedding_reply_shape")
    if len(data) != count:
        raise _wrong(url, f"{count} embeddings", f"{len(data)}", "embedding_count")
    indices = [item.get("index") for item in data]
    if any(type(index) is not int for index in indices) or sorted(indices) != list(range(count)):
        raise _wrong(url, f"the indices 0 to {count - 1}, each once", repr(indices)[:120], "embedding_indices")
    ordered: list[object] = [None] * count
    for index, item in zip(indices, data, strict=True):
        ordered[index] = item["embedding"]
    return ordered


def _numbers(embedding: object, position: int, url: str) -> Vectors:
    """One vector from base64 (little-endian 32-bit floats) or from a list of numbers."""
    try:
        if isinstance(embedding, str):
            return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32, copy=False)
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


def vectors_of(reply: object, *, count: int, dimensions: int, url: str, unit: bool = False) -> Vectors:
    """The matrix (`count` rows of `dimensions` numbers) of a parsed reply, in the order of the texts sent.

    `unit` demands vectors of length one (for models known to give them). Raises RequestRejected, or ServiceUnusable
    when every vector has the same wrong dimension, because then the model is the wrong one.
    """
    rows = [_numbers(item, position, url) for position, item in enumerate(_items(reply, count, url))]
    lengths = {len(row) for row in rows}
    if lengths != {dimensions}:
        found = ", ".join(str(length) for length in sorted(lengths))
        if len(lengths) == 1:
            raise ServiceUnusable(
                "The embedding model has another dimension than the database.",
                object_name=url,
                expected=f"{dimensions} dimensions",
                found=f"{found} dimensions",
                remedy="Set archon_embedding_model to the model DEV uses, or archon_embedding_dimensions to the model's.",
                code="embedding_dimension",
            )
        raise _wrong(url, f"{dimensions} dimensions each", f"dimensions {found} mixed", "embedding_dimension_mixed")
    matrix = np.stack(rows)
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        position = int(np.flatnonzero(~finite)[0])
        raise _wrong(url, "finite numbers", f"NaN or infinity at position {position}", "embedding_not_finite")
    # In double precision: the square of a large 32-bit float would overflow.
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    if not norms.all():
        position = int(np.flatnonzero(norms == 0)[0])
        raise _wrong(url, "vectors with a direction", f"only zeros at position {position}", "embedding_zero")
    if unit and not unit_length(matrix):
        worst = float(norms[np.argmax(np.abs(norms - 1))])
        raise _wrong(url, "vectors of length 1, as this model gives", f"length {worst:.4g}", "embedding_norm")
    return matrix


def unit_length(matrix: Vectors) -> bool:
    """Whether every row has length 1 within the tolerance."""
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    return bool((np.abs(norms - 1) <= NORM_TOLERANCE).all())


def cosines(left: Vectors, right: Vectors) -> Sequence[float]:
    """The cosine of each row of `left` with the same row of `right`."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return [float(value) for value in (a * b).sum(axis=1) / lengths]
