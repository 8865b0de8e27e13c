"""Phase 4 by the plan's own way: each document uploaded again, its old pages removed only when the new ones are proved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from ..application.progress import follow
from ..application.server import Archon
from ..context import Context
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..embedding.tables import VectorType, vector_type
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from ..plan import Statement
from ..preservation.fingerprint import columns_of
from ..preservation.proof import Proof
from ..report.wording import plural
from ..web.trust import Trust
from . import changing
from .looking import asides, pages, pages_table, same_named, sources_to_rebuild, state
from .model import Aside, Document, Skipped, Source, aside_url, choose, source_prefix
from .uploading import NotReplaced, Uploaded, upload, verify

# Archon deletes the pages of a document's url within seconds of taking it; then old pages may have that url again.
_DELETED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """`documents` is the folder of the original files, None without one. `again`: whether documents are uploaded, or only
    what a killed run has left is put in order. Seconds."""

    archon_url: str
    dimensions: int
    documents: Path | None = None
    trust: Trust = field(default_factory=Trust)
    upload_timeout: float = 600.0
    again: bool = True


@dataclass(slots=True)
class _Account:
    uploaded: list[dict[str, object]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    restored: int = 0


def run(context: Context, options: Options) -> PhaseOutcome:
    """Upload again what can be; the rest is told and left to the rebuild in place. A source is either replaced or as it was.

    Raises AlignError before anything is changed when Archon is not ready, and when a server refuses.
    """
    started = time.monotonic()
    account = _Account()
    with open_session(context, context.prod) as prod:
        try:
            _work(context, options, prod, account)
        except psycopg.Error as error:
            raise server_error(prod.target, error, doing="uploading documents again") from error
    planned = bool(account.statements)
    changed = bool(account.uploaded or account.restored) or (context.check and planned)
    status: Status = "aligned" if not changed else "drift" if context.check else "changed"
    return PhaseOutcome(
        context.phase,
        status,
        seconds=time.monotonic() - started,
        changed=changed,
        statements=account.statements,
        findings=account.findings,
        proofs=account.proofs,
        details={
            "reupload": {
                "uploaded": account.uploaded,
                "skipped": [one.as_dict() for one in account.skipped],
                "put_back": account.restored,
            }
        },
    )


def _work(context: Context, options: Options, prod: Session, account: _Account) -> None:
    if not {"url", "source_id", "embedding"}.issubset(columns_of(prod, pages_table(prod))):
        return  # check mode, before the schema phase has made it
    vector = vector_type(prod)
    for aside in asides(prod):
        _settle(context, options, prod, aside, vector, account)
    if not options.again:
        return
    documents, account.skipped = choose(sources_to_rebuild(prod), options.documents)
    if documents:
        with Archon(options.archon_url, options.trust, check=context.check) as archon:
            archon.require_ready()
            for number, document in enumerate(documents):
                if context.check:
                    account.statements.append(_statement(context, prod, document))
                    continue
                prod.progress(f"{number}/{len(documents)} documents")
                try:
                    _replace(context, options, prod, archon, document, vector, account)
                except NotReplaced as error:
                    account.findings.append(_told(error))
                    account.skipped.append(Skipped(document.source.source_id, error.found))
                    if error.fatal:
                        # Archon does not embed: every other source would fare alike.
                        rest = documents[number + 1 :]
                        account.skipped += [Skipped(one.source.source_id, "an upload before it failed") for one in rest]
                        break
    account.findings += _skipped(account.skipped)


def _statement(context: Context, prod: Session, document: Document) -> Statement:
    old = pages(prod, document.source.url, document.source.source_id)
    marked = aside_url(context.run.id, int(time.time()), document.source.url)
    return changing.rename_statement(prod, [page.id for page in old], document.source.url, marked)


def _replace(
    context: Context,
    options: Options,
    prod: Session,
    archon: Archon,
    document: Document,
    vector: VectorType,
    account: _Account,
) -> None:
    source = document.source
    old = pages(prod, source.url, source.source_id)
    ids = [page.id for page in old]
    aside = Aside(aside_url(context.run.id, int(time.time()), source.url), source.source_id)
    _save(context, prod, source)
    known = same_named(prod, source.filename)
    account.statements.append(changing.rename_statement(prod, ids, source.url, aside.marked))
    with follow(options.archon_url, options.trust) as follower:
        account.proofs += changing.rename(prod, ids, source.url, aside.marked)
        with _put_back_unless_done(prod, source, aside, ids, known, account) as done:
            found = upload(archon, follower, document, prod, options.upload_timeout)
            made = verify(prod, document, old, found, options.dimensions, vector)
            _finish(prod, aside, ids, made, account)
            done()


@contextmanager
def _put_back_unless_done(
    prod: Session, source: Source, aside: Aside, ids: list[int], known: set[str], account: _Account
) -> Iterator[Callable[[], None]]:
    """Whatever ends the block before it says that it is done: the upload's rows go, and the old pages get their url again."""
    finished: list[bool] = []
    try:
        yield lambda: finished.append(True)
    except NotReplaced:
        _put_back(prod, source, aside, ids, known, account)
        raise
    except AlignError as error:
        _put_back(prod, source, aside, ids, known, account)
        raise NotReplacedAfter(error, source) from error


class NotReplacedAfter(NotReplaced):
    """An upload that ended with another failure."""

    def __init__(self, error: AlignError, source: Source) -> None:
        super().__init__(
            error.what,
            object_name=f"{source.source_id}: {error.object_name}",
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
            code=error.code,
        )
        self.fatal = True


def _put_back(prod: Session, source: Source, aside: Aside, ids: list[int], known: set[str], account: _Account) -> None:
    # Only what this upload has made: another source of that name was there before, or is somebody's own upload of later.
    for made in sorted(same_named(prod, source.filename) - known - {source.source_id}):
        if _made_since(made, source.filename, aside.since):
            account.proofs += changing.remove_upload(prod, source.url, made)
    left = state(prod, source.url)
    if left.pages:
        account.findings.append(_kept_aside(aside, len(ids), left.sources))
        return
    account.proofs += changing.rename(prod, ids, aside.marked, source.url)


def _made_since(source_id: str, filename: str, second: int) -> bool:
    ending = source_id.removeprefix(source_prefix(filename))
    # The two clocks are two machines'.
    return ending.isdigit() and int(ending) >= second - int(_DELETED_SECONDS)


def _finish(prod: Session, aside: Aside, ids: list[int], made: Uploaded, account: _Account) -> None:
    proofs, links = changing.replace(prod, aside, ids, made.source_id, made.pages)
    account.proofs += proofs
    account.uploaded.append(
        {
            "source": aside.source_id,
            "new_source": made.source_id,
            "pages_before": len(ids),
            "pages_after": made.pages,
            "links": links,
        }
    )


def _settle(
    context: Context, options: Options, prod: Session, aside: Aside, vector: VectorType, account: _Account
) -> None:
    """What a killed run has left: the replacement is finished where its new pages are proved, else the old ones come back."""
    old = pages(prod, aside.marked, aside.source_id)
    ids = [page.id for page in old]
    source = Source(aside.source_id, aside.url, len(ids), len(ids))
    if context.check:
        account.statements.append(changing.rename_statement(prod, ids, aside.marked, aside.url))
        return
    # Archon may still be at work on that upload.
    time.sleep(max(0.0, min(_DELETED_SECONDS, aside.since + _DELETED_SECONDS - time.time())))
    found = state(prod, aside.url)
    if found.pages:
        try:
            made = verify(prod, Document(source, Path(source.filename)), old, found, options.dimensions, vector)
            _finish(prod, aside, ids, made, account)
        except NotReplaced:
            _put_back(prod, source, aside, ids, set(), account)
        else:
            return
    else:
        _put_back(prod, source, aside, ids, set(), account)
    account.restored += len(ids)
    account.findings.append(
        Finding(
            "reupload_put_back",
            "info",
            aside.source_id,
            f"A run was killed while it uploaded {source.filename} again; its {plural(len(ids), 'page')} are back under their url.",
            "Nothing to do.",
        )
    )


def _save(context: Context, prod: Session, source: Source) -> None:
    """The source's pages, text and all, as a file of the run's before anything is done to them."""
    from .saving import lines

    name = f"reupload/{len(list((context.run.artifacts / 'reupload').glob('*.jsonl'))) + 1:04}.jsonl"
    context.run.write(name, b"".join(lines(prod, source)))


def _told(error: NotReplaced) -> Finding:
    return Finding(
        error.code,
        "warning",
        error.object_name,
        f"{error.what} Expected {error.expected}, found {error.found}.",
        error.remedy,
    )


def _kept_aside(aside: Aside, number: int, others: tuple[str, ...]) -> Finding:
    return Finding(
        "reupload_kept_aside",
        "warning",
        aside.source_id,
        f"Somebody has uploaded {aside.url} meanwhile ({', '.join(others)}), so the {plural(number, 'old page')} keep the url "
        f"{aside.marked}. Nothing of them is lost.",
        "See which of the two is wanted and delete the other's pages by their url.",
    )


def _skipped(skipped: list[Skipped]) -> list[Finding]:
    if not skipped:
        return []
    words = "; ".join(f"{one.source_id}: {one.reason}" for one in skipped)
    return [
        Finding(
            "not_uploaded_again",
            "info",
            ", ".join(one.source_id for one in skipped),
            f"{plural(len(skipped), 'source')} cannot be uploaded again and are rebuilt in place. {words}.",
            "Put the original documents into archon_reupload_documents_dir if they shall be uploaded.",
        )
    ]
