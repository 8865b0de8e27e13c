"""How an embedding request can fail, by what can be done about it."""

from __future__ import annotations

from ..errors import AlignError, ConnectionFailed


class ServiceUnavailable(ConnectionFailed):
    """Refused, reset, timed out, overloaded or cut short: worth another try, and no text is to blame."""


class ServiceUnusable(AlignError):
    """The service answers, but will never answer rightly as it is configured: another try gains nothing."""


class RequestRejected(AlignError):
    """The service refused this request or answered it wrongly: one of its texts may be to blame."""


class RequestTooLong(RequestRejected):
    """A text of this request exceeds what the model reads at once; the service does not say which."""


class SearchBroken(AlignError):
    """Search was tried as Archon does it and does not give what it must."""
