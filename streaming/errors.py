"""Errors of the platform.

::

    CcaasError
    ├── ConfigurationError      a setting is wrong; a person must mend it
    ├── BadEventError           the event is bad: dead letter at once, the next goes on
    ├── ServiceUnavailableError a service is down: pause, retry with backoff, never a dead letter
    ├── UntrustedError          trust is in doubt (signature): set aside or refuse
    └── FencedError             another process holds the lease now: stop, it goes on there
"""

from __future__ import annotations


class CcaasError(Exception):
    """Base of all."""


class ConfigurationError(CcaasError):
    """A setting is missing or wrong. The message names the field, the file and the remedy."""


class BadEventError(CcaasError):
    """An event can't become canonical whatever one does again: unparsable, core field missing or of the wrong type.

    Attributes:
        reason: short, stable word for grouping (``unparsable``, ``missing_field``, ``wrong_type``, …).
        path: path of the field in the vendor's payload, empty if the payload as a whole is meant.
    """

    def __init__(self, message: str, *, reason: str, path: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path


class ServiceUnavailableError(CcaasError):
    """Kafka, the registry, a vendor or a database does not answer for now."""


class UntrustedError(CcaasError):
    """A signature or token does not prove who sent the request."""


class FencedError(CcaasError):
    """The lease under which this process worked is held by another now."""
