"""What is used, compared with what should be: every difference a finding with its consequence in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..findings import Finding, Severity
from ..settings.wanted import shown
from .effective import UNREAD_IN_ENVIRONMENT, Effective, Used

_TRUE = ("true", "1", "yes", "on")


@dataclass(frozen=True, slots=True)
class Expected:
    """What every archon-server of PROD should use, from the archon_embedding_* variables."""

    provider: str
    base_url: str
    model: str
    dimensions: int


def judge(used: Effective, expected: Expected, environment: Mapping[str, str] | None, *, service: str) -> list[Finding]:
    """Findings about one archon-server, named `service`; `environment` is its container's, None when unknown."""
    return [
        *_ingest(used, expected, service),
        *_search(used, expected, service),
        *_flags(used, service),
        *_unread(used, environment or {}, service),
    ]


def _same_url(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _ingest(used: Effective, expected: Expected, service: str) -> Iterator[Finding]:
    now = used.ingest
    if now.provider.value != expected.provider:
        yield _differs(
            service,
            "EMBEDDING_PROVIDER",
            now.provider,
            expected.provider,
            f"Uploads and searches are embedded by {now.provider.value} instead of {expected.provider}: where it cannot be "
            "reached or has no key, uploads report success and store no page, and searches return nothing.",
        )
    if not _same_url(now.base_url.value, expected.base_url):
        yield _differs(
            service,
            "EMBEDDING_BASE_URL",
            now.base_url,
            expected.base_url,
            f"Uploads will be embedded at {_shown(now.base_url)}; if nothing answers there they report success and store no page.",
        )
    if now.model.value != expected.model:
        yield _differs(
            service,
            "EMBEDDING_MODEL (uploads)",
            now.model,
            expected.model,
            f"Uploads ask for the model {now.model.value or '(none)'}: a service that has not got it refuses them, and one that "
            "has gives vectors that fit none of those stored.",
        )
    if now.dimensions.value != str(expected.dimensions):
        yield _differs(
            service,
            "EMBEDDING_DIMENSIONS",
            now.dimensions,
            str(expected.dimensions),
            f"Uploads ask for vectors of {now.dimensions.value} numbers. A service that gives such vectors has every row refused "
            f"by columns of {expected.dimensions}, and the upload reports success nevertheless.",
        )


def _search(used: Effective, expected: Expected, service: str) -> Iterator[Finding]:
    now = used.search
    if not _same_url(now.base_url.value, expected.base_url):
        yield _differs(
            service,
            "LLM_BASE_URL",
            now.base_url,
            expected.base_url,
            f"Search will ask {_shown(now.base_url)} for the query's vector, whatever EMBEDDING_BASE_URL says; if nothing answers "
            "there it returns nothing, with status 200 and success.",
        )
    if now.model.value != expected.model:
        yield _differs(
            service,
            "EMBEDDING_MODEL (search)",
            now.model,
            expected.model,
            f"Queries are embedded by the model {now.model.value or '(none)'}, whose vectors find nothing among those of "
            f"{expected.model}.",
        )
    names = [part.strip().lower() for part in now.fallback_providers.value.split(",")]
    others = [name for name in dict.fromkeys(names) if name and name != expected.provider]
    if others:
        yield Finding(
            "fallback_of_other_dimension",
            "warning",
            f"{service}: EMBEDDING_FALLBACK_PROVIDERS",
            f"After three failures search leaves {expected.provider} aside for 300 s and asks {', '.join(others)} instead "
            f"({now.fallback_providers.source}), with a model of their own. Vectors of another model or dimension find nothing, "
            "and page queries go to another service. The choice is yours, so it was not changed.",
            f"Set EMBEDDING_FALLBACK_PROVIDERS: {expected.provider} in archon_credentials_extra.",
        )


def _flags(used: Effective, service: str) -> Iterator[Finding]:
    in_tasks, displayed = used.template_injection, used.template_injection_shown
    if _on(displayed) and not _on(in_tasks):
        yield Finding(
            "template_injection_off",
            "warning",
            f"{service}: TEMPLATE_INJECTION_ENABLED",
            f"The settings say {displayed.value}, which only a health route reads; task code reads the container's environment, "
            f"which {_said(in_tasks)}. So the health route says that injection is on while tasks may not be expanded.",
            "Add TEMPLATE_INJECTION_ENABLED: 'true' to archon_services_environment and let the stack's file pass it on "
            "(archon_services_mode: update), or edit the stack.",
        )
    if used.search.agentic.value and not _on(used.search.agentic):
        yield Finding(
            "agentic_rag_off",
            "info",
            f"{service}: USE_AGENTIC_RAG",
            f"It is {used.search.agentic.value} ({used.search.agentic.source}): searching code examples answers with status 500.",
            "Set USE_AGENTIC_RAG: true in archon_credentials_extra if code examples shall be found.",
        )


def _said(flag: Used) -> str:
    if flag.origin == "environment":
        return f"says {flag.value}"
    return "does not set it" if flag.certain else "is not known"


def _unread(used: Effective, environment: Mapping[str, str], service: str) -> Iterator[Finding]:
    by_key = {
        "EMBEDDING_DIMENSIONS": used.ingest.dimensions,
        "EMBEDDING_FALLBACK_PROVIDERS": used.search.fallback_providers,
    }
    for key in UNREAD_IN_ENVIRONMENT:
        value = environment.get(key, "")
        if value and value != by_key[key].value:
            yield Finding(
                "environment_not_read",
                "info",
                f"{service}: {key}",
                f"The container's environment says {value}, which no code of Archon reads; it uses {by_key[key].value} "
                f"({by_key[key].source}).",
                f"Nothing to do; to change it, set {key} in archon_credentials_extra or by its own variable.",
            )


def _on(flag: Used) -> bool:
    return flag.value.strip().lower() in _TRUE


def _shown(value: Used) -> str:
    return shown(value.key, value.value)


def _differs(service: str, what: str, used: Used, expected: str, consequence: str) -> Finding:
    severity: Severity = "error" if used.certain else "warning"
    remedy = {
        "environment": f"Run with archon_services_mode: update, or set {used.key} in the stack and redeploy it.",
        "settings": "Run the data phase (--tags data), which stores what is wanted, and let the service be restarted.",
        "default": "Run the data phase (--tags data), which stores what is wanted, and let the service be restarted.",
    }[used.origin]
    return Finding(
        "effective_differs",
        severity,
        f"{service}: {what}",
        f"{consequence} It is {_shown(used) or '(nothing)'} by {used.source}; wanted is {shown(used.key, expected)}.",
        remedy,
    )
