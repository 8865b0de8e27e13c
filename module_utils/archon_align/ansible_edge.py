"""The one file that knows Ansible: shared options, and core errors turned into fail_json."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from . import spool
from .errors import AlignError

# A run that is interrupted ends within two seconds. What a module cannot close by then, the server and the next run do.
_LEAVING_SECONDS = 1.2
# Packages that have another name than what is imported.
_PACKAGES = {"psycopg": "psycopg[binary]", "socketio": "python-socketio[client]", "yaml": "PyYAML"}

PHASE_OPTIONS: dict[str, dict[str, Any]] = {
    "run_id": {"type": "str", "required": True},
    "artifacts_dir": {"type": "path", "required": True},
    "prod_dsn": {"type": "str", "required": True, "no_log": True},
    "dev_dsn": {"type": "str", "required": True, "no_log": True},
    "schema_names": {"type": "list", "elements": "str", "default": ["public"]},
    "protected_tables": {"type": "list", "elements": "str", "default": []},
    "connect_timeout": {"type": "float", "default": 10.0},
    "statement_timeout": {"type": "float", "default": 300.0},
    "rollback_on_failure": {"type": "bool", "default": True},
}

SERVICE_OPTIONS: dict[str, dict[str, Any]] = {
    "base_url": {"type": "str", "required": True},
    "model": {"type": "str", "required": True},
    "dimensions": {"type": "int", "required": True},
    "timeout": {"type": "float", "default": 60.0},
    "token_file": {"type": "path", "no_log": False},
}

SERVICES_OPTIONS: dict[str, dict[str, Any]] = {
    "backend": {"type": "str", "choices": ["", "portainer", "engine", "none"], "default": ""},
    "stack": {"type": "str", "default": "archon-prod"},
    "portainer_url": {"type": "str", "default": ""},
    "portainer_api_key": {"type": "str", "default": "", "no_log": True},
    "portainer_username": {"type": "str", "default": ""},
    "portainer_password": {"type": "str", "default": "", "no_log": True},
    "portainer_ca_file": {"type": "str", "default": ""},
    "portainer_fingerprint": {"type": "str", "default": ""},
    "portainer_insecure": {"type": "bool", "default": False},
    "portainer_environment": {"type": "str", "default": ""},
    "engine_url": {"type": "str", "default": ""},
    "prod_url": {"type": "str", "default": ""},
    "application_ca_file": {"type": "str", "default": ""},
}

TEMPLATE_OPTIONS: dict[str, dict[str, Any]] = {
    "templates_conflicts": {"type": "dict", "default": {}},
    "templates_words": {"type": "dict", "default": {}},
}

SCHEMA_OPTIONS: dict[str, dict[str, Any]] = {
    "decisions": {"type": "dict", "default": {}},
    "include": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "large_table_mb": {"type": "int", "default": 1024},
}


def context_of(module: AnsibleModule, phase: str) -> Any:
    """The core's Context from a module's shared options. Protected tables can only be added to."""
    from .context import PROTECTED_TABLES, Context, Run
    from .database.target import Target

    options = module.params
    run = Run(options["run_id"], Path(options["artifacts_dir"]))
    if run.check != module.check_mode:
        raise AlignError(
            "The run was started in another mode.",
            object_name=f"run {run.id}",
            expected=f"check mode {run.check}",
            found=f"check mode {module.check_mode}",
            remedy="Do not set check_mode on single tasks; use --check for the whole run.",
            code="mode_mismatch",
        )
    return Context(
        run=run,
        prod=Target("PROD", options["prod_dsn"]),
        dev=Target("DEV", options["dev_dsn"]),
        phase=phase,
        schemas=tuple(options["schema_names"]),
        protected_names=tuple(dict.fromkeys((*PROTECTED_TABLES, *options["protected_tables"]))),
        connect_timeout=options["connect_timeout"],
        statement_timeout=options["statement_timeout"],
    )


def run_phase(
    module: AnsibleModule,
    phase: str,
    work: Callable[[Any], Any],
    *,
    ledger: str = "",
    exempt: bool = False,
    resumable: bool = False,
) -> dict[str, Any]:
    """The result of `work`, which runs `phase` in the context it is given; a phase that fails is undone (rollback.failure).

    An `exempt` phase keeps what it has done when it fails, a `resumable` one when it ends so.
    """
    from .rollback.failure import guarded

    context = context_of(module, phase)
    result: dict[str, Any] = guarded(
        context,
        lambda: work(context),
        roll_back=module.params["rollback_on_failure"] and not exempt,
        ledger=ledger,
        resumable=resumable,
    ).as_result()
    return result


def schema_options(module: AnsibleModule, **others: Any) -> Any:
    """The schema phase's Options from a module's options. Raises AlignError for what cannot be used."""
    from .schema.decisions import Decisions
    from .schema.phase import Options
    from .schema.scope import Scope

    given = module.params
    return Options(
        decisions=Decisions.parse(given["decisions"]),
        scope=Scope.parse(given["include"], given["exclude"]),
        large_table_bytes=given["large_table_mb"] << 20,
        **others,
    )


def template_options(module: AnsibleModule) -> Any:
    """The templates phase's Options from a module's options. Raises AlignError for what cannot be used."""
    from .templates.conflicts import Decisions
    from .templates.phase import Options
    from .templates.words import Words

    conflicts, words = (
        {str(key): str(value) for key, value in module.params[name].items()} for name in TEMPLATE_OPTIONS
    )
    return Options(Decisions(conflicts), Words(words))


def require_libraries(module: AnsibleModule, missing: ImportError | None) -> None:
    """Fail with the name of the missing Python package instead of a traceback."""
    if missing is not None:
        _fail(module, {}, _lacking(module, missing))


def _lacking(module: AnsibleModule, missing: ImportError) -> AlignError:
    imported = (missing.name or "").split(".")[0]
    package = _PACKAGES.get(imported, imported)
    return AlignError(
        "A Python package is missing where the module runs.",
        object_name=f"{module._name.rpartition('.')[2]} on {platform.node()}",
        expected=f"{package or 'the packages of requirements/runtime.txt'} for {sys.executable}",
        found=str(missing),
        remedy=(
            f"Copy requirements/runtime.txt to {platform.node()} and run there: {sys.executable} -m pip install -r runtime.txt; "
            "or set the host's ansible_python_interpreter to a Python that has the packages (docs/hosts.md)."
        ),
        code="package_missing",
    )


def _fail(module: AnsibleModule, run: dict[str, Any], error: AlignError) -> None:
    partial = {"status": error.status, **getattr(error, "partial_result", {})}
    module.fail_json(**{**run, **partial, "msg": str(error), "error": error.as_dict()})


def finish(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> None:
    """Run `work` and exit with its result; an AlignError becomes a failure that says what to do.

    A result with `error` and `msg` (see PhaseOutcome.error) fails too, and takes the rest of the result to the report.
    Every result names its run, by which the callback archon_report files it.
    """
    received = _leave_when_told()
    run = {name: module.params[name] for name in ("run_id", "artifacts_dir") if module.params.get(name)}
    if "artifacts_dir" in run:
        spool.hold(Path(run["artifacts_dir"]).parent)
    try:
        result = run | work()
    except AlignError as error:
        _fail(module, run, error)
    except ImportError as error:  # what only some of a module's work needs is loaded there
        _fail(module, run, _lacking(module, error))
    except KeyboardInterrupt:
        sys.exit(128 + received[0] if received else 1)
    if "error" in result:
        module.fail_json(**result)
    module.exit_json(**result)


def _leave_when_told() -> list[int]:
    """Make SIGINT (Ctrl-C) and SIGTERM (the keeper of a dead playbook) leave by the exits, so that all that was opened is closed.

    The list gets the signal. KeyboardInterrupt is what psycopg answers by cancelling the statement in the server.
    """
    received: list[int] = []

    def leave(number: int, _: object) -> None:
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)  # a second one must not cut short what the first has begun
        received.append(number)
        last = threading.Timer(_LEAVING_SECONDS, os._exit, (128 + number,))
        last.daemon = True
        last.start()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    return received
