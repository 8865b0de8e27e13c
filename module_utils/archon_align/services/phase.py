"""The services phase: see what the running Archon really uses, restart what has not seen what is stored, and test what it reaches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.run_lock import require_own_lock
from ..database.session import Session, open_session
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from . import environment, reach, stored, telling
from .deciding import Clocks, Decision, compare, decide, doubts, settling
from .effective import Effective, effective
from .foresight import foresee, tables_of
from .installation import SERVER, Found, Installation
from .judging import Expected, judge
from .opening import NONE, Opened, Where, opened
from .readiness import Readiness
from .restarting import restart
from .stack_change import change, photograph, planned
from .waiting import wait_for_restart

PHASE = "services"
Task = Literal["look", "align", "reachability"]
Mode = Literal["restart", "update", "report"]
# The Date header counts whole seconds: the true time is half a second later, give or take as much.
_DATE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What the run wants of the services.

    `changed` names the phases of this run that changed something (data, templates). `foreseen` are the settings that the data
    phase would have stored in check mode, `earlier` what an earlier task of this run told of the services. `environment` is wanted besides the embedding variables. Seconds.
    """

    task: Task
    mode: Mode
    where: Where
    expected: Expected
    readiness: Readiness = field(default_factory=Readiness)
    ready_timeout: float = 180.0
    environment: Mapping[str, object] = field(default_factory=dict, repr=False)
    changed: tuple[str, ...] = ()
    foreseen: Mapping[str, str] = field(default_factory=dict, repr=False)
    earlier: tuple[Mapping[str, Any], ...] = ()
    wait: bool = False
    probe_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class _Step:
    """What is to be done with one server: new variables for its stack, or a restart, or nothing."""

    found: Found
    decision: Decision
    planned: environment.EnvironmentPlan

    @property
    def needed(self) -> bool:
        return bool(self.decision.reason or self.planned.changes) and self.found.replicas > 0


def run(context: Context, options: Options) -> PhaseOutcome:
    """Carry out `options.task`. Raises AlignError when what has to be done cannot be, or a service does not become ready.

    `look` only sees whether what may have to be done can be; it raises before a run has changed anything, and in check mode or
    mode report it tells instead. `reachability` raises when nobody reaches the embedding service.
    """
    started = time.monotonic()
    wanted = environment.checked(options.environment)
    with ExitStack() as stack:
        if options.task == "look":
            outcome = _look(context, options, stack)
        else:
            session = stack.enter_context(open_session(context, context.prod, read_only=True))
            try:
                outcome = _Work(context, options, session, wanted).carry_out(stack)
            except psycopg.Error as error:
                raise server_error(context.prod, error, doing="reading the settings") from None
    outcome.seconds = time.monotonic() - started
    return outcome


def _installed(options: Options, stack: ExitStack, *, check: bool) -> tuple[Opened | None, list[Found]]:
    """PROD's installation and its services. Raises AlignError when it cannot be reached or there is no archon-server."""
    found = stack.enter_context(opened(options.where, check=check))
    if found is None:
        return None, []
    services = _services(found.installation)
    if not any(one.role == SERVER for one in services):
        raise AlignError(
            "There is no archon-server to be found.",
            object_name=f"stack {options.where.stack}",
            expected="a service or container of the stack whose name or image is archon-server",
            found=", ".join(one.name for one in services) or "no service at all",
            remedy="Set archon_prod_stack to the stack's (or compose project's) name.",
            code="no_archon_server",
        )
    return found, services


def _services(installation: Installation) -> list[Found]:
    return sorted(installation.services(), key=lambda one: one.name)


def _look(context: Context, options: Options, stack: ExitStack) -> PhaseOutcome:
    findings: list[Finding] = []
    services: list[Found] = []
    try:
        _, services = _installed(options, stack, check=True)
        findings += telling.not_running(services)
    except AlignError as error:
        if not context.check and options.mode != "report":
            error.remedy += (
                " Or set archon_services_backend: none, and restart archon-server by hand. Nothing was changed."
            )
            raise
        consequence = (
            "A run would stop here, before it changes anything."
            if options.mode != "report"
            else "Nothing is restarted."
        )
        findings.append(telling.unreached(error, "error", consequence=consequence))
    details = telling.section(backend=options.where.chosen, stack=options.where.stack, services=services)
    return PhaseOutcome(PHASE, "aligned", findings=findings, details=details)


class _Work:
    """One look at the database and the services, and what follows from it."""

    def __init__(self, context: Context, options: Options, session: Session, wanted: Mapping[str, str]) -> None:
        self.context = context
        self.options = options
        self.session = session
        self.wanted = wanted
        self.backend = options.where.chosen
        self.findings: list[Finding] = []
        self.restarted: list[str] = []
        self.ready: dict[str, bool] = {}
        self.new_variables: dict[str, list[str]] = {}
        self.foreseen_environment: dict[str, dict[str, str]] = {}
        self.readiness = options.readiness
        self.changed_here = tables_of(options.changed, context.schemas[0])
        self.stored = stored.read(session)
        if context.check:
            self.stored = foresee(self.stored, options.foreseen, self.changed_here)

    def carry_out(self, stack: ExitStack) -> PhaseOutcome:
        found: Opened | None = None
        services: list[Found] = []
        clocks = Clocks(0.0, 0.0)
        try:
            found, services = _installed(self.options, stack, check=self._reads_only)
            if found is not None:
                clocks = self._clocks(found.installation)
        except AlignError as error:
            self._not_installed(error)
        if self.options.task == "reachability":
            return self._reachability(found, services, clocks)
        self.findings += telling.not_running(services)
        self.findings += doubts(self.stored.changed, self.changed_here)
        if sum(1 for one in services if one.role == SERVER) > 1:
            self.readiness = Readiness()  # one address cannot tell which of them is ready: each is asked from inside
        steps = [self._step(one, clocks, found) for one in services if one.role == SERVER]
        due = [step for step in steps if step.needed]
        if found is None:
            self._by_hand()
        elif self.options.mode == "report":
            for step in due:
                why = step.decision.reason or "its environment is to be changed"
                self.findings.append(telling.restart_by_hand(step.found.name, why, check=self.context.check))
        elif not self.context.check:
            for step in due:
                self._do(step, found, clocks)
        else:
            self._predict(due)
        if self.restarted and found is not None and not self.context.check:
            services = _services(found.installation)
        return self._outcome(found, services, clocks, steps)

    @property
    def _reads_only(self) -> bool:
        return self.context.check or self.options.mode == "report" or self.options.task == "reachability"

    def _not_installed(self, error: AlignError) -> None:
        """Nobody can be restarted: a failure when somebody has to be, and otherwise something to know."""
        if self.changed_here and not self._reads_only:
            raise telling.cannot_restart(error, self.context) from error
        severity: Literal["error", "warning"] = "error" if self.context.check else "warning"
        self.findings.append(
            telling.unreached(
                error, severity, consequence="Whether archon-server has seen what is stored is not known."
            )
        )
        if self.changed_here:
            self._by_hand()

    def _clocks(self, installation: Installation) -> Clocks:
        asked = time.monotonic()
        engine = installation.engine.now()
        answered = time.monotonic()
        return compare(
            engine + timedelta(seconds=_DATE_SECONDS),
            self.stored.now,
            elapsed=answered - self.stored.read_at,
            engine_uncertainty=_DATE_SECONDS + (answered - asked),
            database_uncertainty=self.stored.uncertainty,
        )

    def _used(self, found: Found | None, clocks: Clocks) -> Effective:
        started = clocks.by_database(found.started_at) if found and found.started_at else None
        return effective(self.stored.settings, self._environment_of(found), started=started, now=self.stored.now)

    def _step(self, found: Found, clocks: Clocks, where: Opened | None) -> _Step:
        decision = decide(
            found.started_at, self.stored.changed, clocks, self.stored.now, changed_here=self.changed_here
        )
        planned = environment.EnvironmentPlan(found.name)
        if self.options.mode == "update" and where is not None:
            planned = self._environment(found, where)
            self.findings += planned.findings
        return _Step(found, decision, planned)

    def _environment(self, found: Found, where: Opened) -> environment.EnvironmentPlan:
        expected = self.options.expected
        wanted = {
            "EMBEDDING_PROVIDER": expected.provider,
            "EMBEDDING_BASE_URL": expected.base_url,
            "EMBEDDING_MODEL": expected.model,
            "EMBEDDING_DIMENSIONS": str(expected.dimensions),
            **self.wanted,
        }
        return planned(where.kept, found, wanted)

    def _do(self, step: _Step, where: Opened, clocks: Clocks) -> None:
        require_own_lock(self.session)
        options, found, changes = self.options, step.found, step.planned.changes
        kept = where.kept if changes else None
        now = photograph(kept) if kept else None
        readiness = self._readiness(found)
        waited = time.monotonic() - self.stored.read_at
        time.sleep(max(0.0, settling(step.decision, clocks, self.stored.now) - waited))
        self.session.progress(f"restarting {found.name}")
        if kept and now:
            change(kept, found, changes, readiness, before=now, seconds=options.ready_timeout)
            self.new_variables[found.key] = [one.variable for one in changes]
        else:
            restart(
                where.installation,
                found,
                readiness,
                seconds=options.ready_timeout,
                undo=telling.undo_data(self.context),
            )
        self.restarted.append(found.key)
        self.ready[found.key] = True

    def _readiness(self, found: Found) -> Readiness:
        """How to see that it is ready: not by an address that does not even lead to the server that runs now."""
        said = self.readiness.by_http() if self.readiness.url and found.running else ""
        if not said:
            return self.readiness
        self.findings.append(
            Finding(
                "prod_url_not_answering",
                "warning",
                "archon_prod_url",
                f"Before its restart {found.name} was running and the address did not say that it is ready ({said}), so after the "
                "restart it was asked from inside its container.",
                "Correct archon_prod_url, or see why archon-server is not reached there.",
            )
        )
        return Readiness()

    def _predict(self, due: Sequence[_Step]) -> None:
        for step in due:
            self.restarted.append(step.found.key)
            self.new_variables[step.found.key] = [one.variable for one in step.planned.changes]
            self.foreseen_environment[step.found.key] = {one.key: one.after for one in step.planned.changes}

    def _environment_of(self, found: Found | None) -> Mapping[str, str] | None:
        return {**found.environment, **self.foreseen_environment.get(found.key, {})} if found else None

    def _by_hand(self) -> None:
        """Nobody restarts it: say so when this run has changed what it keeps in memory, and wait for it where that is asked for."""
        if not self.changed_here:
            return
        why = f"this run has changed {', '.join(self.changed_here)}"
        finding = telling.restart_by_hand("archon-server", why, check=self.context.check)
        if self.options.wait and not self.context.check and self.backend == NONE:
            self.findings += wait_for_restart(self.options.readiness, finding, seconds=self.options.ready_timeout)
        else:
            self.findings.append(finding)

    def _tested(self, found: Opened | None, server: Found | None, used: Effective) -> list[reach.Tested]:
        return reach.test(
            found.installation.engine if found else None,
            server.container_id if server else "",
            reach.calls(used),
            seconds=self.options.probe_timeout,
        )

    def _reachability(self, found: Opened | None, services: Sequence[Found], clocks: Clocks) -> PhaseOutcome:
        server = next((one for one in services if one.role == SERVER), None)
        tested = self._tested(found, server, self._used(server, clocks))
        self.findings += reach.findings(tested, server.name if server else "archon-server")
        details = telling.section(
            backend=self.backend, stack=self.options.where.stack, services=services, tested=tested
        )
        error = reach.nobody(tested)
        status: Status = "failed" if error else "aligned"
        return PhaseOutcome(PHASE, status, findings=self.findings, details=details, error=error)

    def _outcome(
        self, found: Opened | None, services: Sequence[Found], clocks: Clocks, steps: Sequence[_Step]
    ) -> PhaseOutcome:
        servers = [one for one in services if one.role == SERVER]
        name = servers[0].name if servers else "archon-server"
        used = self._used(servers[0] if servers else None, clocks)
        about_all: list[Found | None] = [*servers] or [None]
        for server in about_all:
            about = self._used(server, clocks)
            known = self._environment_of(server)
            self.findings += judge(about, self.options.expected, known, service=server.name if server else name)
        tested = self._tested(found, servers[0] if servers else None, used)
        self.findings += reach.findings(tested, name, expected_here=self.backend == NONE)
        if len(servers) == 1 and servers[0].key not in self.ready and self.readiness.url:
            self.ready[servers[0].key] = not self.readiness.by_http()
        status: Status = "aligned"
        if self.restarted:
            status = "drift" if self.context.check else "changed"
        return PhaseOutcome(
            PHASE,
            status,
            changed=bool(self.restarted),
            findings=self.findings,
            diff=[item for step in steps if step.found.key in self.restarted for item in _diff(step)],
            details=telling.section(
                backend=self.backend,
                stack=self.options.where.stack,
                services=services,
                restarted=self.restarted,
                ready=self.ready,
                environment_changed=self.new_variables,
                earlier=self.options.earlier,
                used=used,
                tested=tested,
            ),
        )


def _diff(step: _Step) -> list[dict[str, str]]:
    started = step.found.started_at
    header = f"service {step.found.name}"
    told = [
        {
            "before_header": header,
            "after_header": header,
            "before": f"started {started:%Y-%m-%d %H:%M:%S}\n" if started else "not started\n",
            "after": f"restarted, because {step.decision.reason or 'its environment changes'}\n",
        }
    ]
    return [*told, step.planned.diff()] if step.planned.changes else told
