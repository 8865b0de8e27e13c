"""Sources, documents, and the mark that old pages carry while Archon works on the new ones. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FILE = "file://"
PAGES, SOURCES, LINKS = "archon_crawled_pages", "archon_sources", "archon_project_sources"
# What Archon takes: a document, or a text by its suffix.
ACCEPTED = frozenset(
    [
        ".pdf",
        ".docx",
        ".doc",
        ".txt",
        ".md",
        ".markdown",
        ".rst",
        ".py",
        ".js",
        ".jsx",
        ".ts",
        ".tsx",
        ".java",
        ".c",
        ".cpp",
        ".h",
        ".go",
        ".rs",
        ".rb",
        ".php",
        ".html",
        ".htm",
        ".css",
        ".json",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".cfg",
        ".conf",
        ".csv",
        ".sql",
        ".sh",
        ".log",
    ]
)
LARGEST_BYTES = 100 << 20
_ASIDE = "archon-align-aside:"
ASIDE_FORM = f"^{_ASIDE}[0-9]{{8}}-[0-9]{{6}}-[0-9a-f]{{6}}:[0-9]+:{FILE}"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Source:
    """One source with pages that have no vector. `url` is that of its pages, '' where they have several."""

    source_id: str
    url: str
    pages: int
    missing: int
    shared: bool = False

    @property
    def filename(self) -> str:
        return self.url.removeprefix(FILE)


@dataclass(frozen=True, slots=True)
class Document:
    """A source and the file that it was made of."""

    source: Source
    path: Path


@dataclass(frozen=True, slots=True)
class Skipped:
    """A source that is rebuilt in place, and why."""

    source_id: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        return {"source": self.source_id, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Aside:
    """Old pages under a marked url: which run has marked them, at what second, and their own url."""

    marked: str
    source_id: str

    @property
    def since(self) -> int:
        """Seconds since the epoch, by the clock of the machine that marked them."""
        return int(self.marked.removeprefix(_ASIDE).split(":", 2)[1])

    @property
    def url(self) -> str:
        return self.marked.removeprefix(_ASIDE).split(":", 2)[2]


def aside_url(run_id: str, second: int, url: str) -> str:
    """The url that old pages have while Archon, which deletes all pages of a document's url first, takes the new one."""
    return f"{_ASIDE}{run_id}:{second}:{url}"


def choose(sources: Iterable[Source], folder: Path | None) -> tuple[list[Document], list[Skipped]]:
    """Which of them can be uploaded again, and why the others cannot. Looks into `folder`."""
    documents, skipped = [], []
    for source in sources:
        reason = _why_not(source, folder)
        if reason or folder is None:
            skipped.append(Skipped(source.source_id, reason))
        else:
            documents.append(Document(source, folder / source.filename))
    return documents, skipped


def _why_not(source: Source, folder: Path | None) -> str:
    if not source.url.startswith(FILE):
        return "it was crawled: there is no document to upload"
    name = source.filename
    if not name or name != PurePosixPath(name).name or "\0" in name:
        return "its pages do not name a single file"
    if source.shared:
        return "another source has pages of that file, which Archon would delete"
    if PurePosixPath(name).suffix.lower() not in ACCEPTED:
        return "Archon takes no files of that kind"
    if folder is None:
        return "archon_reupload_documents_dir is not set"
    path = folder / name
    try:
        if not path.is_file():
            return f"there is no file {name} among the documents"
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        return f"the file {name} cannot be read: {error.strerror or type(error).__name__}"
    if not size:
        return f"the file {name} is empty"
    return "" if size <= LARGEST_BYTES else f"the file {name} is larger than {LARGEST_BYTES >> 20} MB"


def source_prefix(filename: str) -> str:
    """What the id begins with that Archon gives to an upload of this file; the second follows."""
    return "file_" + re.sub(r"[ .]", "_", filename) + "_"


def covered(old: Iterable[str], new: Iterable[str]) -> float:
    """The share of the old texts' words that the new ones hold, each as often as there.

    Archon cuts by characters, so words at the edges of pieces may be cut in two, elsewhere in the new pieces than in the old.
    """
    wanted: Counter[str] = Counter(word for text in old for word in _WORD.findall(text))
    found: Counter[str] = Counter(word for text in new for word in _WORD.findall(text))
    total = wanted.total()
    return (wanted & found).total() / total if total else 1.0
