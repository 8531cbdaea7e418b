"""Errors of the local stack.

::

    CcaasError
    ├── ConfigurationError
    │   └── PortTakenError   a port that was asked for is in use
    └── StackError           a part of the local stack does not do what it should
        ├── ArtifactError    a download is missing, unreachable or not what the lock file pins
        │   └── DownloadCancelledError  another download failed, or Ctrl-C was pressed
        └── StartError       a process ended or stayed unhealthy; the message ends with its log's last lines
"""

from __future__ import annotations

from streaming.errors import CcaasError, ConfigurationError


class PortTakenError(ConfigurationError):
    """A port that was asked for is in use. The message names the port, its holder if known, and what to change."""


class StackError(CcaasError):
    """A part of the local stack does not do what it should."""


class ArtifactError(StackError):
    """A download is unreachable or is not the file that the lock pins."""


class DownloadCancelledError(ArtifactError):
    """The download was given up because another one failed or Ctrl-C was pressed."""


class StartError(StackError):
    """A process ended while starting, or did not become healthy in time."""
