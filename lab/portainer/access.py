"""Who may do what at Portainer: log-in, sessions, API keys, the auth cookie and its CSRF tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .faults import Lab
from .store import Store, User, digest

SESSION_SECONDS = 8 * 3600
AUTH_COOKIE = "portainer_api_key"
CSRF_COOKIE = "_gorilla_csrf"
CSRF_HEADER = "X-CSRF-Token"
_COOKIES_SINCE = (2, 20)
_SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")


class Problem(Exception):
    """An error of Portainer itself: status, message and details."""

    def __init__(self, status: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details or message

    def response(self) -> Response:
        return JSONResponse({"message": self.message, "details": self.details}, self.status)


@dataclass(frozen=True)
class Caller:
    """Who asks, and by what it was recognised."""

    user: User
    by: str  # api_key, cookie or bearer

    @property
    def is_admin(self) -> bool:
        return self.user.role == 1


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Access:
    """Sessions are JSON web tokens signed with the lab's secret, so they outlive a restart."""

    def __init__(self, store: Store, lab: Lab) -> None:
        self._store = store
        self._lab = lab

    @property
    def _modern(self) -> bool:
        return self._lab.faults.number >= _COOKIES_SINCE

    def _signature(self, text: str) -> str:
        return _encode(hmac.digest(self._store.secret, text.encode(), hashlib.sha256))

    def token(self, user: User) -> str:
        """A session for this user."""
        claims = {"id": user.id, "username": user.name, "role": user.role, "scope": "default", "exp": int(time.time()) + SESSION_SECONDS}  # fmt: skip
        text = ".".join(_encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{text}.{self._signature(text)}"

    def _session(self, token: str) -> User | None:
        text, _, signature = token.rpartition(".")
        if self._lab.faults.token_expired or not hmac.compare_digest(
            signature.encode(), self._signature(text).encode()
        ):
            return None
        body = text.partition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return self._store.user(claims["id"]) if claims["exp"] > time.time() else None

    def _by_key(self, key: str) -> User | None:
        if self._lab.faults.api_key_revoked:
            return None
        return next((user for user in self._store.users if digest(key) in user.keys), None)

    def csrf(self, request: Request) -> Response | None:
        """The CSRF layer before everything else: an answer when it refuses the request. Its words are no JSON."""
        if not self._modern:
            return None
        headers, cookies = request.headers, request.cookies
        if not cookies.get(AUTH_COOKIE):
            if headers.get("X-API-Key") and headers.get("Authorization"):
                text = "api key and auth header are not allowed at the same time"
                return Problem(403, text).response()
            return None
        if request.method in _SAFE:
            return None
        token, cookie = headers.get(CSRF_HEADER, ""), cookies.get(CSRF_COOKIE, "")
        reason = "CSRF token not found in request" if not token else ""
        if token and not (cookie and hmac.compare_digest(token.encode(), self._signature(cookie).encode())):
            reason = "CSRF token invalid"
        return PlainTextResponse(f"Forbidden - {reason}\n", 403) if reason else None

    def give_csrf(self, request: Request, response: Response) -> None:
        """Every good answer carries a token that belongs to a cookie."""
        if not self._modern or not 200 <= response.status_code < 300:
            return
        cookie = request.cookies.get(CSRF_COOKIE)
        if not cookie:
            cookie = secrets.token_urlsafe(24)
            response.set_cookie(CSRF_COOKIE, cookie, path="/", httponly=True, samesite="lax")
        response.headers[CSRF_HEADER] = self._signature(cookie)

    def caller(self, request: Request) -> Caller:
        """Who asks. Raises Problem with 401."""
        headers = request.headers
        bearer = headers.get("Authorization", "").removeprefix("Bearer ")
        found = {
            "api_key": (headers.get("X-API-Key", ""), self._by_key),
            "cookie": (request.cookies.get(AUTH_COOKIE, "") if self._modern else "", self._session),
            "bearer": (bearer, self._session),
        }
        if not self._modern:
            return self._old_caller(found)
        for by, (given, look_up) in found.items():
            if given:
                # The first that is there decides, even when a later one would do.
                if user := look_up(given):
                    return Caller(user, by)
                raise Problem(401, "Invalid JWT token", "Unauthorized")
        raise Problem(401, "A valid authorization token is missing", "Unauthorized")

    @staticmethod
    def _old_caller(found: Mapping[str, tuple[str, object]]) -> Caller:
        for by in ("bearer", "api_key"):
            given, look_up = found[by]
            if given and callable(look_up) and (user := look_up(given)):
                return Caller(user, by)
        raise Problem(401, "A valid authorisation token is missing", "Unauthorized")

    def log_in(self, name: str, password: str) -> Response:
        """The answer to a log-in: a session, in the body and as a cookie. Raises Problem."""
        user = self._store.log_in(name, password)
        if user is None:
            raise Problem(422, "Invalid credentials", "Unauthorized")
        token = self.token(user)
        response = JSONResponse({"jwt": token})
        if self._modern:
            response.set_cookie(AUTH_COOKIE, token, max_age=SESSION_SECONDS, path="/", httponly=True, samesite="strict")
        return response
