"""Requests and answers in the shapes of FastAPI."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .rest import RestError

if TYPE_CHECKING:
    from .service import Service


class Refused(Exception):
    """An error answer: {"detail": …}."""

    def __init__(self, status: int, detail: object) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail


def failed(error: Exception) -> Refused:
    """The answer that most routes give for whatever went wrong."""
    return Refused(500, {"error": str(error)})


def invalid(kind: str, message: str, where: str, given: object, place: str = "body") -> Refused:
    """FastAPI's validation error."""
    return Refused(422, [{"type": kind, "loc": [place, where], "msg": message, "input": given}])


@dataclass(frozen=True)
class Field:
    """One field of a JSON body: its type, and its default unless it is required."""

    kind: type | tuple[type, ...]
    default: object = None
    required: bool = False


_NAMES = {str: "string", int: "int", bool: "bool", list: "list", dict: "dict"}


async def body_of(request: Request, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The body's fields with defaults filled in; unknown ones are dropped. Raises Refused with 422."""
    try:
        content = json.loads(await request.body() or b"null")
    except ValueError as error:
        raise Refused(
            422, [{"type": "json_invalid", "loc": ["body", 0], "msg": f"JSON decode error: {error}"}]
        ) from error
    if not isinstance(content, dict):
        raise Refused(422, [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": content}])
    found: dict[str, Any] = {}
    for name, wanted in fields.items():
        value = content.get(name)
        if name not in content:
            if wanted.required:
                raise invalid("missing", "Field required", name, content)
            found[name] = wanted.default
            continue
        kinds = wanted.kind if isinstance(wanted.kind, tuple) else (wanted.kind,)
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong and not (value is None and not wanted.required and wanted.default is None):
            label = _NAMES.get(kinds[0], kinds[0].__name__)
            raise invalid(f"{label}_type", f"Input should be a valid {label}", name, value)
        found[name] = value
    return found


def number(request: Request, name: str, default: int, highest: int | None = None) -> int:
    """A whole number of the query string. Raises Refused with 422."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError as error:
        raise invalid("int_parsing", "Input should be a valid integer", name, text, "query") from error
    if highest is not None and value > highest:
        raise invalid("less_than_equal", f"Input should be less than or equal to {highest}", name, text, "query")
    return value


def switch(request: Request, name: str, default: bool = False) -> bool:
    """A truth value of the query string."""
    text = request.query_params.get(name)
    return default if text is None else text.lower() in ("true", "1", "yes", "on")


Handler = Callable[[Request, "Service"], Awaitable[object]]


def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler that returns JSON-able content, as a Starlette endpoint; what it raises becomes an error answer."""

    async def answer(request: Request) -> Response:
        try:
            content = await handler(request, request.app.state.service)
        except Refused as refused:
            return JSONResponse({"detail": refused.detail}, refused.status)
        except RestError as error:
            return JSONResponse({"detail": {"error": str(error)}}, 500)
        return content if isinstance(content, Response) else JSONResponse(content)

    return answer


@dataclass(frozen=True)
class Tally:
    """A page of a list."""

    page: int
    per_page: int
    total: int = 0

    @property
    def pages(self) -> int:
        return -(-self.total // self.per_page) if self.per_page > 0 else 0

    @property
    def offset(self) -> int:
        return max(0, (self.page - 1) * self.per_page)
