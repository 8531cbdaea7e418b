"""Structured logs: one event a line, key=value on a console or JSON, UTC times."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

# Keys whose values never reach a log, whoever passes them.
_SECRET_WORDS = ("password", "secret", "token", "authorization", "api_key")


def configure_logs(log_format: Literal["console", "json"]) -> None:
    """Set up structlog and the standard library's root logger, to standard error.

    Args:
        log_format: ``console`` for people, ``json`` for machines.
    """
    renderer = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _hide_secrets,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )


def _hide_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "***"
    return event
