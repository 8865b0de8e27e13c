"""A small server's certificate, as the tests of the HTTP client have it."""

from tests.unit.web.test_web_wire import certificate

__all__ = ["certificate"]
