"""One document's way through Archon, watched in the table: what it leaves there is all that counts."""

from __future__ import annotations

import mimetypes
import time
from dataclasses import dataclass

from ..application.progress import Event, Follower
from ..application.server import Archon
from ..database.session import Session
from ..embedding.tables import VectorType
from ..errors import AlignError
from .looking import Page, State, found_by_search, pages, sampled, state, wrong_vectors
from .model import Document, covered

# Words at the edges of pieces are cut otherwise in the new pieces than in the old ones: two of about 130 in each.
LEAST_COVERED = 0.98
_POLL_SECONDS = 0.5
# So long nothing may move in the table, once Archon has said that it is done or where it says nothing.
_SETTLED_SECONDS = 3.0
_QUIET_SECONDS = 20.0


class NotReplaced(AlignError):
    """The upload did not give what can take the old pages' place."""

    fatal = False


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The new source and its pages."""

    source_id: str
    pages: int


def _failed(document: Document, expected: str, found: str, code: str, *, fatal: bool = False) -> NotReplaced:
    error = NotReplaced(
        "A document that was uploaded again cannot take its source's place.",
        object_name=f"{document.source.source_id} ({document.source.filename})",
        expected=expected,
        found=found,
        remedy="The source was left as it was and is rebuilt in place. See archon-server's log for why.",
        code=code,
    )
    error.fatal = fatal
    return error


def upload(archon: Archon, follower: Follower, document: Document, session: Session, seconds: float) -> State:
    """Hand the document over and wait until the table is at rest; what is there then. Raises NotReplaced, AlignError."""
    content = document.path.read_bytes()
    kind = mimetypes.guess_type(document.source.filename)[0] or "text/plain"
    follower.subscribe(archon.upload(document.source.filename, content, content_type=kind))
    return settled(session, follower, document, seconds)


def settled(session: Session, follower: Follower, document: Document, seconds: float) -> State:
    """Wait until the pages of the document's url do not change any more. Raises NotReplaced when there are none in time."""
    deadline = time.monotonic() + seconds
    seen, since = state(session, document.source.url), time.monotonic()
    while True:
        event = follower.wait(_POLL_SECONDS)
        if not follower.connected or event is not None:
            time.sleep(_POLL_SECONDS)
        now = state(session, document.source.url)
        if now != seen:
            seen, since = now, time.monotonic()
        still = time.monotonic() - since
        if event is not None and event.status in ("error", "cancelled"):
            raise _failed(document, "an upload that is completed", f"{event.status}: {event.text}", "upload_failed")
        if still >= _SETTLED_SECONDS and (event is not None or (now.pages and still >= _QUIET_SECONDS)):
            if not now.pages:
                raise _failed(document, "pages in the table", _nothing(event), "upload_not_stored", fatal=True)
            return now
        if time.monotonic() > deadline:
            raise _failed(
                document,
                f"an upload that comes to its end within {seconds:g} s",
                f"{now.pages} pages, {now.embedded} with a vector",
                "upload_timeout",
                fatal=True,
            )


def _nothing(event: Event | None) -> str:
    told = f", though Archon says {event.status} and {event.stored} stored" if event is not None else ""
    return f"none{told}: it did not embed or insert them"


def verify(
    session: Session, document: Document, old: list[Page], found: State, dimensions: int, vector: VectorType
) -> Uploaded:
    """Prove that the new pages can take the old ones' place. Raises NotReplaced."""
    url = document.source.url
    others = [one for one in found.sources if one != document.source.source_id]
    if len(found.sources) != 1 or len(others) != 1:
        raise _failed(document, "pages of one new source", f"pages of {', '.join(found.sources)}", "upload_not_alone")
    new = others[0]
    if wrong := wrong_vectors(session, url, new, dimensions, vector):
        raise _failed(
            document,
            f"a vector of {dimensions} dimensions for every page",
            f"{wrong} of {found.pages} without",
            "upload_vectors",
        )
    there = pages(session, url, new)
    share = covered((page.content for page in old), (page.content for page in there))
    if share < LEAST_COVERED:
        raise _failed(
            document,
            f"at least {LEAST_COVERED:.0%} of the words that are stored now",
            f"{share:.1%}: it is another document, or another version of it",
            "upload_other_text",
        )
    hits = found_by_search(session, there, vector)
    if hits is not None and hits < len(sampled(there)):
        raise _failed(document, "search that finds its pages", f"{hits} of {len(sampled(there))}", "upload_not_found")
    return Uploaded(new, len(there))
