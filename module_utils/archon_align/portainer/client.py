"""Portainer's API as archon-align uses it: it reads, restarts services, and changes a stack's variables when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..docker.engine import PROBING, READING, Engine
from ..errors import AlignError
from ..web.trust import Trust
from ..web.wire import Allowed, Reply, Server, Unreachable, Wire, bad_answer
from .objects import Environment, Stack, Status, environment_of, stack_of

# What check mode sends: what reads, and the log-in. The exec is for the reachability probe (see docker.engine).
ALLOWED_IN_CHECK = (
    Allowed("POST", "/auth"),
    Allowed("GET", "/(system/)?status"),
    Allowed("GET", "/endpoints(/[0-9]+)?"),
    Allowed("GET", "/stacks(/[0-9]+(/file)?)?"),
    *(Allowed(one.method, f"/endpoints/[0-9]+/docker{one.path}") for one in (*READING, *PROBING)),
)
_PAGE = 50
_MOST_PAGES = 200
# An environment comes with its newest snapshot.
_PAGE_BYTES = 64 << 20
_TRIES = 3
_PAUSE_SECONDS = 0.5
_BUSY = (502, 503, 504)
_DEPLOY_SECONDS = 300.0
# Shorter values are words like `true`, whose replacement would only make a message unreadable.
_SECRET_LENGTH = 5


def without(text: str, secrets: Iterable[str]) -> str:
    """`text` without these values; a deployment's error may quote the variables that it was given."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SECRET_LENGTH:
            text = text.replace(secret, "(not shown)")
    return text


class PortainerRefused(AlignError):
    """Portainer answered with an error. `http_status` is HTTP's."""

    def __init__(
        self, reply: Reply, what: str, *, expected: str = "success", remedy: str = "", secrets: Iterable[str] = ()
    ) -> None:
        super().__init__(
            what,
            object_name=reply.where,
            expected=expected,
            found=f"{reply.status}: {without(reply.message(), secrets)}",
            remedy=remedy or "See Portainer's own message, and whether this user may do that.",
            code={401: "not_logged_in", 403: "forbidden", 404: "not_found"}.get(reply.status, "portainer_refused"),
        )
        self.http_status = reply.status


def environment_missing(wanted: str, known: Iterable[str]) -> AlignError:
    return AlignError(
        "Portainer has no environment of that name.",
        object_name=f"Portainer environment {wanted}",
        expected="an environment that this user may see",
        found=", ".join(known) or "none",
        remedy="Correct the name, or let this user see the environment.",
        code="environment_missing",
    )


@dataclass(frozen=True, slots=True)
class Access:
    """How Portainer is reached: by an API key, or by user name and password. Seconds."""

    url: str = field(repr=False)
    api_key: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    trust: Trust = field(default_factory=Trust)
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if "@" in urlsplit(self.url).netloc:
            raise AlignError(
                "Portainer's address holds a user or a password.",
                object_name="archon_portainer_url",
                expected="a URL like https://host:9443",
                found="one with a user in it, which would be sent besides Portainer's own credentials and be refused",
                remedy="Take them out of the URL; give an API key, or archon_portainer_username and archon_portainer_password.",
                code="bad_variable",
            )
        if not self.api_key and not (self.username and self.password):
            raise AlignError(
                "There is nothing to log in to Portainer with.",
                object_name="archon_portainer_api_key",
                expected="an API key, or user name and password",
                found="a user name without a password" if self.username else "neither",
                remedy="Make an API key in Portainer (My account, Access tokens) and give it by Vault or the environment.",
                code="no_credentials",
            )


class Portainer:
    """A context manager. In check mode only ALLOWED_IN_CHECK goes out."""

    def __init__(self, access: Access, *, check: bool) -> None:
        self.access = access
        base = access.url.rstrip("/").removesuffix("/api") + "/api"
        server = Server("Portainer", base, timeout=access.timeout, trust=access.trust)
        self._wire = Wire(server, allowed=ALLOWED_IN_CHECK if check else None)
        self._token = ""
        self._logging_in = threading.Lock()

    def __enter__(self) -> Portainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def status(self) -> Status:
        """Which Portainer this is; needs no log-in. Raises AlignError when it is none, at once when it cannot be reached."""
        reply = _patient(lambda: self._wire.send("GET", "/system/status"), unreachable=False)
        if reply.status in (401, 404):  # an older one
            reply = _patient(lambda: self._wire.send("GET", "/status"), unreachable=False)
        if not reply.ok:
            raise PortainerRefused(reply, "Portainer does not say which version it is.")
        found = reply.json()
        if not isinstance(found, dict) or "Version" not in found:
            raise bad_answer(reply.where, "a Version", "none, so this is not Portainer")
        return Status(str(found["Version"]), str(found.get("InstanceID", "")))

    def environments(self) -> list[Environment]:
        """All environments that this user may see, page by page."""
        found: dict[int, Environment] = {}
        seen = 0
        for _ in range(_MOST_PAGES):
            reply = self._read("/endpoints", start=seen + 1, limit=_PAGE)  # counts from 1
            items = self._list(reply)
            known = len(found)
            found.update((one.id, one) for one in (self._shaped(reply, item, environment_of) for item in items))
            seen += len(items)
            count = reply.headers.get("x-total-count", "")
            complete = seen >= int(count) if count.isdecimal() else len(items) < _PAGE
            if complete or len(found) == known:
                break
        return sorted(found.values(), key=lambda one: one.id)

    def stacks(self) -> list[Stack]:
        """All stacks, of whatever kind. A filter by environment would leave out Swarm's."""
        reply = self._read("/stacks")
        return [self._shaped(reply, item, stack_of) for item in self._list(reply)]

    def stack(self, stack_id: int) -> Stack:
        reply = self._read(f"/stacks/{stack_id}")
        return self._shaped(reply, reply.json(), stack_of)

    def find_stack(self, name: str, environment: str = "") -> Stack:
        """The one stack of that name, in the environment of that name if one is given.

        Raises AlignError when there is none or more than one, naming what there is.
        """
        known = self.stacks()
        names = {}
        if environment or sum(one.name == name for one in known) > 1:
            names = {one.id: one.name for one in self.environments()}
        if environment:
            if environment not in names.values():
                raise environment_missing(environment, names.values())
            known = [one for one in known if names.get(one.environment_id) == environment]
        found = [one for one in known if one.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            told = ", ".join(
                f"{one.id} in environment {names.get(one.environment_id, one.environment_id)}" for one in found
            )
            remedy = "Set archon_portainer_environment to the name of the environment that is meant."
        else:
            told = ", ".join(sorted({one.name for one in known})) or "no stack at all that this user may see"
            remedy = "Set archon_prod_stack and archon_dev_stack to their names, or let this user see them."
        raise AlignError(
            "There is more than one stack of that name." if found else "There is no stack of that name.",
            object_name=f"Portainer stack {name}{f' in environment {environment}' if environment else ''}",
            expected="one stack",
            found=told,
            remedy=remedy,
            code="stack_not_unique" if found else "stack_missing",
        )

    def stack_file(self, stack_id: int) -> str:
        reply = self._read(f"/stacks/{stack_id}/file")
        found = reply.json()
        content = found.get("StackFileContent") if isinstance(found, dict) else None
        if not isinstance(content, str) or not content:
            raise bad_answer(reply.where, "the stack's file", "none")
        return content

    def update_stack(self, stack: Stack, environment: Mapping[str, str], file: str) -> Stack:
        """Deploy `file` with exactly these variables. Raises AlignError.

        Before anything is sent it refuses a stack from git, and a list of variables or a file that is empty.
        """
        if stack.from_git:
            raise AlignError(
                "A stack from git is not written to.",
                object_name=f"Portainer stack {stack.name}",
                expected="a stack whose file Portainer itself holds",
                found="one that Portainer takes from git, which writing to it would detach for good",
                remedy="Redeploy it from git with these variables, or change them in its repository.",
                code="stack_from_git",
            )
        if not file.strip() or (stack.environment and not environment):
            raise AlignError(
                "A stack would lose everything that it has.",
                object_name=f"Portainer stack {stack.name}",
                expected="its whole file and all of its variables, which Portainer replaces as they are given",
                found="an empty file" if environment or not stack.environment else "no variables",
                remedy="Nothing was sent. This is an error of archon-align.",
                code="stack_incomplete",
            )
        body = {"StackFileContent": file, "Env": _pairs(environment), "Prune": False, "PullImage": False}
        return self._deployed(stack, f"/stacks/{stack.id}", body)

    def redeploy_git(self, stack: Stack, environment: Mapping[str, str]) -> Stack:
        """Deploy what the stack's repository holds, with exactly these variables; it stays bound to git. Raises AlignError."""
        # Portainer keeps the password that it has when none is sent, but not the user.
        user = str(((stack.raw.get("GitConfig") or {}).get("Authentication") or {}).get("Username") or "")
        body = {
            "RepositoryReferenceName": stack.git_reference,
            "RepositoryAuthentication": bool((stack.raw.get("GitConfig") or {}).get("Authentication")),
            "RepositoryUsername": user,
            "Env": _pairs(environment),
            "Prune": False,
            "PullImage": False,
        }
        return self._deployed(stack, f"/stacks/{stack.id}/git/redeploy", body)

    def _deployed(self, stack: Stack, path: str, body: dict[str, Any]) -> Stack:
        reply = self._send("PUT", path, params={"endpointId": stack.environment_id}, json=body, timeout=_DEPLOY_SECONDS)
        if not reply.ok:
            values = [*stack.environment.values(), *(pair["value"] for pair in body["Env"])]
            raise PortainerRefused(reply, f"Stack {stack.name} could not be deployed.", secrets=values)
        return self._shaped(reply, reply.json(), stack_of)

    def force_update(self, environment_id: int, service_id: str, *, pull: bool = False) -> None:
        """Start a service's tasks anew. Returns when Swarm has accepted it, not when they run. Raises PortainerRefused."""
        path = f"/endpoints/{environment_id}/forceupdateservice"
        reply = self._send("PUT", path, json={"ServiceID": service_id, "PullImage": pull}, timeout=60)
        if not reply.ok:
            raise PortainerRefused(reply, "A service could not be restarted.")

    def engine(self, environment_id: int) -> Engine:
        """The Docker engine behind an environment."""
        return Engine(self._wire, f"/endpoints/{environment_id}/docker", send=self._send)

    def _read(self, path: str, **params: int) -> Reply:
        reply = _patient(lambda: self._send("GET", path, params=params, limit=_PAGE_BYTES))
        if not reply.ok:
            raise PortainerRefused(reply, "Portainer did not tell.")
        return reply

    def _send(self, method: str, path: str, **arguments: Any) -> Reply:
        """One request as the user that was given; a session that has ended is begun again, once."""
        reply = self._wire.send(method, path, headers=self._credentials(), **arguments)
        if reply.status != 401:
            return reply
        if self.access.api_key:
            raise PortainerRefused(
                reply,
                "Portainer does not accept the API key.",
                expected="a valid API key",
                remedy="Make a new one in Portainer (My account, Access tokens); it may have been revoked.",
            )
        self._token = ""
        reply = self._wire.send(method, path, headers=self._credentials(), **arguments)
        if reply.status == 401:
            raise PortainerRefused(reply, "Portainer does not accept the session that it has just given.")
        return reply

    def _credentials(self) -> dict[str, str]:
        # Never both: Portainer refuses a request with a key and a session.
        if self.access.api_key:
            return {"X-API-Key": self.access.api_key}
        with self._logging_in:
            if not self._token:
                self._token = self._log_in()
            return {"Authorization": f"Bearer {self._token}"}

    def _log_in(self) -> str:
        body = {"Username": self.access.username, "Password": self.access.password}
        reply = self._wire.send("POST", "/auth", json=body)
        if reply.status in (401, 422):
            raise PortainerRefused(
                reply,
                "Portainer refuses the log-in: wrong user or password.",
                expected=f"the right password of user {self.access.username}",
                remedy="Correct archon_portainer_username and archon_portainer_password; an API key serves as well.",
            )
        if not reply.ok:
            raise PortainerRefused(reply, "Portainer's log-in failed.")
        found = reply.json()
        token = found.get("jwt") if isinstance(found, dict) else None
        if not isinstance(token, str) or not token:
            raise bad_answer(reply.where, "a session (jwt)", "none")
        return token

    @staticmethod
    def _list(reply: Reply) -> list[Any]:
        found = reply.json()
        if found is not None and not isinstance(found, list):
            raise bad_answer(reply.where, "a list", type(found).__name__)
        return found or []

    @staticmethod
    def _shaped[Shape](reply: Reply, given: Any, shape: Callable[[Mapping[str, Any]], Shape]) -> Shape:
        try:
            return shape(given)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise bad_answer(reply.where, "an object in Portainer's shape", type(error).__name__) from None


def _pairs(environment: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in environment.items()]


def _patient(ask: Callable[[], Reply], *, unreachable: bool = True) -> Reply:
    """The reply, asked for again while the server is busy, or not reached."""
    for attempt in range(1, _TRIES):
        try:
            reply = ask()
            if reply.status not in _BUSY:
                return reply
        except Unreachable as error:
            if not unreachable or error.code == "tls_untrusted":
                raise
        time.sleep(_PAUSE_SECONDS * attempt)
    return ask()
