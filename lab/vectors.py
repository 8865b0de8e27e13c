"""Real semantic vectors of 768 dimensions, offline: wordllama's static vectors, carried over by one orthonormal matrix.

An orthonormal map keeps every cosine, so search quality is that of the 256-dimensional vectors while shapes are those of
nomic-embed-text.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from archon_align.errors import AlignError
from numpy.typing import NDArray

NATIVE_DIMENSIONS = 768
CONTEXT_LENGTH = 2048
_SPECIAL_TOKENS = 2  # the model's own start and end marks count against the context
_SEED = 20250822

Vectors = NDArray[np.float32]


class TooLong(ValueError):
    """A text exceeds the context length and was not to be truncated."""


class VectorModel:
    """Turns texts into unit vectors; use `load()`, which keeps one per process."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("wordllama")
        if spec is None or spec.origin is None:
            raise AlignError(
                "The lab's vectors are missing.",
                object_name="Python package wordllama",
                expected="installed in this environment",
                found="not installed",
                remedy="Run make setup (requirements/lab.txt).",
                code="lab",
            )
        from wordllama import WordLlama  # takes a second: not before it is needed

        inference = WordLlama.load(cache_dir=Path(spec.origin).parent, disable_download=True)
        self._tokenizer = inference.tokenizer
        self._tokenizer.no_padding()
        self._words: Vectors = inference.embedding
        width = self._words.shape[1]
        basis, _ = np.linalg.qr(np.random.default_rng(_SEED).standard_normal((NATIVE_DIMENSIONS, width)))
        self._carry: Vectors = np.ascontiguousarray(basis.T, dtype=np.float32)
        # A text without any token still has its start and end marks in the real model, so its vector is not zero.
        self._wordless: Vectors = np.zeros(width, dtype=np.float32)
        self._wordless[0] = 1.0

    def embed(self, texts: list[str], *, truncate: bool = True) -> tuple[Vectors, int]:
        """Unit vectors in the order of `texts`, and the number of tokens read. Raises TooLong if not `truncate`."""
        limit = CONTEXT_LENGTH - _SPECIAL_TOKENS
        vectors = np.empty((len(texts), self._words.shape[1]), dtype=np.float32)
        tokens = 0
        for row, encoding in enumerate(self._tokenizer.encode_batch(texts, add_special_tokens=False)):
            ids = encoding.ids
            if len(ids) > limit and not truncate:
                raise TooLong(f"{len(ids)} tokens")
            ids = ids[:limit]
            tokens += len(ids) + _SPECIAL_TOKENS
            vectors[row] = self._words[ids].mean(axis=0) if ids else self._wordless
        return normalised(vectors @ self._carry), tokens


def normalised(vectors: Vectors) -> Vectors:
    """Each row scaled to length one; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


@cache
def load() -> VectorModel:
    """The process's one model; the first call takes about two seconds."""
    return VectorModel()
