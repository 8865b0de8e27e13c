"""Whether two services have the same model: told by the vectors alone, so it needs no database."""

from __future__ import annotations

from .failures import ServiceUnusable
from .vectors import Vectors, cosines

# The same text embedded twice differs by rounding only, also when batches are composed differently.
SAME_COSINE = 0.99


def require_same_model(reference: Vectors, found: Vectors, url: str) -> None:
    """Raise ServiceUnusable unless the service at `url` gives the vectors that another one gave (see require_order)."""
    if reference.shape != found.shape:
        expected = f"{reference.shape[-1]} dimensions, as the first service gives"
        raise _other_model(url, expected, f"{found.shape[-1]}")
    worst = min(cosines(reference, found))
    if not worst >= SAME_COSINE:
        expected = f"cosine of at least {SAME_COSINE} with the first service's vectors of the same texts"
        raise _other_model(url, expected, f"cosine {worst:.3f}")


def _other_model(url: str, expected: str, found: str) -> ServiceUnusable:
    return ServiceUnusable(
        "The embedding services do not give the same vectors.",
        object_name=url,
        expected=expected,
        found=found,
        remedy=(
            "Vectors of two models do not compare. Serve the same model, in the same version, at every URL of "
            "archon_embedding_endpoints, or take this one out of the list."
        ),
        code="embedding_other_model",
    )
