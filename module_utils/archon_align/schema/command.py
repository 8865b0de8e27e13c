"""`python -m archon_align.schema diff|apply`: any two PostgreSQL databases, without Ansible. See docs/python-api.md."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psycopg
import yaml

from ..database.failures import server_error
from ..database.same import same_database
from ..database.session import Session
from ..database.target import Target
from ..errors import AlignError, DecisionNeeded, Resumable
from ..findings import Finding
from . import api
from .answer import Direction, Page, Side, counted, differences_json, for_command, tell, tell_differences
from .arguments import USAGE, Arguments, WrongUsage, parse, usage_text, wants_json
from .compare import compare
from .decisions import QUARANTINE, VARIABLE, Decisions
from .inspect import inspect_both
from .model import Catalog, Key, Kind
from .outside import StageFailed
from .planfile import bound, load, require_same, source_of
from .planning import Made
from .text import as_json, render_sql

ALIGNED, ERROR, DIFFERENT, UNDECIDED, ROLLED_BACK, RESUMABLE = 0, 1, 2, 3, 4, 5
_RESULTS = {ALIGNED: "aligned", DIFFERENT: "drift", UNDECIDED: "decision_needed"}
_BEFORE_ANYTHING = frozenset({"schema_changed_meanwhile"})
COMMIT_UNKNOWN = "commit_unknown"
_ENVIRONMENT = "env:"
_SCHEMAS = """
SELECT n.nspname::text AS name FROM pg_namespace n WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
ORDER BY n.nspname <> 'public', 1
"""


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Prints one JSON object with --json whatever happens."""
    given = sys.argv[1:] if given is None else given
    as_json = wants_json(given)
    try:
        answer = _Run(parse(given)).answer()
    except WrongUsage as error:
        answer = _misused(str(error))
    except KeyboardInterrupt:
        answer = _failed(_interrupted(), ERROR)
    except AlignError as error:
        answer = _misused(str(error)) if error.code == "bad_scope" else _failed(error, ERROR)
    except psycopg.Error as error:
        answer = _failed(server_error(Target("The server", ""), error, doing="it was read"), ERROR)
    except Exception as error:  # noqa: BLE001 - whatever it is, a program that reads JSON must get some
        traceback.print_exc()
        answer = _failed(_defect(error), ERROR)
    _print(answer, as_json=as_json)
    return answer.code


def _print(answer: Answer, *, as_json: bool) -> None:
    try:
        if as_json:
            document = {"exit_code": answer.code, **answer.json}
            # In UTF-8 whatever the terminal's encoding: that is what JSON is.
            sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
        else:
            stream = sys.stderr if "error" in answer.json else sys.stdout
            encoding = stream.encoding or "utf-8"
            stream.write(answer.text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain once more on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _misused(found: str) -> Answer:
    error = AlignError(
        "Wrong usage.",
        object_name="command line",
        expected="diff or apply with --current DSN and --desired DSN",
        found=found,
        remedy="See --help.",
        code="usage",
    )
    return Answer(USAGE, {"result": "failed", "error": error.as_dict()}, f"{usage_text()}error: {found}\n")


def _interrupted() -> AlignError:
    return AlignError(
        "Interrupted.",
        object_name="the command",
        expected="to run to its end",
        found="an interrupt from the keyboard",
        remedy="What was not committed is undone; run again.",
        code="interrupted",
    )


def _defect(error: Exception) -> AlignError:
    return AlignError(
        "A defect of archon-align.",
        object_name="archon_align.schema",
        expected="no such error",
        found=type(error).__name__,
        remedy="Report it with the traceback above. What was not committed is undone.",
        code="defect",
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """The exit code, what --json prints, and what it prints otherwise."""

    code: int
    json: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class _Read:
    """One database and its structure."""

    session: Session
    catalog: Catalog
    option: str

    @property
    def side(self) -> Side:
        info = self.session.connection.info
        where = f"{info.user}@{info.host}:{info.port}/{info.dbname}"
        return Side(self.option, where, info.server_version)


def _failed(error: AlignError, code: int) -> Answer:
    told = {name: for_command(value) for name, value in error.as_dict().items()}
    if isinstance(error, Resumable):
        code = RESUMABLE
    result = {ROLLED_BACK: "rolled_back", RESUMABLE: "resumable"}.get(code, "failed")
    return Answer(code, {"result": result, "error": told}, f"error: {for_command(str(error))}\n")


class _Run:
    """One run of the command."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.page = Page(colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ)

    def answer(self) -> Answer:
        """Exit code, JSON, and text. Raises AlignError."""
        arguments = self.arguments
        decisions = _decisions(arguments.decisions)
        with ExitStack() as stack:
            current = stack.enter_context(self._connect("PROD (--current)", "--current", arguments.current))
            desired = stack.enter_context(self._connect("DEV (--desired)", "--desired", arguments.desired))
            if same_database(current, desired):
                raise _same(arguments)
            schemas = self._schemas(current, desired)
            self._progress("reading both catalogues")
            here, there = inspect_both(current, desired, schemas)
            _require_somewhere(schemas, here, there)
            prod, dev = _Read(current, here, "--current"), _Read(desired, there, "--desired")
            if arguments.reverse:
                prod, dev = dev, prod
            self._progress("planning")
            forward = self._direction(prod, dev, decisions)
            if arguments.plan is not None or arguments.out is not None:
                self._files(forward.made, prod, dev)
            if arguments.command == "apply":
                return self._apply(forward, prod, dev)
            return self._diff(forward, self._direction(dev, prod, Decisions()) if arguments.both else None)

    def _progress(self, text: str) -> None:
        # Whoever wants JSON may read both streams as one.
        if not self.arguments.json:
            print(f"{text} …", file=sys.stderr, flush=True)  # noqa: T201 - this is a command

    def _connect(self, name: str, option: str, given: str) -> Session:
        dsn = given
        if given.startswith(_ENVIRONMENT):
            variable = given.removeprefix(_ENVIRONMENT)
            dsn = os.environ.get(variable, "")
            option = f"the environment variable {variable} ({option})"
        return api.connect(
            dsn,
            name=name,
            setting=option,
            connect_timeout=self.arguments.connect_timeout,
            statement_timeout=self.arguments.statement_timeout,
        )

    def _schemas(self, *sessions: Session) -> tuple[str, ...]:
        if not self.arguments.all_schemas:
            return self.arguments.schemas
        names = (row["name"] for session in sessions for row in session.rows(_SCHEMAS))
        return tuple(dict.fromkeys(name for name in names if name != QUARANTINE))

    def _direction(self, prod: _Read, dev: _Read, decisions: Decisions) -> Direction:
        arguments = self.arguments
        made = api.plan(
            compare(dev.catalog, prod.catalog),
            prod.session,
            decisions=decisions,
            protected=arguments.protect or None,
            include=arguments.include,
            exclude=arguments.exclude,
            large_table_bytes=arguments.large_table_mb << 20,
        )
        return Direction(prod.side, dev.side, made, tuple(_empty(dev.catalog, prod.catalog)))

    def _files(self, made: Made, prod: _Read, dev: _Read) -> None:
        """Write plan.sql and plan.json if asked to; raises AlignError when a reviewed plan is another than this one."""
        inputs = {
            "schemas": prod.catalog.schemas,
            "protected": sorted(self.arguments.protect) or "every table",
            **made.choices.as_json(),
        }
        sources = {"dev": source_of(dev.session, dev.catalog), "prod": source_of(prod.session, prod.catalog)}
        plans = {"dev": {"statements": [], "stages": [], "refused": []}, "prod": as_json(made.plan)}
        document = bound(plans, sources, inputs)
        if self.arguments.out is not None:
            run = replace(prod.session.context.run, artifacts=self.arguments.out)
            run.write("plan.sql", render_sql(made.plan).encode())
            run.write("plan.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
        if self.arguments.plan is not None:
            require_same(load(self.arguments.plan), document, self.arguments.plan)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _diff(self, forward: Direction, backward: Direction | None) -> Answer:
        directions = [one for one in (forward, backward) if one is not None]
        code = max(_code(one) for one in directions)
        tell(self.page, forward)
        answer = forward.as_json()
        if backward is not None:
            self.page.add()
            self.page.add("the other direction", "title")
            tell(self.page, backward)
            answer["reverse"] = backward.as_json()
        return Answer(code, {"command": "diff", "result": _RESULTS[code], **answer}, self.page.text)

    def _apply(self, forward: Direction, prod: _Read, dev: _Read) -> Answer:
        made, page = forward.made, self.page
        tell(page, forward)
        answer = {"command": "apply", **forward.as_json()}
        begun: list[bool] = []
        aligned = api.Aligned(False, made.plan.comparison)
        try:
            if made.plan.every and not made.refused:
                self._progress(f"applying {counted(len(made.plan.every), 'statement')}")
            aligned = api.apply(
                prod.session,
                made,
                desired=dev.session,
                starting=lambda: begun.append(True),
                stage_timeout=self.arguments.stage_timeout,
            )
        except DecisionNeeded as error:
            if not made.refused:  # rows came in meanwhile
                told = Finding(error.code, "error", error.object_name, error.found, error.remedy)
                answer["refused"] = [told.as_dict()]
                page.add()
                page.add(for_command(str(error)), "error")
            return Answer(UNDECIDED, {**answer, **_outcome(aligned, forward, UNDECIDED)}, page.text)
        except StageFailed as error:
            aligned = api.Aligned(True, error.after or made.plan.comparison, tuple(error.proofs))
            failure = _failed(error, RESUMABLE)
            return replace(failure, json={**answer, **_outcome(aligned, forward, failure.code), **failure.json})
        except AlignError as error:
            if error.code == COMMIT_UNKNOWN:  # whether it was applied nobody knows: neither do we say so
                failure = _failed(error, RESUMABLE)
                return replace(failure, json={**answer, **failure.json})
            undone = begun and error.code not in _BEFORE_ANYTHING
            failure = _failed(error, ROLLED_BACK if undone else ERROR)
            return replace(failure, json={**answer, **_outcome(aligned, forward, failure.code), **failure.json})
        code = DIFFERENT if aligned.after.differences or forward.besides else ALIGNED
        page.add()
        if aligned.changed:
            page.add(f"{counted(len(made.plan.every), 'statement')} applied and proved", "good")
        else:
            page.add("nothing to apply")
        if code == DIFFERENT:
            tell_differences(page, aligned.after, forward.besides, "left")
        return Answer(code, {**answer, **_outcome(aligned, forward, code)}, page.text)


def _outcome(aligned: api.Aligned, direction: Direction, code: int) -> dict[str, Any]:
    """What `apply` adds to a direction's JSON."""
    left = differences_json(aligned.after) + direction.besides
    return {
        "result": "changed" if code == ALIGNED and aligned.changed else _RESULTS.get(code, "failed"),
        "applied": aligned.changed,
        "differences_after": len(left),
        "differences_left": left,
        "proofs": [proof.as_dict() for proof in aligned.proofs],
    }


def _code(direction: Direction) -> int:
    # What a decision sets aside is no difference, but something to be done all the same.
    to_do = direction.differences or direction.made.plan.every
    return UNDECIDED if direction.made.refused else DIFFERENT if to_do else ALIGNED


def _decisions(path: Path | None) -> Decisions:
    """The decisions of a YAML or JSON file, with or without the inventory's variable around them. Raises AlignError."""
    if path is None:
        return Decisions()
    try:
        given = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise _bad_file(path, error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _bad_file(path, " ".join(str(error).split())) from error
    if isinstance(given, Mapping) and set(given) == {VARIABLE}:
        given = given[VARIABLE]
    return Decisions.parse(given)


def _bad_file(path: Path, found: str) -> AlignError:
    return AlignError(
        "The decisions cannot be read.",
        object_name=str(path),
        expected="a YAML or JSON file as docs/phases/2-schema.md shows it",
        found=found,
        remedy="Correct the file or its path; nothing was changed.",
        code="bad_decision",
    )


def _require_somewhere(schemas: Sequence[str], here: Catalog, there: Catalog) -> None:
    nowhere = [
        name for name in schemas if not {Key(Kind.SCHEMA, "", name)} & (here.objects.keys() | there.objects.keys())
    ]
    if nowhere:
        raise AlignError(
            "A schema exists in neither database.",
            object_name=", ".join(f"schema {name}" for name in nowhere),
            expected="a schema that at least one of them has",
            found=f"PROD has {_names(here)}; DEV has {_names(there)}",
            remedy="Correct --schema, or the database in a DSN.",
            code="schema_missing",
        )


def _names(catalog: Catalog) -> str:
    return ", ".join(sorted(name for name in catalog.all_schemas if not name.startswith("pg_"))) or "none"


def _empty(dev: Catalog, prod: Catalog) -> Iterator[Finding]:
    """Aligning with nothing changes nothing, which must not look like success."""
    for name in dev.schemas:
        if not any(key.schema == name for key in dev.objects):
            number = sum(key.schema == name for key in prod.objects)
            yield Finding(
                "desired_empty",
                "warning",
                f"schema {name}",
                f"DEV has nothing in it, so nothing there can be aligned; PROD has {counted(number, 'object')}",
                "Make sure that the DSN of the model leads to the database you mean.",
            )


def _same(arguments: Arguments) -> AlignError:
    return AlignError(
        "Both DSNs lead to the same database.",
        object_name="--current and --desired",
        expected="two different databases",
        found="the same DSN" if arguments.current == arguments.desired else "two DSNs that lead to one database",
        remedy="Correct one of them.",
        code="same_database",
    )
