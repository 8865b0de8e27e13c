"""The judge: what the two databases and this machine hold, by its own queries. It shares no code with archon-align."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping

import psutil
import psycopg
from psycopg import sql

from .scene import Site
from .users import PAGES, SETTINGS, Ledger, Row, as_row

PROTECTED = ("archon_projects", "archon_tasks", "archon_document_versions", "archon_project_sources")
# Not protected, and yet nobody's to change; archon_sources also holds what users upload.
UNTOUCHED = ("archon_sources", "archon_prompts", "archon_release_notes")
VECTORS = (PAGES, "archon_code_examples")
TIDY_SECONDS = 90.0
SHOWN = 5
_KEYS = {"archon_sources": "source_id", SETTINGS: "key"}
_SET_BY_THE_RUN = re.compile(r"(EMBEDDING|LLM|CHAT)_")
_FACTS = """
SELECT 'table ' || c.relname || ' ' || c.relkind::text || ' rls=' || c.relrowsecurity FROM pg_class c
  WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p') AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' notnull=' || a.attnotnull
    || ' default ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '-')
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ') ' || md5(p.prosrc) FROM pg_proc p
  WHERE p.pronamespace = 'public'::regnamespace AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'enum ' || t.typname || ' ' || string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid
  GROUP BY t.typname
UNION ALL
SELECT 'constraint on ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) || ' validated=' || convalidated FROM pg_constraint
  WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  WHERE NOT t.tgisinternal AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'policy ' || tablename || ' ' || policyname || ' ' || roles::text || ' ' || cmd || ' ' || coalesce(qual, '-') || ' ' || coalesce(with_check, '-')
  FROM pg_policies WHERE schemaname = 'public'
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
  WHERE c.relnamespace = 'public'::regnamespace AND m.amname NOT IN ('hnsw', 'ivfflat')
"""
_RELATIONS = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am m ON m.oid = c.relam
WHERE n.nspname !~ '^pg_(catalog|toast)' AND n.nspname <> 'information_schema' AND coalesce(m.amname, '') NOT IN ('hnsw', 'ivfflat')
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)'
UNION ALL SELECT 'type ' || n.nspname || '.' || typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE typtype IN ('e', 'd', 'r') AND n.nspname <> 'information_schema'
"""
_LEFT = """
SELECT 'session ' || application_name || ' ' || coalesce(state, '') FROM pg_stat_activity
  WHERE application_name LIKE 'align %' OR (application_name LIKE 'pg_%' AND backend_type = 'client backend')
UNION ALL SELECT 'advisory lock ' || classid || ',' || objid || ' of ' || pid FROM pg_locks WHERE locktype = 'advisory'
UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
UNION ALL SELECT 'temporary ' || relname FROM pg_class WHERE relpersistence = 't'
UNION ALL SELECT 'invalid index ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid OR NOT indisready OR NOT indislive
UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', 'archon')
UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots
"""


def read_table(connection: psycopg.Connection, table: str) -> dict[str, Row]:
    """All rows of a table by key, as text."""
    query = sql.SQL("SELECT t.{}::text, row_to_json(t.*)::text FROM {} AS t").format(
        sql.Identifier(_KEYS.get(table, "id")), sql.Identifier("public", table)
    )
    return {key: as_row(row) for key, row in connection.execute(query)}


def _texts(connection: psycopg.Connection, query: str) -> set[str]:
    return {str(row[0]) for row in connection.execute(query.encode())}


class Before:
    """Both databases as they were before the round; PROD's rows are the ledger's first entries."""

    def __init__(self, site: Site, ledger: Ledger) -> None:
        with site.superuser("prod") as prod:
            prod.execute("SET timezone = 'UTC'")
            for table in (*PROTECTED, *UNTOUCHED, *VECTORS, SETTINGS):
                ledger.existing(table, read_table(prod, table))
            self.relations = _texts(prod, _RELATIONS)
            self.only_in_prod = _texts(prod, _FACTS)
        with site.superuser("dev") as dev:
            self.dev = self._dev_rows(dev)
            self.only_in_prod -= _texts(dev, _FACTS)

    @staticmethod
    def _dev_rows(dev: psycopg.Connection) -> dict[str, list[str]]:
        dev.execute("SET timezone = 'UTC'")
        query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        rows = {}
        for table in sorted(_texts(dev, query) - {"archon_credentials"}):
            statement = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier("public", table))
            rows[table] = [row[0] for row in dev.execute(statement)]
        return rows

    def dev_is_unchanged(self, site: Site) -> list[str]:
        with site.superuser("dev") as dev:
            now = self._dev_rows(dev)
        return [f"DEV's table {table} differs" for table in self.dev | now if self.dev.get(table) != now.get(table)]


def rows_are_exact(site: Site, ledger: Ledger) -> list[str]:
    """Every row is as its last acknowledged write left it; none is missing, none is there that nobody wrote."""
    wrong = []
    with site.superuser("prod") as prod:
        prod.execute("SET timezone = 'UTC'")
        for table in (*PROTECTED, *UNTOUCHED, *VECTORS, SETTINGS):
            found = read_table(prod, table)
            expected = ledger.states(table)
            if table == SETTINGS:
                expected = {key: states for key, states in expected.items() if not _SET_BY_THE_RUN.match(key)}
            wrong += _compare(table, found, expected)
            if table != SETTINGS:  # the alignment adds some there
                wrong += [f"{table} {key} was written by no user" for key in found.keys() - expected.keys()]
    return wrong


def _compare(table: str, found: Mapping[str, Row], expected: Mapping[str, tuple[Row | None, ...]]) -> list[str]:
    wrong = []
    for key, states in expected.items():
        differences = [_difference(table, state, found.get(key)) for state in states]
        if all(differences):
            wrong.append(f"{table} {key}: " + " / ".join(differences))
    return wrong


def _difference(table: str, state: Row | None, found: Row | None) -> str:
    """In words, '' for none. Columns that came later are no difference, nor is a vector where there was none or another's size."""
    if state is None or found is None:
        return "" if state is found else "is missing" if found is None else "is back although it was deleted"
    for column, value in state.items():
        if column == "embedding" and table in VECTORS and (value is None or value.count(",") != 767):
            continue
        if column not in found:
            return f"column {column} is missing"
        if found[column] != value:
            return f"{column} is {str(found[column])[:80]!r}, not {str(value)[:80]!r}"
    return ""


def alignment_is_complete(site: Site, before: Before) -> list[str]:
    """PROD has what DEV has, every page its vector, the settings their values, and nothing is left over."""
    wrong = []
    with site.superuser("prod") as prod, site.superuser("dev") as dev:
        dev_facts, prod_facts = _texts(dev, _FACTS), _texts(prod, _FACTS)
        wrong += [f"PROD lacks {fact}" for fact in sorted(dev_facts - prod_facts)]
        known = before.relations | _texts(dev, _RELATIONS)
        wrong += [f"PROD has {name} besides" for name in sorted(_texts(prod, _RELATIONS) - known)]
        for table in VECTORS:
            query = sql.SQL(
                "SELECT count(*) FILTER (WHERE embedding IS NULL), count(*) FILTER (WHERE vector_dims(embedding) <> 768)"
                " FROM {} WHERE content ~ '\\S'"
            ).format(sql.Identifier(table))
            missing = prod.execute(query).fetchone()
            if missing != (0, 0):
                wrong.append(f"{table}: rows without a vector, with one of a wrong size: {missing}")
            indexes = _texts(
                prod,
                "SELECT indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am m ON m.oid = c.relam"
                f" WHERE indrelid = '{table}'::regclass AND amname IN ('hnsw', 'ivfflat')",
            )
            if len(indexes) > 1:
                wrong.append(f"{table} has the vector indexes {sorted(indexes)}")
        wrong += _settings(prod, site)
        if wrong:
            return wrong  # the tables below may not even be there
        components = "SELECT name || ' ' || instruction_text FROM archon_template_components"
        # As the lab's inventory has it (archon_templates_words).
        theirs = {text.replace("_archon-dev", "_archon-prod") for text in _texts(dev, components)}
        wrong += [f"PROD lacks template component {name[:60]!r}" for name in theirs - _texts(prod, components)]
        definitions = "SELECT name || ' ' || template_data FROM archon_template_definitions"
        wrong += [f"PROD lacks template {name[:60]!r}" for name in _texts(dev, definitions) - _texts(prod, definitions)]
        credentials = "SELECT key || '=' || value FROM archon_credentials WHERE category = 'embedding'"
        if _texts(prod, credentials) != _texts(dev, credentials) or len(_texts(prod, credentials)) != 4:
            wrong.append("archon_credentials differs between DEV and PROD")
    return wrong


def _settings(prod: psycopg.Connection, site: Site) -> list[str]:
    wanted = {
        "EMBEDDING_PROVIDER": "ollama",
        "EMBEDDING_MODEL": "nomic-embed-text",
        "EMBEDDING_DIMENSIONS": "768",
        "EMBEDDING_BASE_URL": site.lab.embedding_base_url,
    }
    found = {key: row["value"] for key, row in read_table(prod, SETTINGS).items()}
    return [f"setting {key} is {found.get(key)!r}" for key, value in wanted.items() if found.get(key) != value]


def leftovers(site: Site) -> list[str]:
    """What a run left behind on either server or on this machine; given some seconds to go away."""
    deadline = time.monotonic() + TIDY_SECONDS
    while (left := _left_now(site)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _left_now(site: Site) -> list[str]:
    left = []
    for world in ("prod", "dev"):
        with site.superuser(world) as connection:
            left += [f"{world}: {text}" for text in sorted(_texts(connection, _LEFT))]
    for process in site.processes():
        with contextlib.suppress(psutil.Error):
            left.append(f"process {process.pid} {' '.join(process.cmdline())[:100]}")
    for path in sorted(site.temporary.iterdir()):
        # Ansible's own folders for modules whose process was killed are not ours to tidy.
        if not path.name.startswith(("ansible", "pymp-")):
            left.append(f"temporary {path.name}")
    processes, folders = site.scratch()
    left += [f"scratch server's process {process.pid}" for process in processes]
    return left + [f"scratch server's folder {folder}" for folder in folders]


def sessions_left(site: Site) -> list[str]:
    """What the keeper of a run that is over should have ended by now: given some seconds."""
    deadline = time.monotonic() + TIDY_SECONDS
    with site.superuser("prod") as connection:
        while left := sorted(text for text in _texts(connection, _LEFT) if text.startswith(("session", "advisory"))):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
    return left


class Waits(threading.Thread):
    """Watches how long users wait for locks that a run holds or asks for; `longest` in seconds, `who` in words."""

    _QUERY = """
        SELECT extract(epoch FROM clock_timestamp() - l.waitstart)::float, a.application_name, b.application_name, a.query
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS blocker (pid)
        JOIN pg_stat_activity b ON b.pid = blocker.pid
        WHERE NOT l.granted AND l.waitstart IS NOT NULL AND b.application_name LIKE 'align %' AND a.application_name ~ '^(user|uploader)'
    """

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self._site = site
        self._done = threading.Event()
        self.longest = 0.0
        self.who = ""

    def run(self) -> None:
        while not self._done.is_set():
            try:
                with self._site.superuser("prod") as connection:
                    while not self._done.wait(0.05):
                        self._look(connection)
            except psycopg.Error:
                self._done.wait(0.2)  # the server is down

    def _look(self, connection: psycopg.Connection) -> None:
        for seconds, user, blocker, query in connection.execute(self._QUERY.encode()):
            if seconds > self.longest:
                self.longest, self.who = seconds, f"{user} behind {blocker!r}: {query[:60]}"

    def finish(self) -> None:
        self._done.set()
        self.join()


def report_says(site: Site) -> str:
    """The result in the newest report, '' when there is none."""
    try:
        return str(json.loads((site.artifacts.folder / "latest" / "report.json").read_text())["result"])
    except (OSError, ValueError, KeyError):
        return ""


def shortened(complaints: Iterable[str]) -> list[str]:
    found = list(complaints)
    return found if len(found) <= SHOWN else [*found[:SHOWN], f"and {len(found) - SHOWN} more"]
