"""What the load flows share: the window from the run's scheduled time, and what a person sees in the UI."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from streaming.errors import ConfigurationError, ServiceUnavailableError
from warehouse.ledger import LoadResult
from warehouse.windows import Window

_SHOWN_EVERY_S = 2.0

retry_while_down = retry(
    retry=retry_if_exception_type(ServiceUnavailableError),
    stop=stop_after_attempt(3),
    wait=wait_fixed(15),
    reraise=True,
)
"""A load is tried again while the warehouse is busy or down; not for a wrong window, which no retry mends."""


def run_id() -> str:
    """The Prefect run's id, for the warehouse's ledger."""
    return str(flow_run.id)


def scheduled_time() -> datetime:
    """When the run was due, UTC; never the clock, so that a late run loads the same window."""
    # A plain datetime: Prefect's is of a subclass whose differences don't divide by a timedelta.
    return datetime.fromtimestamp(flow_run.scheduled_start_time.timestamp(), UTC)


def window_of(start: datetime | None, end: datetime | None) -> Window | None:
    """The window that a person asked for; None if the run is by arrival.

    Raises:
        ConfigurationError: only one bound is given.
        WindowError: the bounds have no time zone, are the other way round or both in the future.
    """
    if start is None and end is None:
        return None
    if start is None or end is None:
        msg = "give both start and end (UTC, half-open), or neither: then what is new is loaded"
        raise ConfigurationError(msg)
    window = Window(start, end)
    window.require_begun(datetime.now(UTC))
    return window


def show_result(result: LoadResult) -> None:
    """The load as a table artifact."""
    row = {
        "dataset": result.dataset,
        "window": str(result.window) if result.window else "by arrival",
        "rows": result.rows,
        "files": result.files,
        "repeats left out": result.repeats,
        "quarantined": ", ".join(result.quarantined) or "none",
    }
    create_table_artifact(key=f"load-{result.dataset.replace('_', '-')}", table=[row])


def show_table(key: str, rows: list[dict[str, Any]]) -> None:
    """Rows as a table artifact; without any, a line that says so."""
    create_table_artifact(key=key, table=rows or [{"": "nothing in this window"}])


def shown_progress(key: str, description: str | None = None) -> Callable[[float], None]:
    """A progress artifact, and what tells it how much is done, 0 to 1.

    Shown every other second, and at the end: a call of the server's for each step may take longer than the step.
    """
    artifact = cast("UUID", create_progress_artifact(0.0, key=key, description=description))  # no loop runs here
    shown = time.monotonic()

    def show(share: float) -> None:
        nonlocal shown
        if share >= 1 or time.monotonic() - shown >= _SHOWN_EVERY_S:
            update_progress_artifact(artifact, 100 * share)
            shown = time.monotonic()

    return show


def show_picture(key: str, png: bytes, description: str) -> None:
    """A PNG within a Markdown artifact: no file server is needed, and the UI shows it without its long address."""
    # The key stands for the picture's text: a description may hold brackets, which end it.
    picture = f"![{key}](data:image/png;base64,{base64.b64encode(png).decode()})"
    create_markdown_artifact(picture, key=key, description=description)
