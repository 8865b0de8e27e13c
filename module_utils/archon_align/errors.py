"""Errors a person meets: what failed, on which object, what was expected, what was found, what to do next."""

from __future__ import annotations

from typing import ClassVar, Literal


class AlignError(Exception):
    """A foreseeable failure, told in the five parts that let a person act on it.

    Nothing in any part may be secret: the text reaches terminals, logs and reports. `status` is what the report calls a
    phase that ended this way. `cause` is the error that it began with, where this one tells of more than that.
    """

    cause: AlignError | None = None
    status: ClassVar[Literal["failed", "decision_needed", "resumable"]] = "failed"

    def __init__(
        self, what: str, *, object_name: str, expected: str, found: str, remedy: str, code: str = "error"
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.object_name = object_name
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        return (
            f"{self.what}\n  object:   {self.object_name}\n  expected: {self.expected}\n"
            f"  found:    {self.found}\n  remedy:   {self.remedy}"
        )

    def as_dict(self) -> dict[str, str]:
        """The five parts and the code, with string keys, for results and reports."""
        return {
            "code": self.code,
            "what": self.what,
            "object": self.object_name,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }


class ConnectionFailed(AlignError):
    """A database or service could not be reached or refused the log-in."""


class LockLost(AlignError):
    """The run lock on PROD is not held by this run."""


class GateRefused(AlignError):
    """The execution gate refused a statement; nothing of it was executed."""


class PreservationBroken(AlignError):
    """A protected row would have been lost or altered; the transaction was rolled back."""


class LockTimeout(AlignError):
    """The table locks were not to be had within the bounded number of tries."""


class DecisionNeeded(AlignError):
    """A machine must not decide this; the remedy names the variable to set."""

    status = "decision_needed"


class Resumable(AlignError):
    """Work stopped half-way with everything done so far verified and kept; the next run continues."""

    status = "resumable"
